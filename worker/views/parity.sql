-- What the last checks of parity found.

-- name: figures
-- A line is of its day's last check where it was written with the whole cell's.
SELECT COALESCE(SUM(CASE WHEN p.verdict IN ('differs', 'only_here', 'only_there') THEN 1 ELSE 0 END), 0) AS differing,
    COALESCE(SUM(CASE WHEN p.verdict = 'unread' THEN 1 ELSE 0 END), 0) AS unread,
    (SELECT MAX(k.at_ms) FROM parity_checks k) AS checked_ms
FROM parity_checks w JOIN parity_checks p ON p.day_ms = w.day_ms AND p.cell_id = w.cell_id AND p.at_ms = w.at_ms
WHERE w.day_ms >= :since_ms AND w.org_id = ''
