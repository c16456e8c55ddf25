-- What waits, and is billed by nobody yet.

-- name: reasons
SELECT reason, {seconds_and_units}, COUNT(DISTINCT org_id) AS orgs, MIN(window_ms) AS since_ms FROM pending_usage
WHERE seconds <> 0 GROUP BY reason ORDER BY reason

-- name: orgs
-- By the index on organisation: each is summed up as it is met.
SELECT org_id, reason, {seconds_and_units}, SUM(samples) AS samples, COUNT(DISTINCT memory_mb) AS sizes,
    MIN(window_ms) AS since_ms
FROM pending_usage WHERE org_id > :after AND seconds <> 0 AND (:reason = '' OR reason = :reason)
GROUP BY org_id, reason ORDER BY org_id, reason LIMIT :at_most

-- name: windows
SELECT (SELECT COUNT(*) FROM dirty_windows) AS dirty, (SELECT COUNT(*) FROM late_quarantine l WHERE NOT EXISTS (
        SELECT 1 FROM quarantine_closed q WHERE q.sample_id = l.sample_id)) AS late,
    (SELECT COUNT(*) FROM usage_samples WHERE ts > :ahead_ms AND problem IS NULL) AS ahead
