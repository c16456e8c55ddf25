-- Counts of the backlog.

-- name: in_shard
-- The database checks this condition for each row, so a tick without a backlog does not read all organisations.
EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = left_over.org_id AND o.bucket BETWEEN :lo AND :hi {by_its_key})

-- name: askable
-- True if a provider can be read for organisation `o`. Drawdown never reads other organisations, even if a refresh is
-- requested.
EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = o.org_id AND a.end_ms IS NULL AND a.start_ms <= :now_ms
    AND a.provider NOT IN {unbilled} AND a.customer_id <> '')

-- name: open_pushes
SELECT {open_state} AS state, COUNT(*) AS pushes FROM pushes left_over WHERE state IN {open_states} AND {in_shard}
GROUP BY 1

-- name: refused
-- Open pushes that are not sent until a person changes a setting.
SELECT COUNT(*) AS left_over FROM pushes left_over WHERE state IN {open_states} AND last_error LIKE :needs_you AND {in_shard}

-- name: pending_seconds
-- Usage of 0 seconds is not pending.
SELECT reason, {seconds_and_units} FROM pending_usage left_over WHERE seconds <> 0 AND {in_shard} GROUP BY reason

-- name: dirty_windows
SELECT COUNT(*) AS left_over FROM dirty_windows left_over WHERE {in_shard}

-- name: halts_due
SELECT COUNT(*) AS left_over FROM halts left_over WHERE due_at_ms IS NOT NULL AND {in_shard}

-- name: projections_due
SELECT COUNT(*) AS left_over FROM orgs o WHERE projection_due_ms IS NOT NULL AND bucket BETWEEN :lo AND :hi AND {askable}

-- name: projections_overdue
-- Due reads of all shards, and the time of the oldest.
SELECT COUNT(*) AS due, MIN(projection_due_ms) AS since_ms FROM orgs o
WHERE projection_due_ms <= :now_ms AND {askable}

-- name: stopped_orgs
-- The first condition repeats the condition of the index exactly, because SQLite does not infer it.
SELECT COUNT(*) AS left_over FROM orgs WHERE (held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL)
    AND stopped_at_ms IS NOT NULL AND bucket BETWEEN :lo AND :hi

-- name: dated_ahead
SELECT COUNT(*) AS left_over FROM usage_samples WHERE ts > :ahead_ms AND problem IS NULL

-- name: jobs
-- Each count uses its own index.
SELECT COUNT(*) AS open, MIN(at_ms) AS since_ms,
    (SELECT COUNT(*) FROM jobs WHERE state = 'failed' AND ended_ms > :since_ms) AS failed
FROM jobs WHERE state IN ('waiting', 'under_way')

-- Transactions that are open on the database's server.

-- name: oldest [postgresql]
-- Any database user may read `who`. Only the owner of the process, or a member of pg_monitor, may read its `age_ms`.
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
