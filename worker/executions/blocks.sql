-- The blocked projects and actions of an organisation.

-- name: blocked
SELECT 1 FROM run_blocks WHERE org_id = :org_id AND kind = :kind AND name = :name
