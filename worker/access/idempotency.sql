-- Forms of the console and calls of programs, each done once.

-- name: forget
DELETE FROM console_acts WHERE at_ms <= :since_ms

-- name: in_turn
-- Lock a row, and not an advisory lock, because any login can take an advisory lock, even a host's.
INSERT INTO console_acts (key, name, action, at_ms, answer, place) VALUES ('turn:' || :picture, :name, '', :now_ms, '', '')
ON CONFLICT (key) DO UPDATE SET at_ms = excluded.at_ms

-- name: claim
-- A second request with the same form waits here, and then finds the row of the first request.
INSERT INTO console_acts (key, name, action, at_ms, answer, place) VALUES (:key, :name, :action, :now_ms, '', '')
ON CONFLICT DO NOTHING RETURNING key

-- name: keep
UPDATE console_acts SET answer = :said, place = :place WHERE key = :key

-- name: read
SELECT name, action, at_ms, answer, place FROM console_acts WHERE key = :key

-- Signatures of requests, each used once.

-- name: use
INSERT INTO used_signatures (signature_sha256, expires_ms) VALUES (:signature_sha256, :expires_ms)
ON CONFLICT (signature_sha256) DO NOTHING RETURNING expires_ms

-- name: forget_signatures
DELETE FROM used_signatures WHERE expires_ms < :now_ms
