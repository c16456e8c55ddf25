-- Results of the last checks of parity.

-- name: figures
-- A line belongs to the last check of its day if it has the time of the whole cell's line.
SELECT COALESCE(SUM(CASE WHEN p.verdict IN ('differs', 'only_here', 'only_there') THEN 1 ELSE 0 END), 0) AS differing,
    COALESCE(SUM(CASE WHEN p.verdict = 'unread' THEN 1 ELSE 0 END), 0) AS unread,
    (SELECT MAX(k.at_ms) FROM parity_checks k) AS checked_ms
FROM parity_checks w JOIN parity_checks p ON p.day_ms = w.day_ms AND p.cell_id = w.cell_id AND p.at_ms = w.at_ms
WHERE w.day_ms >= :since_ms AND w.org_id = ''

-- name: cells
-- The days of whole cells, by their last checks.
SELECT p.day_ms, p.cell_id, p.org_id, p.ours_s, p.theirs_s, p.withdrawn_s, p.off_s, p.ppm, p.verdict, p.at_ms
FROM parity_checks p WHERE p.day_ms >= :since_ms AND {is_told} AND p.org_id = ''
ORDER BY p.day_ms DESC, p.cell_id LIMIT :at_most

-- name: found
-- Lines of the last check of their cell's day that differ or are unknown.
SELECT p.day_ms, p.cell_id, p.org_id, p.ours_s, p.theirs_s, p.withdrawn_s, p.off_s, p.ppm, p.verdict, p.at_ms
FROM parity_checks p JOIN parity_checks w ON w.day_ms = p.day_ms AND w.cell_id = p.cell_id AND w.org_id = ''
    AND w.at_ms = p.at_ms
WHERE p.day_ms >= :since_ms AND {is_told} AND p.verdict <> 'compared'
ORDER BY p.day_ms DESC, p.cell_id, p.org_id LIMIT :at_most

-- name: is_told
-- This repeats the condition of the index (all verdicts except `equal`), because SQLite does not infer it.
p.verdict IN ('compared', 'differs', 'only_here', 'only_there', 'unread', 'pruned')
