-- Usage that a person is about to withdraw.

-- name: between_ids
(SELECT id AS sample_id FROM usage_samples WHERE id > :first_id AND id < :beyond_id)

-- name: of_that
(SELECT sample_id FROM backfill_events WHERE backfill = :backfill)

-- name: these_samples
{rows :samples (sample_id text)}

-- name: those
-- The chosen samples that are in force. Windows below a floor are closed for good.
{chosen} c JOIN usage_samples s ON s.id = c.sample_id LEFT JOIN orgs o ON o.org_id = s.org_id
WHERE s.problem IS NULL AND s.ts >= COALESCE(o.floor_ms, 0)
    AND NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = s.id)

-- name: span
SELECT COUNT(*) AS samples, COUNT(DISTINCT s.org_id) AS orgs, MIN(s.ts) AS from_ms, MAX(s.ts) AS to_ms FROM {those}

-- name: whose
SELECT DISTINCT s.org_id FROM {those} ORDER BY s.org_id LIMIT :at_most

-- name: used_sizes
-- The usage, with the providers that bill its windows.
SELECT a.provider, u.memory_mb, u.window_ms, CAST(SUM(u.interval_s) AS BIGINT) AS seconds
FROM (SELECT s.org_id, s.memory_mb, s.interval_s, s.ts - s.ts % {window_length_ms} AS window_ms FROM {those}) u
JOIN assignments a ON a.org_id = u.org_id AND a.start_ms <= u.window_ms
    AND (a.end_ms IS NULL OR u.window_ms < a.end_ms)
WHERE a.provider NOT IN ('legacy', 'none') GROUP BY a.provider, u.memory_mb, u.window_ms
