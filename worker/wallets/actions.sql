-- The embedded ledger's rate card and plans.

-- name: insert_rate
INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason)
VALUES (:feature, :start_ms, :micro_credits, :per_quantity, :at_ms, :actor, :reason)
ON CONFLICT DO NOTHING RETURNING feature

-- name: used_since
SELECT CAST(COALESCE(SUM(sealed_qty), 0) AS BIGINT) AS quantity, COUNT(DISTINCT org_id) AS orgs FROM pushes
WHERE window_ms >= :from_ms AND feature = :feature AND provider IN :providers AND state <> 'voided'

-- name: to_change [postgresql]
FOR NO KEY UPDATE

-- name: to_change [sqlite]

-- name: make_plan
INSERT INTO ledger_plans (plan, max_concurrent_sandboxes) VALUES (:plan, :max_concurrent_sandboxes)
ON CONFLICT (plan) DO NOTHING RETURNING plan

-- name: hold_plan
-- Lock a plan. Until this transaction is over, other transactions cannot change the plan or grant its credit.
SELECT max_concurrent_sandboxes FROM ledger_plans WHERE plan = :plan {to_change}

-- name: set_plan_limit
UPDATE ledger_plans SET max_concurrent_sandboxes = :max_concurrent_sandboxes WHERE plan = :plan

-- name: plans
SELECT p.plan, p.max_concurrent_sandboxes AS max_concurrent, COALESCE(a.customers, 0) AS customers,
    {reservation_terms},
    COALESCE(t.included_micro, 0) AS included_micro, COALESCE(t.rollover_min_micro, 0) AS rollover_min_micro,
    COALESCE(t.rollover_max_micro, 0) AS rollover_max_micro, COALESCE(t.first_micro, 0) AS first_micro
FROM ledger_plans p
LEFT JOIN (SELECT plan, COUNT(*) AS customers FROM ledger_accounts GROUP BY plan) a ON a.plan = p.plan
LEFT JOIN plan_terms t ON t.plan = p.plan
    AND t.number = (SELECT MAX(n.number) FROM plan_terms n WHERE n.plan = p.plan)
ORDER BY p.plan
