-- Keys of programs.

-- name: list
SELECT name, scopes, org_id, created_ms, expires_ms, rotated_ms, ended_ms, actor, reason FROM api_keys
ORDER BY name, created_ms DESC, key_sha256 LIMIT :at_most
