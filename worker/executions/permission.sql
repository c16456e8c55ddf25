-- The facts that decide whether Drawdown refuses an execution.

-- name: blocks
-- The block of the project comes before that of the action.
SELECT kind, name, reason FROM run_blocks WHERE org_id = :org_id
    AND ((kind = 'project' AND name = :project) OR (kind = 'action' AND name = :action))
ORDER BY kind DESC LIMIT 1

-- name: of_others
SELECT sandbox_id FROM sandboxes WHERE sandbox_id IN :names AND org_id <> :org_id ORDER BY 1 LIMIT 1

-- The organisation that requests an execution.

-- name: asker
-- The provider that bills an organisation now, and whether the organisation is halted or stopped. The result is one
-- row, even if the organisation is unknown.
SELECT a.provider, a.customer_id, o.is_halted, o.halt_reason, o.stopped_at_ms
FROM (SELECT 1 AS one) q LEFT JOIN orgs o ON o.org_id = :org_id
    LEFT JOIN assignments a ON a.org_id = :org_id AND a.start_ms <= :now_ms
        AND (a.end_ms IS NULL OR :now_ms < a.end_ms)

-- Blocks that a person sets.

-- name: block
INSERT INTO run_blocks (org_id, kind, name, at_ms, actor, reason)
VALUES (:org_id, :kind, :name, :at_ms, :actor, :reason) ON CONFLICT DO NOTHING RETURNING name

-- name: unblock
DELETE FROM run_blocks WHERE org_id = :org_id AND kind = :kind AND name = :name RETURNING name
