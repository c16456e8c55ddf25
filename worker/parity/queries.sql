-- Our side of parity: use by samples, by day, cell and organisation; and the stored lines.

-- name: ours
-- Seconds of the samples of one day by organisation and size, in force and withdrawn. Usage without a sandbox
-- (executions at a provider, events) does not come from a cell. `of_cell`: one cell, or all cells.
SELECT s.org_id, s.memory_mb,
    CAST(SUM(CASE WHEN w.sample_id IS NULL THEN s.interval_s ELSE 0 END) AS BIGINT) AS used,
    CAST(SUM(CASE WHEN w.sample_id IS NULL THEN 0 ELSE s.interval_s END) AS BIGINT) AS withdrawn
FROM usage_samples s LEFT JOIN withdrawals w ON w.sample_id = s.id
WHERE s.ts >= :from_ms AND s.ts < :to_ms AND s.problem IS NULL AND s.memory_mb <= :largest_mb AND {of_cell}
GROUP BY s.org_id, s.memory_mb

-- name: every_cell
s.cell_id <> :made_cell

-- name: one_cell
s.cell_id = :cell_id

-- name: pruned
-- Organisations that may lack samples of a day, because their floor is above its start.
SELECT org_id FROM orgs WHERE floor_ms > :from_ms

-- name: cells
SELECT cell_id, url FROM cells ORDER BY cell_id

-- name: first_checks
-- The first checked day of each registered cell.
SELECT p.cell_id, MIN(p.day_ms) AS first_ms FROM parity_checks p
WHERE p.org_id = '' AND p.verdict IN ('compared', 'unread') AND p.cell_id IN (SELECT c.cell_id FROM cells c)
GROUP BY p.cell_id

-- name: compared
SELECT p.cell_id, p.day_ms FROM parity_checks p
WHERE p.day_ms >= :first_ms AND p.day_ms < :to_ms AND p.org_id = '' AND p.verdict = 'compared'

-- name: strangers
-- Unregistered cells in samples of these days.
SELECT DISTINCT s.cell_id FROM usage_samples s
WHERE s.ts >= :from_ms AND s.ts < :to_ms AND s.problem IS NULL AND s.memory_mb <= :largest_mb
    AND s.cell_id <> :made_cell AND s.cell_id NOT IN (SELECT c.cell_id FROM cells c)
ORDER BY 1 LIMIT :at_most

-- name: quarantined
-- Quarantined samples of a day, by organisation. Such samples often explain a difference.
SELECT s.org_id, COUNT(*) AS samples FROM usage_samples s
WHERE s.problem IS NOT NULL AND s.ts >= :from_ms AND s.ts < :to_ms AND s.org_id IS NOT NULL AND {of_cell}
GROUP BY s.org_id

-- name: keep
-- A line counts if it has the time of its cell's own line, which has an empty organisation. If both sides no longer
-- name an organisation, its line of an earlier check stays, and does not count.
INSERT INTO parity_checks (day_ms, cell_id, org_id, ours_s, theirs_s, withdrawn_s, off_s, ppm, verdict, at_ms)
VALUES (:day_ms, :cell_id, :org_id, :ours_s, :theirs_s, :withdrawn_s, :off_s, :ppm, :verdict, :at_ms)
ON CONFLICT (day_ms, cell_id, org_id) DO UPDATE SET ours_s = excluded.ours_s, theirs_s = excluded.theirs_s,
    withdrawn_s = excluded.withdrawn_s, off_s = excluded.off_s, ppm = excluded.ppm, verdict = excluded.verdict,
    at_ms = excluded.at_ms
WHERE excluded.at_ms >= parity_checks.at_ms
