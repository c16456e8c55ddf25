-- The embedded ledger's rate card and plans.

-- name: insert_rate
INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason)
VALUES (:feature, :start_ms, :micro_credits, :per_quantity, :at_ms, :actor, :reason)
ON CONFLICT DO NOTHING RETURNING feature

-- name: plan_limit
SELECT max_concurrent_sandboxes FROM ledger_plans WHERE plan = :plan

-- name: set_plan_limit
INSERT INTO ledger_plans (plan, max_concurrent_sandboxes) VALUES (:plan, :max_concurrent_sandboxes)
ON CONFLICT (plan) DO UPDATE SET max_concurrent_sandboxes = excluded.max_concurrent_sandboxes

-- name: plans
SELECT p.plan, p.max_concurrent_sandboxes AS max_concurrent, COUNT(a.account_id) AS customers
FROM ledger_plans p LEFT JOIN ledger_accounts a ON a.plan = p.plan AND a.kind = 'wallet'
GROUP BY p.plan, p.max_concurrent_sandboxes ORDER BY p.plan
