-- Forms of the console, each carried out once.

-- name: forget
DELETE FROM console_acts WHERE at_ms <= :since_ms

-- name: in_turn
-- A row, and no advisory lock: any login may take those, a host's too.
INSERT INTO console_acts (key, name, action, at_ms, answer, place) VALUES ('turn:' || :picture, :name, '', :now_ms, '', '')
ON CONFLICT (key) DO UPDATE SET at_ms = excluded.at_ms

-- name: claim
-- A second request with the same form waits here, and finds it done.
INSERT INTO console_acts (key, name, action, at_ms, answer, place) VALUES (:key, :name, :action, :now_ms, '', '')
ON CONFLICT DO NOTHING RETURNING key

-- name: keep
UPDATE console_acts SET answer = :said, place = :place WHERE key = :key

-- name: read
SELECT name, action, at_ms, answer, place FROM console_acts WHERE key = :key

-- Signatures of orders, each used once.

-- name: use
INSERT INTO used_signatures (signature_sha256, expires_ms) VALUES (:signature_sha256, :expires_ms)
ON CONFLICT (signature_sha256) DO NOTHING RETURNING expires_ms

-- name: forget_signatures
DELETE FROM used_signatures WHERE expires_ms < :now_ms
