-- Usage that the guard charges for, and usage that the seal bills by the mapping.

-- name: charging_for
-- The times in which metrics that count one of these names have a price.
SELECT c.metric, c.counts, c.start_ms, c.end_ms FROM {charging} c WHERE c.counts IN :names

-- name: types
SELECT meter, event_type FROM event_types WHERE event_type IN :names

-- name: waiting
-- The number of organisations with unbilled usage of a meter without a feature, and the time of the oldest. It includes
-- pending usage, and usage that is not sealed because no seal has read it, its window is not over, or it is dirty. It
-- excludes usage that was withdrawn, is below a floor, or is never billed.
SELECT COUNT(DISTINCT k.org_id) AS orgs, MIN(k.window_ms) AS since_ms
FROM (
    SELECT p.org_id, p.window_ms, p.memory_mb AS meter FROM pending_usage p
    WHERE p.memory_mb = :meter AND p.seconds <> 0 AND NOT EXISTS (SELECT 1 FROM dirty_windows d
        WHERE d.org_id = p.org_id AND d.window_ms = p.window_ms)
    UNION ALL
    SELECT s.org_id, {window}, s.memory_mb FROM ({unsealed}) s LEFT JOIN orgs o ON o.org_id = s.org_id
    WHERE s.interval_s <> 0 AND s.ts >= COALESCE(o.floor_ms, 0)
        AND NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = s.id)
) k
WHERE {feature_of_meter} IS NULL AND NOT EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = k.org_id
    AND a.start_ms <= k.window_ms AND (a.end_ms IS NULL OR k.window_ms < a.end_ms) AND a.provider IN {unbilled})

-- name: window
s.ts - s.ts % {window_length_ms}

-- name: unsealed
-- The query uses the indexes by arrival (S2), by time, and by the windows of one organisation.
SELECT s.* FROM usage_samples s WHERE {of_the_meter} AND {unseen_by_some}
UNION SELECT s.* FROM usage_samples s WHERE {of_the_meter} AND s.ts >= (SELECT MIN(watermark_ms) FROM buckets)
UNION SELECT s.* FROM orgs h JOIN usage_samples s ON s.org_id = h.org_id AND s.ts >= h.held_watermark_ms
    WHERE {of_the_meter} AND h.held_watermark_ms IS NOT NULL
UNION SELECT s.* FROM dirty_windows d JOIN usage_samples s ON s.org_id = d.org_id AND s.ts >= d.window_ms
    AND s.ts < d.window_ms + {window_length_ms} WHERE {of_the_meter}

-- name: of_the_meter
s.memory_mb = :meter AND s.problem IS NULL
