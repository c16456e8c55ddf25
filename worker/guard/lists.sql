-- What the guard counts, allowed and refused.

-- name: metrics
-- The newest terms of each metric.
SELECT m.metric, m.number, m.price_micro, m.per_units, m.payer, m.phase, m.warn_ppm, m.fails_open
FROM guard_metrics m WHERE m.number = (SELECT MAX(x.number) FROM guard_metrics x WHERE x.metric = m.metric)
ORDER BY m.metric LIMIT :at_most

-- name: limits
-- The newest of each plan and period that did not end.
SELECT l.metric, l."plan", l.period, l.amount, l.phase, l.at_ms, l.actor, l.reason FROM guard_limits l
WHERE (:metric = '' OR l.metric = :metric) AND NOT l.ended AND l.number = (SELECT MAX(x.number)
    FROM guard_limits x WHERE x.metric = l.metric AND x."plan" = l."plan" AND x.period = l.period)
ORDER BY l.metric, l."plan", CASE l.period WHEN 'hour' THEN 0 WHEN 'day' THEN 1 ELSE 2 END LIMIT :at_most

-- name: is_over
-- What is held and over counts nowhere, whether anything has looked at it since or not.
state = 'held' AND expires_ms <= :now_ms

-- name: limit_periods
-- In which a metric has limits that did not end, of some plans or (`every`) of any.
SELECT DISTINCT l.period FROM guard_limits l
WHERE l.metric = :metric AND (:every = 1 OR l."plan" IN :plans) AND NOT l.ended AND l.number = (SELECT MAX(x.number)
    FROM guard_limits x WHERE x.metric = l.metric AND x."plan" = l."plan" AND x.period = l.period)

-- name: fits
SELECT 1 FROM orgs WHERE SUBSTR(org_id, 1, LENGTH(CAST(:begins AS TEXT))) = :begins LIMIT 1

-- name: uses
SELECT use_key, org_id, metric, CASE WHEN {is_over} THEN 'expired' ELSE state END AS state, asked,
    CASE WHEN {is_over} THEN 0 ELSE amount END AS amount, decision, would, rule, degraded, charged_micro, forgone_micro,
    at_ms, expires_ms, actor FROM guard_uses
WHERE (:metric = '' OR metric = :metric) AND (:org_id = '' OR org_id = :org_id) AND (:dark = 0 OR degraded)
ORDER BY at_ms DESC, use_key LIMIT :at_most

-- name: allowed_since
-- `passes`: those that phase 3 lets through, too; the others are among what it would block.
SELECT COUNT(CASE WHEN would <> 'block' THEN 1 END) AS passes,
    COALESCE(SUM(CASE WHEN degraded THEN amount ELSE 0 END), 0) AS dark, COALESCE(SUM(forgone_micro), 0) AS forgone_micro
FROM guard_uses WHERE metric = :metric AND at_ms >= :since_ms

-- name: denied_since
-- A minute counts as a whole. Extensions that were blocked, or would be, are among them.
SELECT COALESCE(SUM(CASE WHEN enforced THEN count ELSE 0 END), 0) AS blocked, COALESCE(SUM(count), 0) AS would
FROM guard_denials WHERE metric = :metric AND minute_ms > :since_ms - 60000

-- name: would_block
-- What a phase that blocks whoever never bought credit, or all, would have blocked.
SELECT COALESCE(SUM(count), 0) AS times, COALESCE(SUM(amount), 0) AS amount, COUNT(DISTINCT org_id) AS orgs,
    COUNT(DISTINCT CASE WHEN pays THEN org_id END) AS paying
FROM guard_denials WHERE metric = :metric AND minute_ms > :since_ms - 60000 AND (:phase = 3 OR NOT pays) AND :phase >= 2

-- name: lines
-- What uses come to, by period: those that begin at :since_ms or later.
SELECT u.org_id, u.metric, p.period, CASE p.period WHEN 'hour' THEN u.at_ms - u.at_ms % 3600000
    WHEN 'day' THEN u.at_ms - u.at_ms % 86400000 ELSE u.month_ms END AS start_ms, SUM(u.amount) AS amount,
    COUNT(*) AS uses
FROM guard_uses u CROSS JOIN (SELECT 'hour' AS period UNION ALL SELECT 'day' UNION ALL SELECT 'month') p
WHERE u.at_ms >= :since_ms GROUP BY 1, 2, 3, 4

-- name: put_right
SELECT org_id, metric, period, start_ms, "before" AS counted, "after" AS amount, 1 AS uses FROM guard_corrections
WHERE at_ms >= :since_ms AND actor = :actor AND reason = :reason ORDER BY number DESC LIMIT :at_most

-- name: drift
-- Counters that are not the sum of their uses.
SELECT q.org_id, q.metric, q.period, q.start_ms, q.counted, q.amount, q.uses
FROM (SELECT COALESCE(c.org_id, l.org_id) AS org_id, COALESCE(c.metric, l.metric) AS metric,
        COALESCE(c.period, l.period) AS period, COALESCE(c.start_ms, l.start_ms) AS start_ms,
        COALESCE(c.used, 0) AS counted, COALESCE(c.uses, 0) AS counted_uses, COALESCE(l.amount, 0) AS amount,
        COALESCE(l.uses, 0) AS uses
    FROM (SELECT * FROM guard_counters WHERE start_ms >= :since_ms) c FULL JOIN ({lines}) l ON l.org_id = c.org_id
        AND l.metric = c.metric AND l.period = c.period AND l.start_ms = c.start_ms) q
WHERE (q.counted <> q.amount OR q.counted_uses <> q.uses) AND q.start_ms >= :since_ms
ORDER BY q.org_id, q.metric, q.start_ms, CASE q.period WHEN 'month' THEN 0 WHEN 'day' THEN 1 ELSE 2 END LIMIT :at_most
