-- Keys of programs.

-- name: list
SELECT name, scopes, org_id, cell_id, source, created_ms, expires_ms, rotated_ms, ended_ms, used_ms, actor, reason
FROM api_keys
ORDER BY name, CASE WHEN rotated_ms IS NULL THEN 0 ELSE 1 END, created_ms DESC, key_sha256 LIMIT :at_most

-- name: taken
-- A page of names, each with the key that goes on, and those that are taken beside it still. The names of people are
-- not for every login: no other statement here reads them.
SELECT k.name, k.scopes, k.org_id, k.cell_id, k.source, k.created_ms, k.expires_ms, k.rotated_ms, k.ended_ms, k.used_ms, k.actor,
    k.reason, EXISTS (SELECT 1 FROM console_users u WHERE 'console:' || u.name = k.actor AND u.ended_ms IS NOT NULL)
        AS maker_ended
FROM (SELECT name FROM api_keys WHERE rotated_ms IS NULL AND name > :after ORDER BY name LIMIT :at_most) n
JOIN api_keys k ON k.name = n.name
WHERE k.rotated_ms IS NULL OR (k.ended_ms IS NULL AND k.expires_ms > :now_ms)
ORDER BY k.name, CASE WHEN k.rotated_ms IS NULL THEN 0 ELSE 1 END, k.created_ms DESC, k.key_sha256

-- name: named
SELECT name, scopes, org_id, cell_id, source, created_ms, expires_ms, rotated_ms, ended_ms, used_ms, actor, reason
FROM api_keys
WHERE name = :name ORDER BY created_ms, CASE WHEN rotated_ms IS NULL THEN 1 ELSE 0 END, rotated_ms, key_sha256
