-- Usage events into the database, each with its sample. The database fills a sample's `arrival` and `problem`.

-- name: floors
SELECT org_id, floor_ms FROM orgs WHERE org_id IN :orgs AND floor_ms > 0

-- name: sample_columns
id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at

-- name: event_columns
sample_id, source, event_id, event_type, org_id, quantity, ts, subject, project, plan_key, properties, ingested_ms

-- name: insert [postgresql]
-- One statement from arrays. An event decides whether it is new, by its organisation's key and by its claim alike. In the
-- order of keys, because two batches of the same events would otherwise wait for each other crosswise, however they are
-- sent. One that was withdrawn stays out, though it be pruned. The answer: those that did not go in. One that was `noted`
-- all the same: a sample took its id meanwhile.
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
-- Bound by place, a tuple a row.
INSERT INTO usage_samples ({sample_columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_events [sqlite]
INSERT INTO usage_events ({event_columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: billed
-- Who bills an organisation in a window, and what a meter makes there (S5): NULL where nobody, or nothing.
SELECT k.org_id, k.window_ms, k.meter, a.provider, {feature_of_meter} AS feature
FROM {rows :spots (org_id text, window_ms bigint, meter bigint)} k
LEFT JOIN assignments a ON a.org_id = k.org_id AND a.start_ms <= k.window_ms
    AND (a.end_ms IS NULL OR k.window_ms < a.end_ms)
