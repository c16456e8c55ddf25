-- The embedded ledger's rate card and plans.

-- name: insert_rate
INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason)
VALUES (:feature, :start_ms, :micro_credits, :per_quantity, :at_ms, :actor, :reason)

-- name: plan_limit
SELECT max_concurrent_sandboxes FROM ledger_plans WHERE plan = :plan

-- name: set_plan_limit
INSERT INTO ledger_plans (plan, max_concurrent_sandboxes) VALUES (:plan, :max_concurrent_sandboxes)
ON CONFLICT (plan) DO UPDATE SET max_concurrent_sandboxes = excluded.max_concurrent_sandboxes

-- name: plans
SELECT p.plan, p.max_concurrent_sandboxes AS max_concurrent, COUNT(a.account_id) AS customers,
    p.hold_factor_ppm, p.unknown_hold_micro, p.most_hold_micro, p.most_held_micro, p.holds_halt
FROM ledger_plans p LEFT JOIN ledger_accounts a ON a.plan = p.plan
GROUP BY p.plan, p.max_concurrent_sandboxes, p.hold_factor_ppm, p.unknown_hold_micro, p.most_hold_micro,
    p.most_held_micro, p.holds_halt
ORDER BY p.plan
