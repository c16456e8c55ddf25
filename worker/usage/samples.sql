-- Samples as they are stored.

-- name: list
SELECT s.id AS sample_id, s.org_id, s.sandbox_id,
    CASE WHEN w.sample_id IS NULL THEN NULL ELSE 'withdrawn' END AS reason,
    s.ts, s.memory_mb, s.interval_s, s.ingested_at AS came_ms, t.event_type
FROM usage_samples s LEFT JOIN withdrawals w ON w.sample_id = s.id LEFT JOIN event_types t ON t.meter = s.memory_mb
WHERE s.org_id = :org_id AND s.ts >= :from_ms AND s.ts < :to_ms AND s.problem IS NULL
ORDER BY s.ts, s.id LIMIT :at_most
