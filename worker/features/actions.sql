-- The mapping from memory sizes and event types to features, and the pending usage that it resolves (S5).

-- name: sealed_to
SELECT MAX(watermark_ms) FROM (SELECT MAX(watermark_ms) AS watermark_ms FROM buckets
UNION ALL SELECT MAX(held_watermark_ms) FROM orgs) x

-- name: insert_mapping
INSERT INTO mappings (kind, memory_mb, feature, unit, start_ms, at_ms, actor, reason)
VALUES (:kind, :memory_mb, :feature, :unit, :start_ms, :at_ms, :actor, :reason)

-- name: event_type
SELECT event_type FROM event_types WHERE meter = :meter

-- name: pending_sizes
SELECT DISTINCT memory_mb FROM pending_usage WHERE reason IN {mapping_reasons} AND window_ms >= :start_ms

-- name: filled
pending_usage WHERE reason IN {mapping_reasons} AND memory_mb = :memory_mb AND window_ms >= :from_ms AND window_ms < :to_ms

-- name: count_filled
SELECT COALESCE(SUM(seconds), 0) AS seconds, COUNT(*) AS windows FROM {filled}
