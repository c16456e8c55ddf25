-- Metrics that the guard counts, and uses that it allowed or refused.

-- name: metrics
-- The newest terms of each metric.
SELECT m.metric, m.number, m.price_micro, m.per_units, m.payer, m.phase, m.warn_ppm, m.fails_open
FROM guard_metrics m WHERE m.number = (SELECT MAX(x.number) FROM guard_metrics x WHERE x.metric = m.metric)
ORDER BY m.metric LIMIT :at_most

-- name: limits
-- The newest limit of each plan and period, unless it ended.
SELECT l.metric, l."plan", l.period, l.amount, l.phase, l.at_ms, l.actor, l.reason FROM guard_limits l
WHERE (:metric = '' OR l.metric = :metric) AND NOT l.ended AND l.number = (SELECT MAX(x.number)
    FROM guard_limits x WHERE x.metric = l.metric AND x."plan" = l."plan" AND x.period = l.period)
ORDER BY l.metric, l."plan", CASE l.period WHEN 'hour' THEN 0 WHEN 'day' THEN 1 ELSE 2 END LIMIT :at_most

-- name: is_over
-- A reserved use past its end does not count, even before a transaction marks it as expired.
state = 'held' AND expires_ms <= :now_ms

-- name: limit_periods
-- The periods in which a metric has limits in force, of some plans or (`every`) of any plan.
SELECT DISTINCT l.period FROM guard_limits l
WHERE l.metric = :metric AND (:every = 1 OR l."plan" IN :plans) AND NOT l.ended AND l.number = (SELECT MAX(x.number)
    FROM guard_limits x WHERE x.metric = l.metric AND x."plan" = l."plan" AND x.period = l.period)

-- name: fits
SELECT 1 FROM orgs WHERE SUBSTR(org_id, 1, LENGTH(CAST(:begins AS TEXT))) = :begins LIMIT 1

-- name: uses
SELECT use_key, org_id, metric, CASE WHEN {is_over} THEN 'expired' ELSE state END AS state,
    asked AS requested_quantity, CASE WHEN {is_over} THEN 0 ELSE amount END AS quantity, decision, would, rule,
    degraded, charged_micro, forgone_micro, at_ms, expires_ms, actor FROM guard_uses
WHERE (:metric = '' OR metric = :metric) AND (:org_id = '' OR org_id = :org_id) AND (:fail_open = 0 OR degraded)
ORDER BY at_ms DESC, use_key LIMIT :at_most

-- name: allowed_since
-- `passes`: the uses that phase 3 would allow, too. It would block the others.
SELECT COUNT(CASE WHEN would <> 'block' THEN 1 END) AS passes,
    COALESCE(SUM(CASE WHEN degraded THEN amount ELSE 0 END), 0) AS fail_open_units,
    COALESCE(SUM(forgone_micro), 0) AS forgone_micro
FROM guard_uses WHERE metric = :metric AND at_ms >= :since_ms

-- name: denied_since
-- A minute counts as a whole. Refused extensions are included, whether or not the phase enforced the refusal.
SELECT COALESCE(SUM(CASE WHEN enforced THEN count ELSE 0 END), 0) AS blocked, COALESCE(SUM(count), 0) AS would
FROM guard_denials WHERE metric = :metric AND minute_ms > :since_ms - 60000

-- name: would_block
-- The uses that phase 2 (organisations that never bought credit) or phase 3 (all) would have blocked.
SELECT COALESCE(SUM(count), 0) AS times, COALESCE(SUM(amount), 0) AS quantity, COUNT(DISTINCT org_id) AS orgs,
    COUNT(DISTINCT CASE WHEN pays THEN org_id END) AS paying
FROM guard_denials WHERE metric = :metric AND minute_ms > :since_ms - 60000 AND (:phase = 3 OR NOT pays) AND :phase >= 2

-- name: lines
-- The sums of the uses since :since_ms, by period.
SELECT u.org_id, u.metric, p.period, CASE p.period WHEN 'hour' THEN u.at_ms - u.at_ms % 3600000
    WHEN 'day' THEN u.at_ms - u.at_ms % 86400000 ELSE u.month_ms END AS start_ms, SUM(u.amount) AS quantity,
    COUNT(*) AS uses
FROM guard_uses u CROSS JOIN (SELECT 'hour' AS period UNION ALL SELECT 'day' UNION ALL SELECT 'month') p
WHERE u.at_ms >= :since_ms GROUP BY 1, 2, 3, 4

-- name: put_right
SELECT org_id, metric, period, start_ms, "before" AS counted, "after" AS quantity, 1 AS uses FROM guard_corrections
WHERE at_ms >= :since_ms AND actor = :actor AND reason = :reason ORDER BY number DESC LIMIT :at_most

