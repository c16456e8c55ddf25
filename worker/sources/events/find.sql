-- Events by their keys, and those that may be meant by a mistyped one.

-- name: of_keys
SELECT event_id, org_id, sample_id FROM usage_events
WHERE source = :source AND event_id IN :event_ids AND (:org_id = '' OR org_id = :org_id) ORDER BY org_id

-- name: is_source
SELECT 1 FROM usage_events WHERE source = :source LIMIT 1

-- name: sources
SELECT DISTINCT source FROM (SELECT source FROM usage_events LIMIT :scanned) e ORDER BY 1 LIMIT :at_most

-- name: alike
-- Those that begin or end as the one that was given.
SELECT event_id FROM (SELECT source, event_id FROM usage_events LIMIT :scanned) e
WHERE source = :source AND (event_id LIKE :head ESCAPE '!' OR event_id LIKE :tail ESCAPE '!') LIMIT :at_most
