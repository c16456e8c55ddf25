-- Forms of the console, each carried out once.

-- name: forget
DELETE FROM console_acts WHERE at_ms <= :since_ms

-- name: in_turn
SELECT pg_advisory_xact_lock(hashtextextended('console_acts', 0))

-- name: claim
-- Whoever sends the same form at the same moment waits here, and finds it done.
INSERT INTO console_acts (key, name, action, at_ms, answer, place) VALUES (:key, :name, :action, :now_ms, '', '')
ON CONFLICT DO NOTHING RETURNING key

-- name: keep
UPDATE console_acts SET answer = :said, place = :place WHERE key = :key

-- name: read
SELECT name, action, at_ms, answer, place FROM console_acts WHERE key = :key
