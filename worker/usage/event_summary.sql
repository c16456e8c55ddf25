-- What organisations used, for the public summary.

-- name: uses
-- Withdrawn events and those that cannot be billed do not count.
SELECT e.org_id, e.plan_key, e.event_type, e.ts - e.ts % 86400000 AS day_ms, COUNT(*) AS events,
    SUM(e.quantity) AS quantity
FROM usage_samples s JOIN usage_events e ON e.sample_id = s.id LEFT JOIN withdrawals w ON w.sample_id = e.sample_id
WHERE s.ts >= :from_ms AND s.ts < :to_ms AND s.memory_mb > {most_memory_mb} AND s.problem IS NULL AND w.sample_id IS NULL
GROUP BY 1, 2, 3, 4 LIMIT :at_most
