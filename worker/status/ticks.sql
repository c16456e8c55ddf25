-- Ticks, the newest first.

-- name: since
-- The order is by the key, newest first, because the time does not have an index.
SELECT t.tick_id, t.worker, t.started_ms, t.finished_ms, t.exit_status
FROM (SELECT * FROM ticks ORDER BY tick_id DESC LIMIT :at_most) t WHERE t.started_ms >= :since_ms ORDER BY t.tick_id DESC

-- name: page
SELECT tick_id, worker, bucket_lo, bucket_hi, started_ms, finished_ms, exit_status, clock_trusted, report FROM ticks
WHERE tick_id < :before ORDER BY tick_id DESC LIMIT :at_most
