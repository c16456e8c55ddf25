-- How often the guard was asked, and blocked, by metric: of the newest so many uses and refusals of each.

-- name: metrics
-- The newest terms of each metric.
SELECT m.metric, m.number, m.price_micro, m.per_units, m.payer, m.phase, m.warn_ppm, m.fails_open, m.counts
FROM guard_metrics m WHERE m.number = (SELECT MAX(x.number) FROM guard_metrics x WHERE x.metric = m.metric)
    AND m.metric > :after AND (:metric = '' OR m.metric = :metric)
ORDER BY m.metric LIMIT :at_most

-- name: floors
-- Where there are so many that not all are counted: the moment of the oldest that is; else NULL.
WITH these AS MATERIALIZED (SELECT metric FROM {rows :metrics (metric text)} x)
SELECT t.metric,
    (SELECT CASE WHEN COUNT(*) = :counted THEN MIN(q.at_ms) END FROM (SELECT u.at_ms FROM guard_uses u
        WHERE u.metric = t.metric AND u.at_ms >= :since_ms ORDER BY u.at_ms DESC LIMIT :counted) q) AS use_ms,
    (SELECT CASE WHEN COUNT(*) = :counted THEN MIN(q.minute_ms) END FROM (SELECT d.minute_ms FROM guard_denials d
        WHERE d.metric = t.metric AND d.minute_ms > :since_ms - 60000 ORDER BY d.minute_ms DESC LIMIT :counted) q
    ) AS minute_ms
FROM these t

-- name: uses
-- Those that phase 3 lets through, too; the others are among what it would block.
WITH these AS MATERIALIZED (SELECT metric, since_ms FROM {rows :floors (metric text, since_ms bigint)} x)
SELECT t.metric, COUNT(CASE WHEN u.at_ms >= :day_ms AND u.would <> 'block' THEN 1 END) AS day,
    COUNT(CASE WHEN u.at_ms >= :week_ms AND u.would <> 'block' THEN 1 END) AS week,
    COUNT(CASE WHEN u.would <> 'block' THEN 1 END) AS month
FROM these t {then} guard_uses u ON u.metric = t.metric AND u.at_ms >= t.since_ms GROUP BY t.metric

-- name: denials
-- A minute counts as a whole. What phase 3 would block is all of it; phase 2 asks who ever bought credit.
WITH these AS MATERIALIZED (SELECT metric, since_ms FROM {rows :floors (metric text, since_ms bigint)} x)
SELECT t.metric, COALESCE(SUM(CASE WHEN d.enforced AND d.minute_ms > :day_ms - 60000 THEN d.count END), 0) AS day,
    COALESCE(SUM(CASE WHEN d.minute_ms > :day_ms - 60000 THEN d.count END), 0) AS day_would,
    COALESCE(SUM(CASE WHEN d.enforced AND d.minute_ms > :week_ms - 60000 THEN d.count END), 0) AS week,
    COALESCE(SUM(CASE WHEN d.minute_ms > :week_ms - 60000 THEN d.count END), 0) AS week_would,
    COALESCE(SUM(CASE WHEN d.enforced THEN d.count END), 0) AS month, SUM(d.count) AS month_would,
    COALESCE(SUM(CASE WHEN d.minute_ms > :week_ms - 60000 AND NOT d.pays THEN d.count END), 0) AS free_would,
    COUNT(DISTINCT CASE WHEN d.minute_ms > :week_ms - 60000 THEN d.org_id END) AS orgs,
    COUNT(DISTINCT CASE WHEN d.minute_ms > :week_ms - 60000 AND d.pays THEN d.org_id END) AS paying
FROM these t {then} guard_denials d ON d.metric = t.metric AND d.minute_ms > t.since_ms - 60000 GROUP BY t.metric

-- name: most_blocked
WITH these AS MATERIALIZED (SELECT metric, since_ms FROM {rows :floors (metric text, since_ms bigint)} x)
SELECT d.org_id, d.metric, SUM(d.count) AS would, COALESCE(SUM(CASE WHEN d.enforced THEN d.count END), 0) AS blocked,
    MAX(d.last_ms) AS last_ms, MAX(CASE WHEN d.pays THEN 1 ELSE 0 END) AS pays
FROM these t {then} guard_denials d ON d.metric = t.metric AND d.minute_ms > t.since_ms - 60000
GROUP BY d.org_id, d.metric ORDER BY blocked DESC, would DESC, d.org_id, d.metric LIMIT :at_most

-- name: then [postgresql]
JOIN

-- name: then [sqlite]
-- Of a cross join SQLite keeps the order; else it might begin with all uses there ever were.
CROSS JOIN
