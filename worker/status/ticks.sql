-- Ticks, the newest first.

-- name: counts
SELECT started_ms - started_ms % :span_ms AS begin_ms, COUNT(*) AS ticks,
    COUNT(CASE WHEN exit_status = 1 THEN 1 END) AS person_needed,
    COUNT(CASE WHEN exit_status NOT IN (0, 1) THEN 1 END) AS work_left,
    COUNT(CASE WHEN exit_status IS NULL THEN 1 END) AS unended
FROM ticks WHERE started_ms >= :since_ms GROUP BY 1

-- name: page
SELECT tick_id, worker, bucket_lo, bucket_hi, started_ms, finished_ms, exit_status, clock_trusted, report FROM ticks
WHERE tick_id < :before ORDER BY tick_id DESC LIMIT :at_most
