-- The amount of each metric that an organisation may use, and has used.

-- name: asker
-- The present payer, its plan, whether it ever bought credit, and the organisation's halt or stop. The result is always
-- one row.
SELECT q.customer_id, COALESCE(w."plan", q."plan") AS "plan", q.is_halted, q.halt_reason, q.stopped_at_ms,
    EXISTS (SELECT 1 FROM ledger_lots l WHERE l.customer_id = q.customer_id AND l.kind = 'purchased') AS pays
FROM (
    SELECT CASE WHEN a.customer_id <> '' AND a.provider NOT IN {unbilled} THEN a.customer_id ELSE :org_id END
            AS customer_id, o."plan", COALESCE(o.is_halted, 1 = 0) AS is_halted, o.halt_reason, o.stopped_at_ms
    FROM (SELECT 1 AS one) n LEFT JOIN orgs o ON o.org_id = :org_id
        LEFT JOIN assignments a ON a.org_id = :org_id AND a.start_ms <= :now_ms
            AND (a.end_ms IS NULL OR :now_ms < a.end_ms)
) q LEFT JOIN ledger_accounts w ON w.account_id = 'wallet:' || q.customer_id

-- name: limits
-- The newest limit of each metric, plan and period. The plan's own limit comes before that of any plan.
SELECT l.metric, l."plan", l.period, l.amount, l.phase FROM guard_limits l
WHERE l.metric IN :metrics AND l."plan" IN :plans AND NOT l.ended AND l.number = (SELECT MAX(x.number)
    FROM guard_limits x WHERE x.metric = l.metric AND x."plan" = l."plan" AND x.period = l.period)
ORDER BY CASE WHEN l."plan" = '*' THEN 1 ELSE 0 END

-- name: overrides
-- The newest override in force of each metric, reach and period.
SELECT q.metric, q.number, q.reach, q.period, q.amount, q.target, q.ends_ms FROM (
    SELECT o.metric, o.number, o.reach, o.period, o.amount, o.target, o.ends_ms,
        ROW_NUMBER() OVER (PARTITION BY o.metric, o.reach, o.period ORDER BY o.number DESC) AS place
    FROM guard_overrides o
    WHERE o.metric IN :metrics AND o.state = 'in_force' AND (o.ends_ms IS NULL OR o.ends_ms > :now_ms)
        AND ((o.reach = 'org' AND o.target = :org_id) OR (o.reach = 'plan' AND o.target = :plan)
            OR (o.reach = 'pattern' AND SUBSTR(CAST(:org_id AS TEXT), 1, LENGTH(o.target) - 1)
                = SUBSTR(o.target, 1, LENGTH(o.target) - 1)))) q
WHERE q.place = 1

-- name: counters
SELECT metric, period, used, warned FROM guard_counters WHERE org_id = :org_id AND metric IN :metrics
    AND ((period = 'hour' AND start_ms = :hour_ms) OR (period = 'day' AND start_ms = :day_ms)
        OR (period = 'month' AND start_ms = :month_ms))

-- name: overs
-- The amount of expired uses that the counters still include. The next use subtracts it.
SELECT metric, COALESCE(SUM(CASE WHEN at_ms >= :hour_ms THEN amount END), 0) AS "hour",
    COALESCE(SUM(CASE WHEN at_ms >= :day_ms THEN amount END), 0) AS "day",
    COALESCE(SUM(CASE WHEN at_ms >= :month_ms THEN amount END), 0) AS "month"
FROM guard_uses WHERE org_id = :org_id AND metric IN :metrics AND state = 'held' AND expires_ms <= :now_ms
GROUP BY metric

-- name: denials
-- Refusals of a day, by metric, reason and whether they were enforced. The table has at most one such row a minute.
SELECT metric, reason_code, enforced, SUM(count) AS times, SUM(amount) AS quantity, MAX(last_ms) AS last_ms
FROM guard_denials WHERE org_id = :org_id AND metric IN :metrics AND minute_ms > :since_ms - 60000
GROUP BY metric, reason_code, enforced ORDER BY times DESC, metric, reason_code, enforced LIMIT :at_most
