-- The status of the whole system, or of one organisation.

-- name: counts
-- The query returns one row. Organisations without a present biller are few and have an index, so the query checks only
-- these for assignments. `watermark_ms`: the lowest watermark of the buckets. `sealed_to_ms`: the highest.
SELECT (SELECT COUNT(*) FROM orgs) AS orgs, (SELECT COUNT(*) FROM orgs WHERE is_halted) AS halted,
    (SELECT COUNT(*) FROM orgs o WHERE o.billing_provider IS NULL
        AND NOT EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = o.org_id)) AS unassigned,
    (SELECT COALESCE(MIN(watermark_ms), 0) FROM buckets) AS watermark_ms,
    ({sealed_to}) AS sealed_to_ms

-- name: sealed_to
SELECT COALESCE(MAX(watermark_ms), 0) FROM buckets

-- name: last_tick
-- The last tick by its time, not by its number. A tick that ran later with an earlier time (`--at`) describes that
-- earlier time.
SELECT tick_id, worker, bucket_lo, bucket_hi, started_ms, finished_ms, exit_status, clock_trusted, report FROM ticks
WHERE tick_id = (SELECT t.tick_id FROM (SELECT tick_id, finished_ms FROM ticks WHERE finished_ms IS NOT NULL
        ORDER BY tick_id DESC LIMIT :most_ticks) t
    ORDER BY CASE WHEN t.finished_ms <= :now_ms THEN 0 ELSE 1 END, t.finished_ms DESC, t.tick_id DESC LIMIT 1)

-- name: newest_tick
-- The newest tick is the tick with the highest number, not with the latest time.
SELECT finished_ms FROM ticks WHERE finished_ms IS NOT NULL ORDER BY tick_id DESC LIMIT 1

-- name: unread_samples
-- The query counts the samples. If the query looked for the first sample, PostgreSQL would read all samples.
SELECT COUNT(*) AS came FROM usage_samples s WHERE {later} AND s.problem IS NULL

-- name: last_of_first_shard
-- If there are several shards, only the first shard reads files.
SELECT exit_status, report FROM ticks WHERE finished_ms IS NOT NULL AND bucket_lo = 0 ORDER BY tick_id DESC LIMIT 1

-- name: running_tick
-- The start of the first tick after the last ended tick. If each later tick is killed, too, this start shows that ticks
-- are late.
SELECT MIN(t.started_ms) AS began_ms FROM ticks t WHERE t.finished_ms IS NULL AND t.started_ms > :since_ms
    AND t.tick_id > COALESCE((SELECT MAX(e.tick_id) FROM ticks e WHERE e.finished_ms IS NOT NULL), 0)

-- name: shards
-- The shards of the newest ticks. `first_ms`: the start of the first tick. `ended_ms`: the end of the last ended tick.
-- `began_ms`: the start of the first later tick that has not ended.
WITH newest AS MATERIALIZED (
    SELECT tick_id, bucket_lo, bucket_hi, started_ms, finished_ms FROM ticks ORDER BY tick_id DESC LIMIT :most_ticks
),
ended AS (
    SELECT bucket_lo, bucket_hi, MAX(tick_id) AS tick_id,
        COALESCE(MAX(CASE WHEN finished_ms <= :now_ms THEN finished_ms END), MAX(finished_ms)) AS ended_ms
    FROM newest WHERE finished_ms IS NOT NULL GROUP BY bucket_lo, bucket_hi
)
SELECT n.bucket_lo, n.bucket_hi, MIN(n.started_ms) AS first_ms, MAX(e.ended_ms) AS ended_ms,
    MIN(CASE WHEN n.finished_ms IS NULL AND n.started_ms > :since_ms AND n.tick_id > COALESCE(e.tick_id, 0)
        THEN n.started_ms END) AS began_ms
FROM newest n LEFT JOIN ended e ON e.bucket_lo = n.bucket_lo AND e.bucket_hi = n.bucket_hi
GROUP BY n.bucket_lo, n.bucket_hi

-- name: pending
SELECT reason, {seconds_and_units}, COUNT(DISTINCT org_id) AS orgs, MIN(window_ms) AS since_ms FROM pending_usage
WHERE seconds <> 0 GROUP BY reason ORDER BY reason

-- name: halts
SELECT COUNT(*) AS due, MIN(halted_at) AS since_ms, MAX(last_error) AS error FROM halts WHERE due_at_ms IS NOT NULL

