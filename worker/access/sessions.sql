-- Sessions of the console, and sign-ins that failed.

-- name: for_update [postgresql]
-- If another transaction ends the person or removes their password, one of the two waits for the other.
FOR UPDATE

-- name: for_update [sqlite]

-- name: forget_failures
DELETE FROM console_failures WHERE since_ms <= :since_ms

-- name: count_failure
-- `forget_failures` first deletes failures older than WITHIN_MS. So `since_ms` stays the time of the first failure.
INSERT INTO console_failures (name, address, since_ms, failures) VALUES (:name, :address, :since_ms, 1)
ON CONFLICT (name, address) DO UPDATE SET failures = console_failures.failures + 1 RETURNING failures, since_ms

-- name: rehash
UPDATE console_users SET password = :rehashed WHERE name = :name AND password = :password

-- name: forgive
DELETE FROM console_failures WHERE address = :address AND name = :name

-- name: password
SELECT password FROM console_users WHERE name = :name AND ended_ms IS NULL

-- name: person
SELECT name, role, grant_limit_micro FROM console_users
WHERE name = :name AND password = :password AND ended_ms IS NULL {for_update}

-- name: linked_in_demo
SELECT name, role, grant_limit_micro FROM console_users WHERE link_sha256 = :link_sha256 AND :now_ms < link_expires_ms
    AND EXISTS (SELECT 1 FROM console_marks WHERE mark = 'demo') {for_update}

-- name: in_demo
EXISTS (SELECT 1 FROM console_marks m WHERE m.mark = 'demo') AS in_demo

-- name: named
SELECT name, role, grant_limit_micro, {in_demo} FROM console_users WHERE name = :name AND ended_ms IS NULL

-- name: proven
SELECT name, role, grant_limit_micro FROM console_users WHERE name = :name AND ended_ms IS NULL {for_update}

-- name: forget_sessions
DELETE FROM console_sessions WHERE began_ms <= :life_ms OR seen_ms <= :idle_ms

-- name: make_room
DELETE FROM console_sessions WHERE name = :name AND session_sha256 NOT IN (
    SELECT s.session_sha256 FROM console_sessions s WHERE s.name = :name
    ORDER BY s.seen_ms DESC, s.session_sha256 LIMIT :most)

-- name: insert
-- A browser that lost the response may repeat the request.
INSERT INTO console_sessions (session_sha256, name, began_ms, seen_ms) VALUES (:session_sha256, :name, :now_ms, :now_ms)
ON CONFLICT DO NOTHING

-- name: signed_in
UPDATE console_users SET signed_in_ms = :now_ms WHERE name = :name

-- name: find
SELECT u.name, u.role, u.grant_limit_micro, s.seen_ms, {in_demo} FROM console_sessions s
JOIN console_users u ON u.name = s.name
WHERE s.session_sha256 = :session_sha256 AND s.began_ms > :life_ms AND s.seen_ms > :idle_ms AND u.ended_ms IS NULL

-- name: note_use
UPDATE console_sessions SET seen_ms = :now_ms WHERE session_sha256 = :session_sha256 AND seen_ms <= :since_ms

-- name: end
DELETE FROM console_sessions WHERE session_sha256 = :session_sha256 RETURNING name
