-- Transactions that are open on the database's server.

-- name: oldest [postgresql]
-- Whose it is may always be read; since when it is open, only by its own user or with the role pg_monitor.
SELECT who, age_ms FROM (
    SELECT 'process ' || pid || ' on ' || COALESCE(datname, 'no database')
            || COALESCE(' (' || NULLIF(application_name, '') || ')', '') AS who,
        age(backend_xid) AS numbers, extract(epoch FROM clock_timestamp() - xact_start) * 1000 AS age_ms
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT 'prepared transaction ' || gid || ' on ' || database, age(transaction),
        extract(epoch FROM clock_timestamp() - prepared) * 1000
    FROM pg_prepared_xacts
) open_now ORDER BY numbers DESC LIMIT 1
