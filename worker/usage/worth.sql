-- Usage that a person is about to correct: quantities by provider, feature and window.

-- name: used
SELECT a.provider, u.feature, u.window_ms, CAST(SUM(u.quantity) AS BIGINT) AS qty
FROM (SELECT e.org_id, e.quantity, e.ts - e.ts % {window_length_ms} AS window_ms, (
        SELECT m.feature FROM mappings m WHERE m.memory_mb = s.memory_mb AND m.kind = 'exact'
            AND m.start_ms <= e.ts - e.ts % {window_length_ms}
        ORDER BY m.start_ms DESC, m.mapping_id DESC LIMIT 1) AS feature
    FROM {chosen} c JOIN usage_events e ON e.sample_id = c.sample_id JOIN usage_samples s ON s.id = e.sample_id
    WHERE NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = e.sample_id)) u
JOIN assignments a ON a.org_id = u.org_id AND a.start_ms <= u.window_ms
    AND (a.end_ms IS NULL OR u.window_ms < a.end_ms)
WHERE u.feature IS NOT NULL AND a.provider NOT IN ('legacy', 'none') GROUP BY a.provider, u.feature, u.window_ms

-- name: these
{rows :samples (sample_id text)}

-- name: of_that
(SELECT sample_id FROM backfill_events WHERE backfill = :backfill)
