-- One tick: its row, and the updates before anything is sealed.

-- name: last_started
SELECT started_ms FROM ticks ORDER BY tick_id DESC LIMIT 1

-- name: last_of_first_shard
SELECT started_ms FROM ticks WHERE bucket_lo = 0 ORDER BY tick_id DESC LIMIT 1

-- name: begin_tick
INSERT INTO ticks (worker, bucket_lo, bucket_hi, started_ms, clock_trusted)
VALUES (:worker, :lo, :hi, :started_ms, :clock_trusted) RETURNING tick_id

-- name: is_assigned
SELECT 1 FROM assignments WHERE provider = :provider AND end_ms IS NULL LIMIT 1

-- name: usage_waits
-- Due pushes, by the index on open pushes, or usage that is not sealed because the provider's terms are missing.
SELECT 1 FROM pushes WHERE provider = :provider AND state IN {open_states} AND state = 'due'
UNION ALL
SELECT 1 FROM pending_usage p WHERE p.reason = 'no_provider' AND p.seconds <> 0 AND EXISTS (SELECT 1 FROM assignments a
    WHERE a.org_id = p.org_id AND a.provider = :provider AND a.start_ms <= p.window_ms
        AND (a.end_ms IS NULL OR p.window_ms < a.end_ms))
LIMIT 1

-- name: bring_providers_up_to_date
UPDATE orgs SET billing_provider = a.provider,
    projection_due_ms = CASE WHEN a.provider NOT IN {unbilled} THEN :now_ms END,
    unread_since_ms = CASE WHEN a.provider NOT IN {unbilled} THEN unread_since_ms END,
    refresh_requests = refresh_requests + 1,
    balance_read_ms = CASE WHEN balance_read_ms >= a.start_ms THEN balance_read_ms END,
    balance_micro = CASE WHEN balance_read_ms >= a.start_ms THEN balance_micro END
FROM assignments a WHERE a.org_id = orgs.org_id
    AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)
    AND (a.start_ms >= :since_ms OR orgs.billing_provider IS NULL OR orgs.billing_provider <> a.provider)

-- name: jobs_wait
-- The queries about jobs and folders are here, so that a tick without either does not import their modules.
SELECT 1 FROM jobs WHERE state IN ('waiting', 'under_way') LIMIT 1

-- name: folders_watched
SELECT 1 FROM batch_sources WHERE paused_ms IS NULL LIMIT 1

-- name: orgs_of_buckets
SELECT org_id FROM orgs WHERE bucket BETWEEN :lo AND :hi AND stopped_at_ms IS NULL ORDER BY org_id

-- name: end_tick
-- The condition on the worker excludes a tick of another history (R1).
UPDATE ticks SET finished_ms = :finished_ms, exit_status = :exit_status, report = :report
WHERE tick_id = :tick_id AND worker = :worker
