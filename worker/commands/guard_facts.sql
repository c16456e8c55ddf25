-- What a decision of the guard goes by, beside counters.

-- name: customer
-- A customer's plan, by its wallet or by what its provider said, and whether it ever bought credit: one row, always.
SELECT COALESCE(w."plan", o."plan") AS "plan", w.account_id IS NOT NULL AS has_wallet,
    EXISTS (SELECT 1 FROM ledger_lots l WHERE l.customer_id = :customer_id AND l.kind = 'purchased') AS pays
FROM (SELECT 1 AS one) q LEFT JOIN ledger_accounts w ON w.account_id = :account_id
    LEFT JOIN orgs o ON o.org_id = :org_id

-- name: limits
-- The newest of each plan and period; the plan's own stands before that of any plan.
SELECT l."plan", l.period, l.amount, l.phase FROM guard_limits l
WHERE l.metric = :metric AND l."plan" IN :plans AND NOT l.ended AND l.number = (SELECT MAX(x.number)
    FROM guard_limits x WHERE x.metric = l.metric AND x."plan" = l."plan" AND x.period = l.period)
ORDER BY CASE WHEN l."plan" = :any_plan THEN 1 ELSE 0 END

-- name: overrides
-- Of those in force now, the newest of each kind and period.
SELECT q.number, q.reach, q.period, q.amount FROM (
    SELECT o.number, o.reach, o.period, o.amount,
        ROW_NUMBER() OVER (PARTITION BY o.reach, o.period ORDER BY o.number DESC) AS place
    FROM guard_overrides o
    WHERE o.metric = :metric AND o.state = 'in_force' AND (o.ends_ms IS NULL OR o.ends_ms > :now_ms)
        AND ((o.reach = 'org' AND o.target = :org_id) OR (o.reach = 'plan' AND o.target = :plan)
            OR (o.reach = 'pattern' AND SUBSTR(CAST(:org_id AS TEXT), 1, LENGTH(o.target) - 1)
                = SUBSTR(o.target, 1, LENGTH(o.target) - 1)))) q
WHERE q.place = 1
