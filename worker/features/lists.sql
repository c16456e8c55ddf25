-- Memory sizes, event types and features.

-- name: unmapped_sizes
SELECT memory_mb, SUM(seconds) AS seconds, SUM(samples) AS samples, COUNT(DISTINCT org_id) AS orgs FROM pending_usage
WHERE reason IN {mapping_reasons} AND memory_mb <= {most_memory_mb} GROUP BY memory_mb ORDER BY memory_mb

-- name: unmapped_events
-- Pending usage of event types. `metric`: a metric that prevents the billing of this usage from its oldest window on.
SELECT q.event_type, q.units, q.events, q.orgs, (SELECT MIN(c.metric) FROM {charging} c
    WHERE c.counts = q.event_type AND c.end_ms > q.since_ms) AS metric
FROM (SELECT t.event_type, t.meter, SUM(p.seconds) AS units, SUM(p.samples) AS events, COUNT(DISTINCT p.org_id) AS orgs,
        MIN(p.window_ms) AS since_ms
    FROM pending_usage p JOIN event_types t ON t.meter = p.memory_mb
    WHERE p.reason IN {mapping_reasons} AND p.memory_mb > {most_memory_mb} GROUP BY t.event_type, t.meter) q
ORDER BY q.meter

-- name: event_types
SELECT event_type, meter FROM event_types

-- name: mapped_features
SELECT DISTINCT feature FROM mappings WHERE feature IS NOT NULL ORDER BY 1

-- name: unrated_features
SELECT DISTINCT m.feature FROM mappings m
WHERE m.feature IS NOT NULL AND NOT EXISTS (SELECT 1 FROM ledger_rates r WHERE r.feature = m.feature) ORDER BY 1

-- name: billed_features
SELECT a.provider, m.feature FROM (SELECT DISTINCT provider FROM assignments
    WHERE end_ms IS NULL AND provider NOT IN {unbilled}) a
CROSS JOIN (SELECT DISTINCT feature FROM mappings WHERE feature IS NOT NULL) m
ORDER BY a.provider, m.feature
