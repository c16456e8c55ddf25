-- Lists of providers.

-- name: states
SELECT provider, terms, live_from_ms, wire_since_ms, paused_ms, paused_reason FROM provider_states ORDER BY provider

-- name: orgs
SELECT provider, COUNT(*) AS orgs, SUM(CASE WHEN customer_id = '' THEN 1 ELSE 0 END) AS without_customer
FROM assignments WHERE start_ms <= :now_ms AND (end_ms IS NULL OR :now_ms < end_ms) GROUP BY provider

-- name: attempts
-- Figures of the latest sends with an outcome: their number, the number of failures, and the 95th percentile of their
-- duration. Also the number of unanswered sends since the last response, because this number opens a circuit breaker.
WITH recent AS MATERIALIZED (SELECT a.window_ms, a.org_id, a.feature, a.revision, a.outcome,
        a.finished_ms - a.started_ms AS took_ms, a.finished_ms
    FROM attempts a WHERE a.started_ms >= :since_ms ORDER BY a.started_ms DESC LIMIT :at_most),
ranked AS (SELECT p.provider, r.outcome, r.took_ms, r.finished_ms,
        MAX(CASE WHEN r.outcome NOT IN {unanswered} THEN r.finished_ms END) OVER (PARTITION BY p.provider) AS answered_ms,
        ROW_NUMBER() OVER (PARTITION BY p.provider ORDER BY r.took_ms) AS place,
        COUNT(r.took_ms) OVER (PARTITION BY p.provider) AS answered
    FROM recent r {then} pushes p ON p.window_ms = r.window_ms AND p.org_id = r.org_id AND p.feature = r.feature
        AND p.revision = r.revision)
SELECT provider, COUNT(outcome) AS calls,
    SUM(CASE WHEN outcome NOT IN ('accepted', 'queued', 'duplicate') THEN 1 ELSE 0 END) AS failed,
    MIN(CASE WHEN took_ms IS NOT NULL AND place * 100 >= answered * 95 THEN took_ms END) AS p95_ms,
    MAX(answered_ms) AS answered_ms, COUNT(CASE WHEN {in_a_row} THEN 1 END) AS in_a_row,
    MIN(CASE WHEN {in_a_row} THEN finished_ms END) AS unanswered_ms,
    MAX(CASE WHEN {in_a_row} THEN finished_ms END) AS last_unanswered_ms
FROM ranked GROUP BY provider ORDER BY provider

-- name: unanswered
('retry', 'unknown')

-- name: in_a_row
outcome IN {unanswered} AND (answered_ms IS NULL OR finished_ms > answered_ms)

-- name: then [postgresql]
JOIN

-- name: then [sqlite]
CROSS JOIN

-- name: reads
SELECT provider, SUM(reads) AS reads, SUM(CASE WHEN outcome = :well THEN 0 ELSE reads END) AS failed
FROM provider_reads GROUP BY provider ORDER BY provider

-- name: customers
SELECT customer_id FROM assignments WHERE provider = :provider AND customer_id <> ''
    AND (end_ms IS NULL OR :now_ms < end_ms) ORDER BY 1 LIMIT :at_most

-- name: features_used
-- The features of the recent pushes of these customers.
SELECT DISTINCT customer_id, feature FROM pushes WHERE window_ms >= :since_ms AND provider = :provider
    AND customer_id IN :customers ORDER BY 1, 2

-- name: in_use
SELECT DISTINCT provider FROM assignments WHERE end_ms IS NULL AND provider NOT IN {unbilled} ORDER BY 1

-- Providers in shadow. Drawdown seals and compares their usage, but does not send it.
