-- API keys of programs, which are found by their hashes.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: find
SELECT key_sha256, name, scopes, org_id, used_ms, cell_id, source, gives_micro, expires_ms FROM api_keys
WHERE key_sha256 IN :proofs AND ended_ms IS NULL AND (expires_ms IS NULL OR :now_ms < expires_ms)

-- name: insert
-- If two calls create or rotate a key of one name at once, only one of them succeeds.
INSERT INTO api_keys (key_sha256, name, scopes, org_id, cell_id, source, gives_micro, created_ms, expires_ms, actor,
    reason)
VALUES (:key_sha256, :name, :scopes, :org_id, :cell_id, :source, :gives_micro, :created_ms, :expires_ms, :actor, :reason)
ON CONFLICT DO NOTHING RETURNING name

-- name: hold_name
-- Keys stay in their table for good, so the first key of a name serialises all changes of the name. A statement that
-- waited does not see a key that was added meanwhile, but the next statement sees it.
SELECT key_sha256 FROM api_keys WHERE name = :name ORDER BY key_sha256 {for_update}

-- name: going
SELECT key_sha256, scopes, org_id, cell_id, source, gives_micro, created_ms, expires_ms, ended_ms FROM api_keys
WHERE name = :name AND rotated_ms IS NULL

-- name: supersede
UPDATE api_keys SET rotated_ms = :now_ms, expires_ms = :expires_ms WHERE key_sha256 = :key_sha256

-- name: end
UPDATE api_keys SET ended_ms = :now_ms WHERE name = :name AND ended_ms IS NULL RETURNING key_sha256

-- name: note_use
UPDATE api_keys SET used_ms = :now_ms WHERE key_sha256 = :key_sha256 AND (used_ms IS NULL OR used_ms <= :since_ms)

-- Keys of programs.

-- name: list
SELECT name, scopes, org_id, cell_id, source, gives_micro, created_ms, expires_ms, rotated_ms, ended_ms, used_ms, actor, reason
FROM api_keys
ORDER BY name, CASE WHEN rotated_ms IS NULL THEN 0 ELSE 1 END, created_ms DESC, key_sha256 LIMIT :at_most

-- name: taken
-- A page of names, each with its newest key, and older keys that still work. Only this statement reads names of console
-- users, because not every login may read them.
SELECT k.name, k.scopes, k.org_id, k.cell_id, k.source, k.gives_micro, k.created_ms, k.expires_ms, k.rotated_ms, k.ended_ms, k.used_ms, k.actor,
    k.reason, EXISTS (SELECT 1 FROM console_users u WHERE 'console:' || u.name = k.actor AND u.ended_ms IS NOT NULL)
        AS maker_ended
FROM (SELECT name FROM api_keys WHERE rotated_ms IS NULL AND name > :after ORDER BY name LIMIT :at_most) n
JOIN api_keys k ON k.name = n.name
WHERE k.rotated_ms IS NULL OR (k.ended_ms IS NULL AND k.expires_ms > :now_ms)
ORDER BY k.name, CASE WHEN k.rotated_ms IS NULL THEN 0 ELSE 1 END, k.created_ms DESC, k.key_sha256

-- name: named
SELECT name, scopes, org_id, cell_id, source, gives_micro, created_ms, expires_ms, rotated_ms, ended_ms, used_ms, actor, reason
FROM api_keys
WHERE name = :name ORDER BY created_ms, CASE WHEN rotated_ms IS NULL THEN 1 ELSE 0 END, rotated_ms, key_sha256
