-- Cells, as people look at them.

-- name: list
SELECT c.cell_id, c.url,
    (SELECT COUNT(*) FROM sandboxes s WHERE s.cell_id = c.cell_id AND s.state = 'running') AS running,
    (SELECT COUNT(*) FROM halts h WHERE h.cell_id = c.cell_id AND h.due_at_ms IS NOT NULL) AS halts_due
FROM cells c ORDER BY c.cell_id

-- name: running_of
SELECT cell_id, COUNT(*) AS running FROM sandboxes WHERE org_id IN :org_ids AND state = 'running'
GROUP BY cell_id ORDER BY cell_id

-- name: any_sandbox
SELECT EXISTS (SELECT 1 FROM sandboxes)

-- name: without_url
SELECT DISTINCT cell_id FROM sandboxes
WHERE state <> 'stopped' AND cell_id NOT IN (SELECT cell_id FROM cells) ORDER BY 1