-- name: differing
SELECT provider, verdict, COUNT(*) AS days, MIN(day_ms) AS since_ms, MAX(at_ms) AS compared_ms FROM reconciliations
WHERE verdict IN ('short', 'over') GROUP BY provider, verdict ORDER BY provider, verdict

-- name: halted_orgs
SELECT org_id, halt_reason, halted_at FROM orgs WHERE is_halted ORDER BY halted_at DESC, org_id LIMIT 3

-- name: stopped
-- The condition repeats the condition of the index exactly. Otherwise, SQLite reads all organisations in the order of
-- their ids.
SELECT org_id, stopped_at_ms, stopped_reason FROM orgs WHERE org_id IN (SELECT x.org_id FROM orgs x
    WHERE (x.held_watermark_ms IS NOT NULL OR x.stopped_at_ms IS NOT NULL) AND x.stopped_at_ms IS NOT NULL) ORDER BY org_id LIMIT 20

-- name: doubted
SELECT doubted_ms, doubted_reason FROM incarnation WHERE doubted_ms IS NOT NULL

-- name: replays
SELECT replay_id, scope, from_ms, to_ms, next_ms, pushes, actor, started_ms, lease_ms FROM replays
WHERE finished_ms IS NULL AND lease_ms > :since_ms ORDER BY replay_id

-- name: org_pending
SELECT p.reason, p.memory_mb, SUM(p.seconds) AS seconds, SUM(p.samples) AS samples, MIN(p.window_ms) AS since_ms,
    MAX(t.event_type) AS event_type
FROM pending_usage p LEFT JOIN event_types t ON t.meter = p.memory_mb
WHERE p.org_id = :org_id AND p.seconds <> 0 GROUP BY p.reason, p.memory_mb ORDER BY p.reason, p.memory_mb

-- name: org_pushes
-- The sum includes folded pushes.
SELECT state, provider, feature, CAST(SUM(pushes) AS BIGINT) AS pushes, CAST(SUM(quantity) AS BIGINT) AS quantity FROM (
    SELECT {open_state} AS state, provider, feature, COUNT(*) AS pushes, SUM(sent_qty) AS quantity FROM pushes
    WHERE org_id = :org_id GROUP BY 1, 2, 3
    UNION ALL SELECT state, provider, feature, pushes, sent_qty FROM folded_pushes WHERE org_id = :org_id
) sides GROUP BY state, provider, feature ORDER BY feature, provider, state

-- name: org_halts
SELECT cell_id, halted_at, due_at_ms, acked_at_ms, attempts, last_error FROM halts WHERE org_id = :org_id

-- name: org_assignments
SELECT start_ms, end_ms, provider, customer_id, actor, reason FROM assignments WHERE org_id = :org_id ORDER BY start_ms

-- name: org_watermark
SELECT COALESCE(o.held_watermark_ms, b.watermark_ms) FROM orgs o JOIN buckets b ON b.id = o.bucket
WHERE o.org_id = :org_id

-- name: balances
{told_balances} ORDER BY told_ms, provider, customer_id, feature

-- Pending usage.

-- name: reasons
SELECT reason, {seconds_and_units}, COUNT(DISTINCT org_id) AS orgs, MIN(window_ms) AS since_ms FROM pending_usage
WHERE seconds <> 0 GROUP BY reason ORDER BY reason

-- name: orgs
-- The query uses the index on organisation, so that it sums up each organisation as it reads the index.
SELECT org_id, reason, {seconds_and_units}, SUM(samples) AS samples, COUNT(DISTINCT memory_mb) AS sizes,
    MIN(window_ms) AS since_ms
FROM pending_usage WHERE org_id > :after AND seconds <> 0 AND (:reason = '' OR reason = :reason)
GROUP BY org_id, reason ORDER BY org_id, reason LIMIT :at_most

-- name: windows
SELECT (SELECT COUNT(*) FROM dirty_windows) AS dirty, (SELECT COUNT(*) FROM late_quarantine l WHERE NOT EXISTS (
        SELECT 1 FROM quarantine_closed q WHERE q.sample_id = l.sample_id)) AS late,
    (SELECT COUNT(*) FROM usage_samples WHERE ts > :ahead_ms AND problem IS NULL) AS ahead
