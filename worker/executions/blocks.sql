-- What a person blocks.

-- name: block
INSERT INTO run_blocks (org_id, kind, name, at_ms, actor, reason)
VALUES (:org_id, :kind, :name, :at_ms, :actor, :reason) ON CONFLICT DO NOTHING RETURNING name

-- name: unblock
DELETE FROM run_blocks WHERE org_id = :org_id AND kind = :kind AND name = :name RETURNING name
