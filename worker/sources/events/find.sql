-- Events that may be meant by a mistyped key.

-- name: sources
SELECT DISTINCT source FROM (SELECT source FROM usage_events LIMIT :scanned) e ORDER BY 1 LIMIT :at_most

-- name: alike
-- Those that begin or end as the one that was given.
SELECT event_id FROM (SELECT source, event_id FROM usage_events LIMIT :scanned) e
WHERE source = :source AND (event_id LIKE :head ESCAPE '!' OR event_id LIKE :tail ESCAPE '!') LIMIT :at_most
