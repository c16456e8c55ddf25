-- Room for event types.

-- name: short_of_types
-- Whoever has brought as many as they may, and the database where few are left.
SELECT whose, name, types FROM (
    SELECT 'database' AS whose, '' AS name, COUNT(*) AS types, CAST(:near AS BIGINT) AS most FROM event_types
    UNION ALL SELECT 'organisation', org_id, COUNT(*), :most_org FROM event_types WHERE org_id IS NOT NULL GROUP BY org_id
    UNION ALL SELECT 'key', key_name, COUNT(*), :most_key FROM event_types WHERE key_name IS NOT NULL GROUP BY key_name
    UNION ALL SELECT 'source', source, COUNT(*), :most_source FROM event_types WHERE source IS NOT NULL GROUP BY source
) brought WHERE types >= most ORDER BY whose, name LIMIT :at_most
