-- The metrics of the guard, and the limits of plans.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: hold
-- Lock the metric's first row. Until this transaction ends, other transactions cannot set the metric or its limits.
SELECT 1 FROM guard_metrics WHERE metric = :metric AND number = 1 {for_update}

-- name: metric
SELECT metric, number, price_micro, per_units, payer, phase, warn_ppm, fails_open, counts FROM guard_metrics
WHERE metric = :metric AND (number = :number OR CAST(:number AS INTEGER) IS NULL) ORDER BY number DESC LIMIT 1

-- name: add_metric
INSERT INTO guard_metrics (metric, number, price_micro, per_units, payer, phase, warn_ppm, fails_open, counts,
    at_ms, actor, reason)
VALUES (:metric, :number, :price_micro, :per_units, :payer, :phase, :warn_ppm, :fails_open, :counts,
    :at_ms, :actor, :reason)
ON CONFLICT DO NOTHING RETURNING number

-- name: last_limit
SELECT number, ended, amount, phase FROM guard_limits
WHERE metric = :metric AND "plan" = :plan AND period = :period ORDER BY number DESC LIMIT 1

-- name: add_limit
INSERT INTO guard_limits (metric, "plan", period, number, ended, amount, phase, at_ms, actor, reason)
VALUES (:metric, :plan, :period, :number, :ended, :amount, :phase, :at_ms, :actor, :reason)

-- The facts for a decision of the guard, except the counters.

-- name: customer
-- A customer's plan, by its wallet or by the provider's answer, and whether it ever bought credit. The result is always
-- one row.
SELECT COALESCE(w."plan", o."plan") AS "plan", w.account_id IS NOT NULL AS has_wallet,
    EXISTS (SELECT 1 FROM ledger_lots l WHERE l.customer_id = :customer_id AND l.kind = 'purchased') AS pays
FROM (SELECT 1 AS one) q LEFT JOIN ledger_accounts w ON w.account_id = :account_id
    LEFT JOIN orgs o ON o.org_id = :org_id

-- name: given_metric
:metric

-- name: given_org
CAST(:org_id AS TEXT)

-- name: given_plan
:plan

-- name: its_metric
w.metric

-- name: its_org
w.org_id

-- name: its_plan
w."plan"

-- name: limits
-- The newest limit of each period, of a plan and of any plan. `its_metric`, `its_plan`: columns, or parameters.
SELECT l."plan", l.period, l.amount, l.phase FROM guard_limits l
WHERE l.metric = {its_metric} AND l."plan" IN ({its_plan}, '*') AND NOT l.ended AND l.number = (SELECT MAX(x.number)
    FROM guard_limits x WHERE x.metric = l.metric AND x."plan" = l."plan" AND x.period = l.period)

-- name: overrides
-- The limit overrides in force for the caller, with the same parameters. The newest of a reach and a period counts.
SELECT o.number, o.reach, o.period, o.amount FROM guard_overrides o
WHERE o.metric = {its_metric} AND o.state = 'in_force' AND (o.ends_ms IS NULL OR o.ends_ms > :now_ms)
    AND ((o.reach = 'org' AND o.target = {its_org}) OR (o.reach = 'plan' AND o.target = {its_plan})
        OR (o.reach = 'pattern' AND SUBSTR({its_org}, 1, LENGTH(o.target) - 1)
            = SUBSTR(o.target, 1, LENGTH(o.target) - 1)))

-- name: listed [postgresql]
json_agg

-- name: listed [sqlite]
json_group_array

-- name: row [postgresql]
json_build_array

-- name: row [sqlite]
json_array

-- name: whole [postgresql]
to_json

-- name: whole [sqlite]
json

