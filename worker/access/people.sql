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

-- People of the console.

-- name: users
SELECT u.name, u.role, u.grant_limit_micro, u.password IS NOT NULL AS has_password, u.created_ms, u.link_expires_ms,
    u.signed_in_ms, u.ended_ms, u.actor, u.reason,
    (SELECT COUNT(*) FROM console_sessions s WHERE s.name = u.name) AS sessions
FROM console_users u

-- name: named
{users} WHERE u.name = :name

-- name: list
{users} WHERE :after = '' OR (u.ended_ms IS NOT NULL AND :ended = 0) OR ((u.ended_ms IS NOT NULL) = (:ended = 1) AND u.name > :after)
ORDER BY CASE WHEN u.ended_ms IS NULL THEN 0 ELSE 1 END, u.name LIMIT :at_most

-- name: is_demo
SELECT 1 FROM console_marks WHERE mark = 'demo'
