-- Whether PostgreSQL tidies up by itself, and how soon where tables grow with use.

-- name: upkeep [postgresql]
SELECT relname AS name, COALESCE(reloptions, CAST(ARRAY[] AS text[])) AS options,
    current_setting('autovacuum') = 'on' AND current_setting('track_counts') = 'on' AS works
FROM pg_class WHERE oid IN (SELECT to_regclass(named) FROM unnest(CAST(:tables AS text[])) AS named) ORDER BY relname
