-- Runs: whose verdict they may change, and what a person blocks.

-- name: any_changed
-- Organisations that are halted, or whose wallet lost a tier just now.
SELECT 1 FROM orgs WHERE org_id IN :orgs AND is_halted
UNION ALL SELECT 1 FROM tier_holders WHERE customer_id = :customer_id AND ended_ms = :now_ms LIMIT 1

-- name: block
INSERT INTO run_blocks (org_id, kind, name, at_ms, actor, reason)
VALUES (:org_id, :kind, :name, :at_ms, :actor, :reason) ON CONFLICT DO NOTHING RETURNING name

-- name: unblock
DELETE FROM run_blocks WHERE org_id = :org_id AND kind = :kind AND name = :name RETURNING name
