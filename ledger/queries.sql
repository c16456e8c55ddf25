-- The embedded ledger: accounts, entries, the rate card.

-- name: wallets
SELECT w.id, COALESCE(a.balance_micro, 0) AS balance_micro, a.plan, p.max_concurrent_sandboxes,
    COALESCE(a.held_micro, 0) AS held_micro, COALESCE(a.overdraft_micro, 0) AS overdraft_micro
FROM {rows :customers (id text)} w
LEFT JOIN ledger_accounts a ON a.account_id = 'wallet:' || w.id
LEFT JOIN ledger_plans p ON p.plan = a.plan

-- name: has_wallet
SELECT 1 FROM ledger_accounts WHERE account_id = :account_id

-- name: plan
SELECT 1 FROM ledger_plans WHERE plan = :plan

-- name: set_plan
UPDATE ledger_accounts SET plan = :plan WHERE account_id = :account_id

-- name: open_accounts
INSERT INTO ledger_accounts (account_id) SELECT id FROM {rows :accounts (id text)} r WHERE 1 = 1
ORDER BY id ON CONFLICT (account_id) DO NOTHING

-- name: post
INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor,
    reason, reservation, lot)
SELECT key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor, reason, reservation, lot
FROM {rows :entries (key text, kind text, from_account text, to_account text, amount_micro bigint, feature text,
    quantity bigint, ts bigint, at_ms bigint, actor text, reason text, reservation text, lot text)} r
WHERE 1 = 1 ON CONFLICT (key) DO NOTHING RETURNING key

-- name: move
-- What is dated before the end of lots that are over may change what they expired with; what comes in, what waits to.
-- Either falls due at once (0).
UPDATE ledger_accounts SET balance_micro = balance_micro + r.amount,
    next_due_ms = CASE WHEN r.first_ms < lots_ended_ms OR (deferred_micro > 0 AND r.amount > 0) THEN 0
        ELSE next_due_ms END
FROM {rows :moves (id text, amount bigint, first_ms bigint)} r WHERE account_id = r.id

-- name: entries
-- Those under these keys.
FROM ledger_entries e JOIN {rows :keys (key text)} w ON w.key = e.key

-- name: contents
SELECT e.key, e.from_account, e.feature, e.quantity {entries}

-- name: charges
SELECT e.key, e.from_account, e.to_account, e.amount_micro, e.feature, e.quantity, e.ts {entries}
WHERE e.kind = 'usage'

-- name: grant
SELECT to_account, amount_micro FROM ledger_entries WHERE key = :key

-- name: totals
SELECT feature, CAST(SUM(quantity) AS BIGINT) AS quantity FROM ledger_entries WHERE kind = 'usage'
    AND from_account = :from_account AND ts >= :from_ms AND ts < :to_ms GROUP BY feature

-- name: rates
SELECT feature, start_ms, micro_credits, per_quantity FROM ledger_rates
