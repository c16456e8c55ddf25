-- Event types.

-- name: known
SELECT event_type, meter FROM event_types WHERE event_type IN :event_types

-- name: newest
SELECT MAX(meter) FROM event_types

-- name: room
-- Of whoever brings types: a key of an organisation, or a key of none and the source that it is bound to.
(CAST(:org_id AS TEXT) IS NULL OR (SELECT COUNT(*) FROM event_types WHERE org_id = :org_id) < :most_org)
    AND (CAST(:key_name AS TEXT) IS NULL OR (SELECT COUNT(*) FROM event_types WHERE key_name = :key_name) < :most_key)
    AND (CAST(:source AS TEXT) IS NULL OR (SELECT COUNT(*) FROM event_types WHERE source = :source) < :most_source)

-- name: has_room
SELECT 1 WHERE {room}

-- name: meet
-- In the order of their meters, so that of two that meet types at once the second waits before it has any. None where
-- whoever brings them has brought as many as it may: what came in meanwhile took this number.
INSERT INTO event_types (event_type, meter, first_seen_ms, org_id, key_name, source)
SELECT event_type, meter, :first_seen_ms, :org_id, :key_name, :source FROM (
    SELECT event_type, COALESCE((SELECT MAX(meter) FROM event_types), :below)
        + ROW_NUMBER() OVER (ORDER BY event_type) AS meter
    FROM {rows :types (event_type text)} r
) numbered WHERE meter <= :most AND {room}
ORDER BY meter
ON CONFLICT DO NOTHING

-- How much events count that state no quantity.

-- name: values
SELECT event_type, aggregation, path, scale FROM event_values WHERE event_type IN :event_types

-- name: all_values
SELECT event_type, aggregation, path, scale FROM event_values

-- name: has_events
-- None of them came before its type was met. Of a backfill they have their quantities, too.
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
