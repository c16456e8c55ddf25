-- Inserts and reads of usage events with their samples. The database fills a sample's `arrival` and `problem`.

-- name: floors
SELECT org_id, floor_ms FROM orgs WHERE org_id IN :orgs AND floor_ms > 0

-- name: sample_columns
id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at

-- name: event_columns
sample_id, source, event_id, event_type, org_id, quantity, ts, subject, project, plan_key, properties, ingested_ms

-- name: insert [postgresql]
-- One statement inserts events from arrays. An event is new if neither its organisation's key nor its claim exists. The
-- inserts are in the order of keys. Otherwise, two requests with the same events could deadlock. A withdrawn event is
-- not inserted, even if its sample was pruned. The statement returns the events without a new sample. If `noted` is set
-- for such an event, a concurrent sample used the event's id.
WITH incoming AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:sample_id AS text[]), CAST(:other_id AS text[]), CAST(:source AS text[]), CAST(:event_id AS text[]),
        CAST(:event_type AS text[]), CAST(:org_id AS text[]), CAST(:quantity AS bigint[]), CAST(:ts AS bigint[]),
        CAST(:subject AS text[]), CAST(:project AS text[]), CAST(:plan_key AS text[]), CAST(:properties AS text[]),
        CAST(:meter AS bigint[]), CAST(:sandbox_id AS text[])
    ) AS i (sample_id, other_id, source, event_id, event_type, org_id, quantity, ts, subject, project, plan_key,
        properties, meter, sandbox_id)
),
noted AS (
    INSERT INTO usage_events ({event_columns})
    SELECT sample_id, source, event_id, event_type, org_id, quantity, ts, subject, project, plan_key, properties,
        :now_ms FROM incoming i
    WHERE NOT EXISTS ({was_withdrawn} {by_its_key})
        AND NOT EXISTS (SELECT 1 FROM usage_samples s WHERE s.id = i.sample_id {by_its_key})
    ORDER BY source COLLATE "C", event_id COLLATE "C", org_id COLLATE "C"
    ON CONFLICT DO NOTHING RETURNING sample_id
),
taken AS (
    INSERT INTO usage_samples ({sample_columns})
    SELECT i.sample_id, i.org_id, i.sandbox_id, :cell_id, i.meter, i.quantity, i.ts, :now_ms
    FROM incoming i JOIN noted n ON n.sample_id = i.sample_id
    ORDER BY i.sample_id COLLATE "C" ON CONFLICT (id) DO NOTHING RETURNING id
)
SELECT i.sample_id, n.sample_id AS noted FROM incoming i LEFT JOIN noted n ON n.sample_id = i.sample_id
LEFT JOIN taken t ON t.id = i.sample_id WHERE t.id IS NULL

-- name: insert_samples [sqlite]
-- The parameters are positional, with a tuple for each row.
INSERT INTO usage_samples ({sample_columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_events [sqlite]
INSERT INTO usage_events ({event_columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: billed
-- The provider of an organisation in a window, and the feature of a meter there (S5). NULL: no provider, or no feature.
SELECT k.org_id, k.window_ms, k.meter, a.provider, {feature_of_meter} AS feature
FROM {rows :spots (org_id text, window_ms bigint, meter bigint)} k
LEFT JOIN assignments a ON a.org_id = k.org_id AND a.start_ms <= k.window_ms
    AND (a.end_ms IS NULL OR k.window_ms < a.end_ms)

-- The stored content of the keys of events.

-- name: keys
{rows :keys (sample_id text, other_id text, source text, event_id text, org_id text)}

-- name: stored
-- Stored events by their claim of source and id (place 0), and by the organisation's own key (place 1).
WITH asked AS MATERIALIZED (SELECT * FROM {keys} k)
SELECT q.name, q.asker, q.place, q.sample_id, q.event_type, q.org_id, q.quantity, q.ts, q.subject, q.project, q.plan_key,
    q.properties, CASE WHEN w.sample_id IS NULL THEN 0 ELSE 1 END AS withdrawn
FROM (SELECT k.sample_id AS name, k.org_id AS asker, 0 AS place, e.* FROM asked k JOIN usage_events e ON e.sample_id = k.sample_id
    UNION ALL SELECT k.sample_id, k.org_id, 1, e.* FROM asked k JOIN usage_events e ON e.source = k.source
        AND e.event_id = k.event_id AND e.org_id = k.org_id) q
LEFT JOIN withdrawals w ON w.sample_id = q.sample_id
ORDER BY q.place

-- name: withdrawn
WITH asked AS MATERIALIZED (SELECT * FROM {keys} k)
SELECT i.sample_id FROM asked i WHERE EXISTS ({was_withdrawn})

-- name: not_new
-- On SQLite, this query runs before the insert, because SQLite has one writer at a time.
WITH asked AS MATERIALIZED (SELECT * FROM {keys} k)
SELECT i.sample_id FROM asked i WHERE EXISTS ({was_withdrawn})
    OR EXISTS (SELECT 1 FROM usage_samples s WHERE s.id = i.sample_id)
    OR EXISTS (SELECT 1 FROM usage_events e WHERE e.source = i.source AND e.event_id = i.event_id
        AND e.org_id = i.org_id)

-- Events by their keys, and events with keys similar to a mistyped key.

-- name: of_keys
SELECT event_id, org_id, sample_id FROM usage_events
WHERE source = :source AND event_id IN :event_ids AND (:org_id = '' OR org_id = :org_id) ORDER BY org_id

-- name: is_source
SELECT 1 FROM usage_events WHERE source = :source LIMIT 1

-- name: sources
SELECT DISTINCT source FROM (SELECT source FROM usage_events LIMIT :scanned) e ORDER BY 1 LIMIT :at_most

-- name: alike
-- Events with ids that share the beginning or the end of the given id.
SELECT event_id FROM (SELECT source, event_id FROM usage_events LIMIT :scanned) e
WHERE source = :source AND (event_id LIKE :head ESCAPE '!' OR event_id LIKE :tail ESCAPE '!') LIMIT :at_most
