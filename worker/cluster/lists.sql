-- The workers of `drawdown worker`, and their jobs. Only on PostgreSQL.

-- name: terms
SELECT CAST(terms->>'shards' AS integer) AS shards, CAST(terms->>'every_s' AS integer) AS every_s
FROM drawdown_cluster.agreed WHERE terms IS NOT NULL

-- name: workers
-- Ages by the database's clock, which also sets `seen`.
SELECT name, version, done, failure,
    {age_of_began} AS up_ms, {age_of_seen} AS seen_ms, {age_of_failed} AS failed_ms,
    CASE WHEN ended IS NOT NULL THEN 'ended' WHEN seen > clock_timestamp() - make_interval(secs => :lives_s) THEN 'lives' ELSE 'gone' END AS state
FROM drawdown_cluster.workers ORDER BY began DESC, name LIMIT :most

-- name: age_of_began
CAST(extract(epoch FROM clock_timestamp() - began) * 1000 AS bigint)

-- name: age_of_seen
CAST(extract(epoch FROM clock_timestamp() - seen) * 1000 AS bigint)

-- name: age_of_failed
CAST(extract(epoch FROM clock_timestamp() - failed_at) * 1000 AS bigint)

-- name: jobs
-- A job's age is that of its last event, when it began to wait or to run.
SELECT job.task_name AS kind, CASE job.status WHEN 'todo' THEN 'waits' WHEN 'doing' THEN 'runs' ELSE 'failed' END AS state,
    COUNT(*) AS jobs, MAX(event.age_ms) AS oldest_ms
FROM drawdown_cluster.procrastinate_jobs job
LEFT JOIN LATERAL (
    SELECT CAST(extract(epoch FROM clock_timestamp() - MAX(at)) * 1000 AS bigint) AS age_ms
    FROM drawdown_cluster.procrastinate_events WHERE job_id = job.id AND type <> 'scheduled'
) AS event ON true
GROUP BY 1, 2 ORDER BY 1, 2