-- name: seen
-- The facts of many callers, with their counters and wallets. Each row is one JSON text with the fields of
-- `AskerRows`, by the place `n`. Many columns would cost more than their contents. In SQLite, a value appended to '' is
-- text and no longer JSON. The LIMIT equals the number of callers, so that PostgreSQL plans for few rows.
WITH asked AS MATERIALIZED (
    SELECT r.* FROM {rows :asked (n integer, org_id text, metric text, project text)} r LIMIT :asking
),
who AS MATERIALIZED (
    SELECT q.n, q.org_id, q.metric, q.project, a.provider, a.customer_id AS billed_as, o.is_halted, o.halt_reason,
        o.stopped_at_ms, o."plan",
        CASE WHEN a.provider NOT IN {unbilled} AND a.customer_id <> '' THEN a.customer_id ELSE q.org_id END AS customer_id
    FROM asked q LEFT JOIN orgs o ON o.org_id = q.org_id
        LEFT JOIN assignments a ON a.org_id = q.org_id AND a.start_ms <= :now_ms
            AND (a.end_ms IS NULL OR :now_ms < a.end_ms)
),
paying AS MATERIALIZED (
    SELECT w.n, w.org_id, w.metric, w.project, w.provider, w.billed_as, w.is_halted, w.halt_reason, w.stopped_at_ms,
        w.customer_id, x.account_id, COALESCE(x."plan", w."plan", '') AS "plan", x.balance_micro, x.held_micro,
        x.overdraft_micro, x.over_micro, x.next_due_ms, x.lots_over_ms, x.deferred_micro, {reservation_terms}
    FROM who w LEFT JOIN ledger_accounts x ON x.account_id = 'wallet:' || w.customer_id
        LEFT JOIN ledger_plans p ON p."plan" = x."plan"
)
SELECT w.n, CAST({row}(
    w.provider, w.billed_as, w.is_halted, w.halt_reason, w.stopped_at_ms, w.customer_id, w."plan",
    {whole}((SELECT {row}(m.number, m.price_micro, m.per_units, m.payer, m.phase, m.warn_ppm, m.fails_open, m.counts)
        FROM guard_metrics m WHERE m.metric = w.metric ORDER BY m.number DESC LIMIT 1)),
    {row}(w.account_id, w.balance_micro, w.held_micro, w.overdraft_micro, w.over_micro, w.next_due_ms, w.lots_over_ms,
        w.deferred_micro),
    {row}({reservation_terms}),
    EXISTS (SELECT 1 FROM ledger_lots l WHERE l.customer_id = w.customer_id AND l.kind = 'purchased'),
    EXISTS (SELECT 1 FROM run_blocks b WHERE b.org_id = w.org_id AND ((b.kind = 'project' AND b.name = w.project)
        OR (b.kind = 'action' AND b.name = w.metric))),
    EXISTS (SELECT 1 FROM guard_uses u WHERE u.org_id = w.org_id AND u.metric = w.metric AND u.state = 'held'
        AND u.expires_ms <= :now_ms),
    EXISTS (SELECT 1 FROM pools p WHERE p.pool = w.customer_id)
        OR EXISTS (SELECT 1 FROM assignments a WHERE a.provider IN (SELECT s.provider FROM provider_states s
                UNION ALL SELECT 'embedded') AND a.customer_id = w.customer_id AND a.org_id <> w.org_id
            AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)),
    EXISTS (SELECT 1 FROM assignments a JOIN orgs o ON o.org_id = a.org_id LEFT JOIN buckets b ON b.id = o.bucket
        WHERE a.customer_id = w.customer_id AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)
            AND {may_have_used}),
    {whole}((SELECT {listed}({row}(y.period, y.amount, y.phase, y."plan")) FROM ({limits}) y)),
    {whole}((SELECT {listed}({row}(y.number, y.reach, y.period, y.amount)) FROM ({overrides}) y)),
    {whole}((SELECT {listed}({row}(c.period, c.used, c.warned, c.uses)) FROM guard_counters c
        WHERE c.org_id = w.org_id AND c.metric = w.metric AND ((c.period = 'hour' AND c.start_ms = :hour_ms)
        OR (c.period = 'day' AND c.start_ms = :day_ms) OR (c.period = 'month' AND c.start_ms = :month_ms))))
    ) AS TEXT) || '' AS seen
FROM paying w
