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
