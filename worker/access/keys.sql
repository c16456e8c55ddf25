-- Keys of programs, by their hashes.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: find
SELECT key_sha256, name, scopes, org_id, used_ms, cell_id, source, expires_ms FROM api_keys
WHERE key_sha256 IN :proofs AND ended_ms IS NULL AND (expires_ms IS NULL OR :now_ms < expires_ms)

-- name: insert
-- Two that make, or rotate, keys of one name at once: one of them does.
INSERT INTO api_keys (key_sha256, name, scopes, org_id, cell_id, source, created_ms, expires_ms, actor, reason)
VALUES (:key_sha256, :name, :scopes, :org_id, :cell_id, :source, :created_ms, :expires_ms, :actor, :reason)
ON CONFLICT DO NOTHING RETURNING name

-- name: hold_name
-- A key stays in its table for good, so all who change keys of one name meet at the first. What one of them adds is not
-- seen by a statement that waited for it: the next one sees it.
SELECT key_sha256 FROM api_keys WHERE name = :name ORDER BY key_sha256 {for_update}

-- name: going
SELECT key_sha256, scopes, org_id, cell_id, source, created_ms, expires_ms, ended_ms FROM api_keys
WHERE name = :name AND rotated_ms IS NULL

-- name: supersede
UPDATE api_keys SET rotated_ms = :now_ms, expires_ms = :expires_ms WHERE key_sha256 = :key_sha256

-- name: end
UPDATE api_keys SET ended_ms = :now_ms WHERE name = :name AND ended_ms IS NULL RETURNING key_sha256

-- name: note_use
UPDATE api_keys SET used_ms = :now_ms WHERE key_sha256 = :key_sha256 AND (used_ms IS NULL OR used_ms <= :since_ms)
