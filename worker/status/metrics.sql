-- The figures of the metrics, by indexes.

-- name: oldest_watermark
SELECT MIN(watermark_ms) AS watermark_ms FROM buckets WHERE watermark_ms > 0

-- name: held
SELECT MIN(held_watermark_ms) AS held FROM orgs WHERE held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL

-- name: pending_seconds
SELECT reason, {seconds_and_units} FROM pending_usage GROUP BY reason

-- name: dirty_windows
SELECT COUNT(*) FROM dirty_windows

-- name: open_pushes
SELECT provider, {open_state} AS state, feature, COUNT(*) AS pushes, MIN(sealed_at_ms) AS oldest_ms,
    SUM(sealed_qty * 1.0) AS owed
FROM pushes WHERE state IN {open_states} GROUP BY 1, 2, 3

-- name: met_providers
SELECT provider FROM provider_states

-- name: halts_due
SELECT COUNT(*) AS due, MIN(halted_at) AS since_ms FROM halts WHERE due_at_ms IS NOT NULL

-- name: halted_orgs
SELECT COALESCE(halt_reason, '') AS reason, COUNT(*) AS orgs FROM orgs WHERE is_halted GROUP BY 1

-- name: stopped_orgs
SELECT COUNT(*) FROM orgs
WHERE stopped_at_ms IS NOT NULL AND (held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL)

-- name: paused_providers
SELECT COUNT(*) FROM provider_states WHERE paused_ms IS NOT NULL

-- name: doubted_histories
SELECT COUNT(*) FROM incarnation WHERE doubted_ms IS NOT NULL

-- name: registered_cells
SELECT cell_id FROM cells

-- name: samples_by_cell
SELECT c.cell_id AS cell, COUNT(*) AS samples FROM usage_samples s LEFT JOIN cells c ON c.cell_id = s.cell_id
WHERE s.ts >= :from_ms AND s.ts < :to_ms GROUP BY c.cell_id

-- name: webhooks
-- The query is materialized. Otherwise, SQLite reads all webhooks in the order of the grouping.
WITH recent AS MATERIALIZED (SELECT provider, state FROM webhooks WHERE received_ms >= :since_ms)
SELECT provider, state, COUNT(*) AS webhooks FROM recent GROUP BY provider, state

-- name: attempts
-- `within_ms`: the lowest limit that the attempt did not exceed.
WITH limits AS MATERIALIZED (SELECT limit_ms FROM {rows :limits (limit_ms bigint)} r),
recent AS (
    SELECT p.provider, COALESCE(a.outcome, :unanswered) AS outcome, a.finished_ms - a.started_ms AS took_ms
    FROM attempts a JOIN pushes p ON p.window_ms = a.window_ms AND p.org_id = a.org_id AND p.feature = a.feature
        AND p.revision = a.revision
    WHERE a.started_ms >= :since_ms
)
SELECT provider, outcome, (SELECT MIN(l.limit_ms) FROM limits l WHERE recent.took_ms <= l.limit_ms) AS within_ms,
    COUNT(*) AS attempts, SUM(took_ms) AS took_ms
FROM recent GROUP BY 1, 2, 3

-- name: reads
SELECT provider, outcome, reads FROM provider_reads ORDER BY provider, outcome

-- name: ended_ticks
-- Time does not have an index, so the query reads the newest 4,096 ticks. They are a day of fourteen shards, or the
-- last sixteen ticks of 256 shards.
SELECT bucket_lo, bucket_hi, started_ms, finished_ms, exit_status FROM (
    SELECT tick_id, bucket_lo, bucket_hi, started_ms, finished_ms, exit_status FROM ticks
    ORDER BY tick_id DESC LIMIT 4096) t
WHERE finished_ms >= :since_ms ORDER BY tick_id DESC

-- name: latest_reports
SELECT report FROM (SELECT finished_ms, report FROM ticks ORDER BY tick_id DESC LIMIT 256) t
WHERE finished_ms >= :since_ms

-- name: any_tick
SELECT tick_id FROM ticks WHERE finished_ms IS NOT NULL ORDER BY tick_id DESC LIMIT 1
