-- What a plan's runs hold.

-- name: terms
p.hold_factor_ppm, p.unknown_hold_micro, p.most_hold_micro, p.most_held_micro, p.holds_halt

-- name: of_wallet
-- One row for each wallet, empty where it is on no plan.
SELECT {terms} FROM ledger_accounts a LEFT JOIN ledger_plans p ON p.plan = a.plan WHERE a.account_id = :account_id

-- name: of_plan
SELECT {terms} FROM ledger_plans p WHERE p.plan = :plan

-- name: set
UPDATE ledger_plans SET hold_factor_ppm = :hold_factor_ppm, unknown_hold_micro = :unknown_hold_micro,
    most_hold_micro = :most_hold_micro, most_held_micro = :most_held_micro, holds_halt = :holds_halt
WHERE plan = :plan
