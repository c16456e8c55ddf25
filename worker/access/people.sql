-- People of the console.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: insert
INSERT INTO console_users (name, role, grant_limit_micro, link_sha256, link_expires_ms, created_ms, actor, reason)
VALUES (:name, :role, :grant_limit_micro, :link_sha256, :link_expires_ms, :created_ms, :actor, :reason)
ON CONFLICT DO NOTHING RETURNING name

-- name: hold
SELECT name, role, grant_limit_micro, ended_ms FROM console_users WHERE name = :name {for_update}

-- name: set_role
UPDATE console_users SET role = :role, grant_limit_micro = :grant_limit_micro WHERE name = :name

-- name: reset
UPDATE console_users SET password = NULL, link_sha256 = :link_sha256, link_expires_ms = :link_expires_ms
WHERE name = :name

-- name: end
UPDATE console_users SET ended_ms = :now_ms, password = NULL, link_sha256 = NULL, link_expires_ms = NULL
WHERE name = :name

-- name: sign_out
DELETE FROM console_sessions WHERE name = :name

-- name: set_password
UPDATE console_users SET password = :password, link_sha256 = NULL, link_expires_ms = NULL
WHERE link_sha256 = :link_sha256 AND :now_ms < link_expires_ms RETURNING name, role, grant_limit_micro

-- name: linked
SELECT name FROM console_users WHERE link_sha256 = :link_sha256 AND :now_ms < link_expires_ms

-- name: mark_demo
INSERT INTO console_marks (mark, at_ms) VALUES ('demo', :now_ms) ON CONFLICT DO NOTHING
