-- What refuses a run.

-- name: blocks
-- The project before the action.
SELECT kind, name, reason FROM run_blocks WHERE org_id = :org_id
    AND ((kind = 'project' AND name = :project) OR (kind = 'action' AND name = :action))
ORDER BY kind DESC LIMIT 1

-- name: of_others
SELECT sandbox_id FROM sandboxes WHERE sandbox_id IN :names AND org_id <> :org_id ORDER BY 1 LIMIT 1
