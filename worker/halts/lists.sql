-- Halts for cells.

-- name: columns
h.org_id, h.cell_id, h.halted_at, h.due_at_ms, h.acked_at_ms, h.attempts, h.ignored, h.ignored_since_ms, h.last_error,
    EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = h.org_id AND o.operator_halt AND o.halted_at = h.halted_at)
    AS by_operator

-- name: due
-- Due halts, by their index, in the order of their next attempt.
SELECT {columns} FROM halts h WHERE h.due_at_ms IS NOT NULL AND (:org_id = '' OR h.org_id = :org_id)
    AND (:cell_id = '' OR h.cell_id = :cell_id)
    AND (h.due_at_ms, h.org_id, h.cell_id, h.halted_at) > (:at_ms, :after_org_id, :after_cell_id, :after_halted_at)
ORDER BY h.due_at_ms, h.org_id, h.cell_id, h.halted_at LIMIT :at_most

-- name: told
-- Halts by the index on time, the newest first.
SELECT {columns} FROM halts h WHERE (:org_id = '' OR h.org_id = :org_id) AND (:cell_id = '' OR h.cell_id = :cell_id)
    AND h.halted_at <= :after_halted_at
    AND (h.halted_at < :after_halted_at OR (h.org_id, h.cell_id) > (:after_org_id, :after_cell_id))
ORDER BY h.halted_at DESC, h.org_id, h.cell_id LIMIT :at_most

-- name: figures
SELECT COUNT(*) AS due, MIN(halted_at) AS since_ms, MAX(attempts) AS most_tries, COUNT(DISTINCT cell_id) AS cells
FROM halts WHERE due_at_ms IS NOT NULL

-- name: cells
SELECT c.cell_id, c.url, COALESCE(s.running, 0) AS running, COALESCE(d.due, 0) AS halts_due, d.since_ms, d.tries, d.error
FROM cells c
LEFT JOIN (SELECT cell_id, COUNT(*) AS running FROM sandboxes WHERE state = 'running' GROUP BY cell_id) s
    ON s.cell_id = c.cell_id
LEFT JOIN (SELECT cell_id, COUNT(*) AS due, MIN(halted_at) AS since_ms, MAX(attempts) AS tries, MAX(last_error) AS error
    FROM halts WHERE due_at_ms IS NOT NULL GROUP BY cell_id) d ON d.cell_id = c.cell_id
ORDER BY c.cell_id LIMIT :at_most

-- name: without_url
SELECT cell_id, COUNT(*) AS running FROM sandboxes
WHERE state = 'running' AND NOT EXISTS (SELECT 1 FROM cells c WHERE c.cell_id = sandboxes.cell_id)
GROUP BY cell_id ORDER BY cell_id LIMIT :at_most

-- Cells, with the figures of their due halts.

-- name: list
SELECT c.cell_id, c.url,
    (SELECT COUNT(*) FROM sandboxes s WHERE s.cell_id = c.cell_id AND s.state = 'running') AS running,
    (SELECT COUNT(*) FROM halts h WHERE h.cell_id = c.cell_id AND h.due_at_ms IS NOT NULL) AS halts_due
FROM cells c ORDER BY c.cell_id

-- name: running_of
-- The cells are those for which the triggers add halts.
SELECT cell_id, COUNT(CASE WHEN state = 'running' THEN 1 END) AS running FROM sandboxes
WHERE org_id IN :org_ids AND state <> 'stopped'
GROUP BY cell_id ORDER BY cell_id

-- name: any_sandbox
SELECT EXISTS (SELECT 1 FROM sandboxes)

-- name: cells_without_url
SELECT DISTINCT cell_id FROM sandboxes
WHERE state <> 'stopped' AND cell_id NOT IN (SELECT cell_id FROM cells) ORDER BY 1
