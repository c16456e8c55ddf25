-- Incoming data: usage events by source and type, conflicts, and quarantined samples. Each query reads a bounded number
-- of rows by an index.

-- name: seen
-- The newest :counted events before a place in the order of arrival.
SELECT source, event_id, event_type, org_id, quantity, ts, ingested_ms, sample_id FROM usage_events
WHERE ingested_ms < :before_ms OR (ingested_ms = :before_ms AND sample_id < :before_id)
ORDER BY ingested_ms DESC, sample_id DESC LIMIT :counted

-- name: chosen
(:source = '' OR e.source = :source) AND (:event_type = '' OR e.event_type = :event_type)
    AND (:org_id = '' OR e.org_id = :org_id)

-- name: newest
SELECT e.source, e.event_id, e.event_type, e.org_id, e.quantity, e.ts, e.ingested_ms, e.sample_id,
    EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = e.sample_id) AS withdrawn
FROM ({seen}) e WHERE {chosen} ORDER BY e.ingested_ms DESC, e.sample_id DESC LIMIT :at_most

-- name: last_seen
-- The number of events that were read, and the oldest of them.
SELECT COUNT(*) OVER () AS events, e.ingested_ms, e.sample_id FROM ({seen}) e ORDER BY e.ingested_ms, e.sample_id LIMIT 1

-- name: by_source
SELECT e.source, e.event_type, COUNT(*) AS events, COUNT(DISTINCT e.org_id) AS orgs,
    SUM(CASE WHEN e.ingested_ms >= :since_ms THEN 1 ELSE 0 END) AS of_day, MIN(e.ingested_ms) AS first_ms,
    MAX(e.ingested_ms) AS last_ms
FROM ({seen}) e WHERE {chosen} GROUP BY e.source, e.event_type
ORDER BY events DESC, e.source, e.event_type LIMIT :at_most

-- name: conflicts
-- A host may write ids of megabytes, so this query cuts them.
SELECT c.conflict_id, SUBSTR(c.sample_id, 1, :chars) AS sample_id, SUBSTR(c.source, 1, :chars) AS source,
    SUBSTR(c.content, 1, :chars) AS content, c.seen_ms, e.source AS event_source, e.event_id, e.org_id,
    EXISTS (SELECT 1 FROM quarantine_closed q WHERE q.sample_id = c.sample_id AND q.at_ms >= c.seen_ms) AS closed
FROM sample_conflicts c LEFT JOIN usage_events e ON e.sample_id = c.sample_id
WHERE :before = 0 OR c.conflict_id < :before ORDER BY c.conflict_id DESC LIMIT :at_most

-- name: quarantined
-- Counts at most :counted invalid samples, as many late samples, and as many conflicts.
SELECT q.reason, COUNT(*) AS samples FROM (
    SELECT * FROM (SELECT s.problem AS reason FROM usage_samples s WHERE s.problem IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM quarantine_closed x WHERE x.sample_id = s.id) LIMIT :counted) a
    UNION ALL SELECT * FROM (SELECT 'below_floor' FROM late_quarantine l
        WHERE NOT EXISTS (SELECT 1 FROM quarantine_closed x WHERE x.sample_id = l.sample_id) LIMIT :counted) b
    UNION ALL SELECT * FROM (SELECT 'id_conflict' FROM sample_conflicts c WHERE NOT EXISTS (
        SELECT 1 FROM quarantine_closed x WHERE x.sample_id = c.sample_id AND x.at_ms >= c.seen_ms) LIMIT :counted) c
) q GROUP BY q.reason ORDER BY samples DESC, q.reason

-- name: pushes
SELECT key, window_ms, feature, revision, provider, sealed_qty, state FROM pushes
WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature ORDER BY revision LIMIT :at_most

-- name: entries
-- The ledger's entries of pushes. An entry has its push's key.
SELECT key, kind, from_account, to_account, amount_micro, ts, at_ms FROM ledger_entries
WHERE key IN :keys ORDER BY key LIMIT :at_most

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

-- The limits of event types.

-- name: short_of_types
-- The senders that have added as many types as they may, and the database if few types are left. Unused types do not
-- count.
SELECT kind, name, types FROM (
    SELECT 'database' AS kind, '' AS name, COUNT(*) AS types, CAST(:near AS BIGINT) AS most FROM {in_use} t
    UNION ALL SELECT 'organisation', org_id, COUNT(*), :most_org FROM {in_use} t WHERE org_id IS NOT NULL GROUP BY org_id
    UNION ALL SELECT 'key', key_name, COUNT(*), :most_key FROM {in_use} t WHERE key_name IS NOT NULL GROUP BY key_name
    UNION ALL SELECT 'source', source, COUNT(*), :most_source FROM {in_use} t WHERE source IS NOT NULL GROUP BY source
) brought WHERE types >= most ORDER BY kind, name LIMIT :at_most

-- name: in_use
(SELECT org_id, key_name, source FROM event_types WHERE freed_ms IS NULL)
