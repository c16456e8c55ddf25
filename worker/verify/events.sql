-- Usage events and the samples that bill them (invariant 9).

-- name: chosen
(SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN {chosen}

-- name: proven_samples
usage_samples

-- name: samples_since
-- In a continued run, the samples from its point on.
(SELECT * FROM usage_samples WHERE ts >= :since_ms)

-- name: proven_events
usage_events

-- name: events_since
-- Events that arrived before the point are proven for any date, because events do not change (S7).
(SELECT * FROM usage_events WHERE ingested_ms >= :since_ms)

-- name: sampleless
-- A sample below the floor may be deleted, together with its event.
SELECT 'event_without_sample' AS what, e.org_id, e.ts - e.ts % {window_length_ms} AS window_ms, CAST(NULL AS TEXT) AS feature,
    e.source, e.event_id
FROM {proven_events} e LEFT JOIN usage_samples s ON s.id = e.sample_id WHERE s.id IS NULL

-- name: event_otherwise
-- Before U+FFFE and U+FFFF were refused, an event could have an id that SQLite reads as U+FFFD. Its sample is
-- quarantined.
SELECT 'event_mismatch' AS what, e.org_id, e.ts - e.ts % {window_length_ms} AS window_ms,
    CAST(NULL AS TEXT) AS feature, e.source, e.event_id, e.quantity, e.event_type, s.org_id AS its_org,
    s.interval_s AS its_quantity, s.memory_mb AS its_meter
FROM {proven_events} e JOIN usage_samples s ON s.id = e.sample_id LEFT JOIN event_types t ON t.event_type = e.event_type
WHERE s.org_id <> e.org_id OR s.interval_s <> e.quantity OR s.ts <> e.ts OR s.memory_mb <> COALESCE(t.meter, -1)
    OR (s.problem IS NOT NULL
        AND NOT (s.problem IN ('bad_org_id', 'bad_sandbox_id') AND s.org_id || s.sandbox_id LIKE '%�%'))

-- name: eventless
-- A sample may also count units of an execution's usage at another provider, which that execution's row shows. Samples
-- of batches are proven by `batchless`.
SELECT 'sample_without_event' AS what, s.org_id, s.ts - s.ts % {window_length_ms} AS window_ms, CAST(NULL AS TEXT) AS feature,
    s.id AS sample_id, s.memory_mb AS meter
FROM {proven_samples} s WHERE s.memory_mb > {most_memory_mb} AND s.problem IS NULL
    AND NOT EXISTS (SELECT 1 FROM usage_events e WHERE e.sample_id = s.id)
    AND NOT EXISTS (SELECT 1 FROM run_samples r WHERE r.sample_id = s.id)
    AND NOT (s.id >= 'batch:' AND s.id < 'batch;')

-- name: backfilled_otherwise
-- Events that a backfill turned into usage have their staged values, above the floor.
SELECT 'backfill_event_mismatch' AS what, b.org_id, f.ts - f.ts % {window_length_ms} AS window_ms,
    CAST(NULL AS TEXT) AS feature, f.source, f.event_id, b.backfill
FROM backfills b JOIN backfill_events f ON f.backfill = b.backfill LEFT JOIN usage_events e ON e.sample_id = f.sample_id
LEFT JOIN orgs o ON o.org_id = b.org_id
WHERE b.closed_ms IS NOT NULL AND f.ts >= COALESCE(o.floor_ms, 0) AND (e.sample_id IS NULL OR e.org_id <> b.org_id
    OR e.source <> f.source OR e.event_id <> f.event_id OR e.event_type <> f.event_type OR e.quantity <> f.quantity
    OR e.ts <> f.ts OR f.ts < b.from_ms OR f.ts >= b.to_ms OR COALESCE(e.subject, '') <> COALESCE(f.subject, '')
    OR COALESCE(e.project, '') <> COALESCE(f.project, '') OR COALESCE(e.plan_key, '') <> COALESCE(f.plan_key, '')
    OR e.properties <> f.properties)

-- name: backfill_unreverted
SELECT 'unreverted_backfill' AS what, b.org_id, f.ts - f.ts % {window_length_ms} AS window_ms,
    CAST(NULL AS TEXT) AS feature, f.source, f.event_id, b.backfill
FROM backfills b JOIN backfill_events f ON f.backfill = b.backfill LEFT JOIN orgs o ON o.org_id = b.org_id
WHERE b.state = 'reverted' AND f.ts >= COALESCE(o.floor_ms, 0)
    AND NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = f.sample_id)
