-- Keys of programs.

-- name: list
SELECT name, scopes, org_id, cell_id, created_ms, expires_ms, rotated_ms, ended_ms, used_ms, actor, reason FROM api_keys
ORDER BY name, CASE WHEN rotated_ms IS NULL THEN 0 ELSE 1 END, created_ms DESC, key_sha256 LIMIT :at_most
