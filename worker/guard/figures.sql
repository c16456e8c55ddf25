-- The figures of the guard behind the metrics, by indexes.

-- name: names
SELECT DISTINCT metric FROM guard_metrics ORDER BY metric

-- name: denied
SELECT m.metric, d.enforced, CAST(SUM(d.count) AS BIGINT) AS times FROM (SELECT DISTINCT metric FROM guard_metrics) m
JOIN guard_denials d ON d.metric = m.metric AND d.minute_ms >= :since_ms GROUP BY m.metric, d.enforced

-- name: dark
SELECT m.metric, COUNT(*) AS uses, CAST(SUM(u.amount) AS BIGINT) AS units
FROM (SELECT DISTINCT metric FROM guard_metrics) m
JOIN guard_uses u ON u.metric = m.metric AND u.at_ms >= :since_ms AND u.degraded GROUP BY m.metric

-- name: overrides
-- Few: a person asked for each of them.
SELECT COUNT(CASE WHEN state = 'asked' THEN 1 END) AS waiting, MIN(CASE WHEN state = 'asked' THEN at_ms END) AS since_ms,
    COUNT(CASE WHEN state = 'in_force' AND ends_ms > :now_ms AND ends_ms <= :before_ms THEN 1 END) AS ending
FROM guard_overrides WHERE (:metric = '' OR metric = :metric)
