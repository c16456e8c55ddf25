-- Event types.

-- name: known
SELECT event_type, meter FROM event_types WHERE event_type IN :event_types

-- name: newest
SELECT MAX(meter) FROM event_types

-- name: brought
SELECT COUNT(*) FROM event_types WHERE org_id = :org_id

-- name: meet
-- In the order of their meters, so that of two that meet types at once the second waits before it has any. None where an
-- organisation has brought as many as it may: what came in meanwhile took this number.
INSERT INTO event_types (event_type, meter, first_seen_ms, org_id)
SELECT event_type, meter, :first_seen_ms, :org_id FROM (
    SELECT event_type, COALESCE((SELECT MAX(meter) FROM event_types), :below)
        + ROW_NUMBER() OVER (ORDER BY event_type) AS meter
    FROM {rows :types (event_type text)} r
) numbered WHERE meter <= :most
    AND (CAST(:org_id AS TEXT) IS NULL OR (SELECT COUNT(*) FROM event_types WHERE org_id = :org_id) < :most_own)
ORDER BY meter
ON CONFLICT DO NOTHING
