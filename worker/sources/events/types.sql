-- Event types.

-- name: known
SELECT event_type, meter FROM event_types WHERE event_type IN :event_types

-- name: is_full
-- One type more does not fit.
SELECT 1 WHERE (SELECT COUNT(*) FROM event_types WHERE freed_ms IS NULL) >= :most_types
    OR (SELECT MAX(meter) FROM event_types) >= :most

-- name: room
-- The bounds of a key that brings types: a key of an organisation, or a key of none and the source that it is bound to.
(CAST(:org_id AS TEXT) IS NULL
        OR (SELECT COUNT(*) FROM event_types WHERE org_id = :org_id AND freed_ms IS NULL) < :most_org)
    AND (CAST(:key_name AS TEXT) IS NULL
        OR (SELECT COUNT(*) FROM event_types WHERE key_name = :key_name AND freed_ms IS NULL) < :most_key)
    AND (CAST(:source AS TEXT) IS NULL
        OR (SELECT COUNT(*) FROM event_types WHERE source = :source AND freed_ms IS NULL) < :most_source)

-- name: has_room
SELECT 1 WHERE {room}

-- name: meet
-- In the order of their meters: if two transactions meet types at once, the second waits before it has any. It inserts
-- none if the sender has brought as many as it may: types that came in meanwhile took this number.
INSERT INTO event_types (event_type, meter, first_seen_ms, org_id, key_name, source)
SELECT event_type, meter, :first_seen_ms, :org_id, :key_name, :source FROM (
    SELECT event_type, COALESCE((SELECT MAX(meter) FROM event_types), :below)
            + ROW_NUMBER() OVER (ORDER BY event_type) AS meter,
        (SELECT COUNT(*) FROM event_types WHERE freed_ms IS NULL) + ROW_NUMBER() OVER (ORDER BY event_type) AS types
    FROM {rows :types (event_type text)} r
) numbered WHERE meter <= :most AND types <= :most_types AND {room}
ORDER BY meter
ON CONFLICT DO NOTHING

-- Types that nothing uses count to no bound.

-- name: used
-- A feature, a value or a metric names it, a backfill has events of it, or usage of it waits to be billed.
(meter IN (SELECT memory_mb FROM mappings WHERE memory_mb IS NOT NULL)
    OR meter IN (SELECT memory_mb FROM pending_usage WHERE seconds <> 0)
    OR event_type IN (SELECT event_type FROM event_values)
    OR event_type IN (SELECT COALESCE(counts, metric) FROM guard_metrics)
    OR event_type IN (SELECT event_type FROM backfill_events))

-- name: changed_use
(freed_ms IS NULL AND first_seen_ms < :before_ms AND NOT {used}) OR (freed_ms IS NOT NULL AND {used})

-- name: free [sqlite]
UPDATE event_types SET freed_ms = CASE WHEN freed_ms IS NULL THEN :now_ms END WHERE {changed_use}

-- name: free [postgresql]
-- A transaction that takes usage of a type holds its row: that type is looked at the day after.
UPDATE event_types SET freed_ms = CASE WHEN freed_ms IS NULL THEN :now_ms END WHERE event_type IN (
    SELECT event_type FROM event_types WHERE {changed_use} FOR NO KEY UPDATE SKIP LOCKED)

-- How much events count that state no quantity.

-- name: values
SELECT event_type, aggregation, path, scale FROM event_values WHERE event_type IN :event_types

-- name: all_values
SELECT event_type, aggregation, path, scale FROM event_values

-- name: has_events
-- None of them came before its type was met. Events of a backfill have their quantities, too.
SELECT 1 WHERE EXISTS (SELECT 1 FROM usage_events e WHERE e.event_type = :event_type
        AND e.ingested_ms >= (SELECT first_seen_ms FROM event_types WHERE event_type = :event_type))
    OR EXISTS (SELECT 1 FROM backfill_events b WHERE b.event_type = :event_type)

-- name: declare_value
INSERT INTO event_values (event_type, aggregation, path, scale, at_ms, actor, reason)
VALUES (:event_type, :aggregation, :path, :scale, :at_ms, :actor, :reason)

-- Event types that are charged at once.

-- name: charged
SELECT k.event_type, k.window_ms, {charged_by} AS metric
FROM (SELECT r.event_type, r.window_ms, t.meter FROM {rows :spots (event_type text, window_ms bigint)} r
    LEFT JOIN event_types t ON t.event_type = r.event_type) k
WHERE k.event_type IN (SELECT c.counts FROM {charging} c)

-- name: ever
SELECT DISTINCT c.counts FROM {charging} c WHERE c.counts IN :event_types

-- name: share
SELECT 1 FROM event_types WHERE event_type IN :event_types ORDER BY event_type FOR SHARE

-- name: hold
SELECT 1 FROM event_types WHERE event_type = :event_type FOR UPDATE
