-- Sessions of organisations' users, and the links with which they signed in.

-- name: forget
DELETE FROM my_sessions WHERE began_ms <= :life_ms

-- name: make_room
UPDATE my_sessions SET ended_ms = CASE WHEN began_ms > :now_ms THEN began_ms ELSE :now_ms END
WHERE org_id = :org_id AND ended_ms IS NULL AND session_sha256 NOT IN (
    SELECT s.session_sha256 FROM my_sessions s WHERE s.org_id = :org_id AND s.ended_ms IS NULL
    ORDER BY s.began_ms DESC, s.session_sha256 LIMIT :most)

-- name: insert
-- If two people use the same link at once, one waits for the other here.
INSERT INTO my_sessions (session_sha256, link_sha256, org_id, person, began_ms)
VALUES (:session_sha256, :link_sha256, :org_id, :person, :now_ms) ON CONFLICT DO NOTHING RETURNING org_id

-- name: same
SELECT 1 FROM my_sessions WHERE session_sha256 = :session_sha256 AND link_sha256 = :link_sha256

-- name: find
SELECT org_id, person FROM my_sessions
WHERE session_sha256 = :session_sha256 AND began_ms > :life_ms AND ended_ms IS NULL

-- name: end
UPDATE my_sessions SET ended_ms = CASE WHEN began_ms > :now_ms THEN began_ms ELSE :now_ms END
WHERE session_sha256 = :session_sha256 AND ended_ms IS NULL