-- name: drift
-- Counters that differ from the sum of their uses.
SELECT q.org_id, q.metric, q.period, q.start_ms, q.counted, q.quantity, q.uses
FROM (SELECT COALESCE(c.org_id, l.org_id) AS org_id, COALESCE(c.metric, l.metric) AS metric,
        COALESCE(c.period, l.period) AS period, COALESCE(c.start_ms, l.start_ms) AS start_ms,
        COALESCE(c.used, 0) AS counted, COALESCE(c.uses, 0) AS counted_uses, COALESCE(l.quantity, 0) AS quantity,
        COALESCE(l.uses, 0) AS uses
    FROM (SELECT * FROM guard_counters WHERE start_ms >= :since_ms) c FULL JOIN ({lines}) l ON l.org_id = c.org_id
        AND l.metric = c.metric AND l.period = c.period AND l.start_ms = c.start_ms) q
WHERE (q.counted <> q.quantity OR q.counted_uses <> q.uses) AND q.start_ms >= :since_ms
ORDER BY q.org_id, q.metric, q.start_ms, CASE q.period WHEN 'month' THEN 0 WHEN 'day' THEN 1 ELSE 2 END LIMIT :at_most

-- Requested and blocked uses by metric, among the newest :counted uses and minutes of refusals of each metric.

-- name: blocked_metrics
-- The newest terms of each metric.
SELECT m.metric, m.number, m.price_micro, m.per_units, m.payer, m.phase, m.warn_ppm, m.fails_open, m.counts
FROM guard_metrics m WHERE m.number = (SELECT MAX(x.number) FROM guard_metrics x WHERE x.metric = m.metric)
    AND m.metric > :after AND (:metric = '' OR m.metric = :metric)
ORDER BY m.metric LIMIT :at_most

-- name: floors
-- If a metric has :counted uses or more, `use_ms` is the time of the oldest counted use, else NULL. `minute_ms` is the
-- same for refusals.
WITH these AS MATERIALIZED (SELECT metric FROM {rows :metrics (metric text)} x)
SELECT t.metric,
    (SELECT CASE WHEN COUNT(*) = :counted THEN MIN(q.at_ms) END FROM (SELECT u.at_ms FROM guard_uses u
        WHERE u.metric = t.metric AND u.at_ms >= :since_ms ORDER BY u.at_ms DESC LIMIT :counted) q) AS use_ms,
    (SELECT CASE WHEN COUNT(*) = :counted THEN MIN(q.minute_ms) END FROM (SELECT d.minute_ms FROM guard_denials d
        WHERE d.metric = t.metric AND d.minute_ms > :since_ms - 60000 ORDER BY d.minute_ms DESC LIMIT :counted) q
    ) AS minute_ms
FROM these t

-- name: newest_uses
-- The uses that phase 3 would allow, too. It would block the others.
WITH these AS MATERIALIZED (SELECT metric, since_ms FROM {rows :floors (metric text, since_ms bigint)} x)
SELECT t.metric, COUNT(CASE WHEN u.at_ms >= :day_ms AND u.would <> 'block' THEN 1 END) AS day,
    COUNT(CASE WHEN u.at_ms >= :week_ms AND u.would <> 'block' THEN 1 END) AS week,
    COUNT(CASE WHEN u.would <> 'block' THEN 1 END) AS month
FROM these t {then} guard_uses u ON u.metric = t.metric AND u.at_ms >= t.since_ms GROUP BY t.metric

-- name: newest_denials
-- A minute counts as a whole. Phase 3 would block all of these. Phase 2 would block those without bought credit.
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
-- SQLite keeps the order of a cross join. With another join it may begin with all rows of the other table.
CROSS JOIN

-- The guard's figures for the Prometheus metrics, read by indexes.

-- name: names
SELECT DISTINCT metric FROM guard_metrics ORDER BY metric

-- name: denied
SELECT m.metric, d.enforced, CAST(SUM(d.count) AS BIGINT) AS times FROM (SELECT DISTINCT metric FROM guard_metrics) m
JOIN guard_denials d ON d.metric = m.metric AND d.minute_ms >= :since_ms GROUP BY m.metric, d.enforced

-- name: fail_open_uses
SELECT m.metric, COUNT(*) AS uses, CAST(SUM(u.amount) AS BIGINT) AS units
FROM (SELECT DISTINCT metric FROM guard_metrics) m
JOIN guard_uses u ON u.metric = m.metric AND u.at_ms >= :since_ms AND u.degraded GROUP BY m.metric

-- name: overrides
-- This reads all limit overrides. They are few, because each was requested one by one.
SELECT COUNT(CASE WHEN state = 'asked' THEN 1 END) AS waiting, MIN(CASE WHEN state = 'asked' THEN at_ms END) AS since_ms,
    COUNT(CASE WHEN state = 'in_force' AND ends_ms <= :before_ms THEN 1 END) AS ending
FROM guard_overrides WHERE (:metric = '' OR metric = :metric) AND (ends_ms IS NULL OR ends_ms > :now_ms)
