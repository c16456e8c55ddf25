-- Usage events into the database, each with its sample. The database fills a sample's `arrival` and `problem`.

-- name: floors
SELECT org_id, floor_ms FROM orgs WHERE org_id IN :orgs AND floor_ms > 0

-- name: sample_columns
id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at

-- name: event_columns
sample_id, source, event_id, event_type, org_id, quantity, ts, subject, project, plan_key, properties, ingested_ms

-- name: insert [postgresql]
-- One statement from arrays. In the order of ids, because two batches of the same events would otherwise wait for each
-- other crosswise. A sample decides whether its event is new; one whose id was withdrawn stays out, though it be pruned.
WITH incoming AS MATERIALIZED (
    SELECT * FROM unnest(
        CAST(:sample_id AS text[]), CAST(:source AS text[]), CAST(:event_id AS text[]), CAST(:event_type AS text[]),
        CAST(:org_id AS text[]), CAST(:quantity AS bigint[]), CAST(:ts AS bigint[]), CAST(:subject AS text[]),
        CAST(:project AS text[]), CAST(:plan_key AS text[]), CAST(:properties AS text[]), CAST(:meter AS bigint[]),
        CAST(:sandbox_id AS text[])
    ) AS i (sample_id, source, event_id, event_type, org_id, quantity, ts, subject, project, plan_key, properties,
        meter, sandbox_id)
),
taken AS (
    INSERT INTO usage_samples ({sample_columns})
    SELECT sample_id, org_id, sandbox_id, :cell_id, meter, quantity, ts, :now_ms FROM incoming i
    WHERE NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = i.sample_id)
    ORDER BY sample_id COLLATE "C" ON CONFLICT (id) DO NOTHING RETURNING id
),
noted AS (
    INSERT INTO usage_events ({event_columns})
    SELECT sample_id, source, event_id, event_type, org_id, quantity, ts, subject, project, plan_key, properties,
        :now_ms FROM incoming i JOIN taken t ON t.id = i.sample_id
    ON CONFLICT DO NOTHING
)
SELECT id FROM taken

-- name: not_new [sqlite]
-- Looked up before, as nobody else writes meanwhile.
SELECT id FROM usage_samples WHERE id IN :sample_ids
UNION SELECT sample_id FROM withdrawals WHERE sample_id IN :sample_ids

-- name: insert_samples [sqlite]
-- Bound by place, a tuple a row.
INSERT INTO usage_samples ({sample_columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_events [sqlite]
INSERT INTO usage_events ({event_columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: stored
SELECT e.sample_id, e.event_type, e.org_id, e.quantity, e.ts, e.subject, e.project, e.plan_key, e.properties,
    CASE WHEN w.sample_id IS NULL THEN 0 ELSE 1 END AS withdrawn
FROM usage_events e LEFT JOIN withdrawals w ON w.sample_id = e.sample_id WHERE e.sample_id IN :sample_ids

-- name: withdrawn
SELECT sample_id FROM withdrawals WHERE sample_id IN :sample_ids

-- name: billed
-- Who bills an organisation in a window, and what a meter makes there (S5): NULL where nobody, or nothing.
SELECT k.org_id, k.window_ms, k.meter, a.provider, {feature_of_meter} AS feature
FROM {rows :spots (org_id text, window_ms bigint, meter bigint)} k
LEFT JOIN assignments a ON a.org_id = k.org_id AND a.start_ms <= k.window_ms
    AND (a.end_ms IS NULL OR k.window_ms < a.end_ms)
