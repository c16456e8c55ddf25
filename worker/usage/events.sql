-- Usage events as they are stored.

-- name: event
SELECT e.source, e.event_id, e.event_type, e.org_id, e.quantity, e.ts, e.subject, e.project, e.plan_key, e.properties,
    e.ingested_ms, e.sample_id, w.reason AS withdrawn, (
        SELECT m.feature FROM mappings m WHERE m.memory_mb = s.memory_mb AND m.kind = 'exact'
            AND m.start_ms <= e.ts - e.ts % {window_length_ms}
        ORDER BY m.start_ms DESC, m.mapping_id DESC LIMIT 1) AS feature
FROM usage_samples s JOIN usage_events e ON e.sample_id = s.id LEFT JOIN withdrawals w ON w.sample_id = e.sample_id

-- name: list
{event} WHERE s.org_id = :org_id AND s.ts >= :from_ms AND s.ts < :to_ms AND s.memory_mb > {most_memory_mb}
    AND (s.ts > :from_ms OR s.id > :after_sample_id)
ORDER BY s.ts, s.id LIMIT :at_most

-- name: place
SELECT ts FROM usage_samples WHERE id = :sample_id AND org_id = :org_id

-- name: show
{event} WHERE s.id = :sample_id
