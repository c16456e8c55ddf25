-- The settings of autovacuum, and attached tables.

-- name: upkeep [postgresql]
SELECT relname AS name, COALESCE(reloptions, CAST(ARRAY[] AS text[])) AS options,
    current_setting('autovacuum') = 'on' AND current_setting('track_counts') = 'on' AS works
FROM pg_class WHERE oid IN (SELECT to_regclass(named) FROM unnest(CAST(:tables AS text[])) AS named) ORDER BY relname

-- name: attached [postgresql]
SELECT CAST(CAST(inhrelid AS regclass) AS text) AS child, CAST(CAST(inhparent AS regclass) AS text) AS parent,
    relkind = 'p' AS parted
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent
WHERE EXISTS (SELECT 1 FROM unnest(CAST(:tables AS text[])) AS named WHERE to_regclass(named) IN (inhrelid, inhparent))
ORDER BY 1
