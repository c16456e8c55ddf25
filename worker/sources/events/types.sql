-- Event types.

-- name: known
SELECT event_type, meter FROM event_types WHERE event_type IN :event_types

-- name: is_full
-- Returns a row if another type would exceed a limit.
SELECT 1 WHERE (SELECT COUNT(*) FROM event_types WHERE freed_ms IS NULL) >= :most_types
    OR (SELECT MAX(meter) FROM event_types) >= :most

-- name: room
-- The limits of a key that adds types: a key of an organisation, or an unbound key and its source.
(CAST(:org_id AS TEXT) IS NULL
        OR (SELECT COUNT(*) FROM event_types WHERE org_id = :org_id AND freed_ms IS NULL) < :most_org)
    AND (CAST(:key_name AS TEXT) IS NULL
        OR (SELECT COUNT(*) FROM event_types WHERE key_name = :key_name AND freed_ms IS NULL) < :most_key)
    AND (CAST(:source AS TEXT) IS NULL
        OR (SELECT COUNT(*) FROM event_types WHERE source = :source AND freed_ms IS NULL) < :most_source)

-- name: has_room
SELECT 1 WHERE {room}

-- name: meet
-- Types are inserted in the order of their meters. If two transactions add types at the same time, the second waits at
-- its first insert. A type is not inserted if the limits are reached, or if a concurrent type took its number.
INSERT INTO event_types (event_type, meter, first_seen_ms, org_id, key_name, source)
SELECT event_type, meter, :first_seen_ms, :org_id, :key_name, :source FROM (
    SELECT event_type, COALESCE((SELECT MAX(meter) FROM event_types), :below)
            + ROW_NUMBER() OVER (ORDER BY event_type) AS meter,
        (SELECT COUNT(*) FROM event_types WHERE freed_ms IS NULL) + ROW_NUMBER() OVER (ORDER BY event_type) AS types
    FROM {rows :types (event_type text)} r
) numbered WHERE meter <= :most AND types <= :most_types AND {room}
ORDER BY meter
ON CONFLICT DO NOTHING

-- Unused types do not count towards the limits.

-- name: used
-- A type is used if a mapping, a value or a metric names it, a backfill has its events, or its usage is pending.
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
-- A transaction that stores usage of a type locks the type's row. This statement skips locked types. A tick checks them
-- again a day later.
UPDATE event_types SET freed_ms = CASE WHEN freed_ms IS NULL THEN :now_ms END WHERE event_type IN (
    SELECT event_type FROM event_types WHERE {changed_use} FOR NO KEY UPDATE SKIP LOCKED)

-- The values of event types, for events that do not state a quantity.

-- name: values
SELECT event_type, aggregation, path, scale FROM event_values WHERE event_type IN :event_types

-- name: all_values
SELECT event_type, aggregation, path, scale FROM event_values

-- name: has_events
-- Events of a type arrive after its first use, so the search begins there. Events of a backfill state quantities, too.
SELECT 1 WHERE EXISTS (SELECT 1 FROM usage_events e WHERE e.event_type = :event_type
        AND e.ingested_ms >= (SELECT first_seen_ms FROM event_types WHERE event_type = :event_type))
    OR EXISTS (SELECT 1 FROM backfill_events b WHERE b.event_type = :event_type)

-- name: declare_value
INSERT INTO event_values (event_type, aggregation, path, scale, at_ms, actor, reason)
VALUES (:event_type, :aggregation, :path, :scale, :at_ms, :actor, :reason)

-- Event types that the guard charges at once.

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
