-- The embedded ledger: accounts, entries, the rate card.

-- name: wallets
SELECT w.id, COALESCE(a.balance_micro, 0) AS balance_micro, a.plan, {concurrent_sandboxes} AS max_concurrent_sandboxes,
    COALESCE(a.held_micro, 0) AS held_micro, COALESCE(a.overdraft_micro, 0) AS overdraft_micro,
    COALESCE(a.over_micro, 0) AS over_micro
FROM {rows :customers (id text)} w
LEFT JOIN ledger_accounts a ON a.account_id = 'wallet:' || w.id
LEFT JOIN ledger_plans p ON p.plan = a.plan

-- name: has_wallet
SELECT 1 FROM ledger_accounts WHERE account_id = :account_id

-- name: due
-- Return the wallets with a due change.
SELECT account_id FROM ledger_accounts WHERE account_id IN :accounts AND next_due_ms <= :now_ms ORDER BY account_id

-- name: for_share [postgresql]
FOR SHARE

-- name: for_share [sqlite]

-- name: hold_plans
SELECT plan FROM ledger_plans WHERE plan IN :plans ORDER BY plan {for_share}

-- name: set_plan
-- Make the wallet due immediately, so that the plan's credit is granted.
UPDATE ledger_accounts SET plan = :plan, given_to_ms = NULL, next_due_ms = 0
WHERE account_id = :account_id AND (plan IS NULL OR plan <> :plan) RETURNING account_id

-- name: stay
-- Run this under the wallet's lock. A stay never begins before the previous stay, even if this machine's clock is
-- wrong.
INSERT INTO plan_stays (customer_id, number, plan, since_ms, at_ms, actor, reason)
SELECT CAST(:customer_id AS TEXT), q.number, CAST(:plan AS TEXT),
    CASE WHEN q.least_ms > :now_ms THEN q.least_ms ELSE :now_ms END, :now_ms, CAST(:actor AS TEXT),
    CAST(:reason AS TEXT)
FROM (SELECT COALESCE(MAX(number), 0) + 1 AS number, MAX(since_ms) AS least_ms FROM plan_stays
    WHERE customer_id = :customer_id) q

-- name: open_accounts
INSERT INTO ledger_accounts (account_id) SELECT id FROM {rows :accounts (id text)} r WHERE 1 = 1
ORDER BY id ON CONFLICT (account_id) DO NOTHING

-- name: post
INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor,
    reason, reservation, lot, rate_ms)
SELECT key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor, reason, reservation, lot,
    rate_ms
FROM {rows :entries (key text, kind text, from_account text, to_account text, amount_micro bigint, feature text,
    quantity bigint, ts bigint, at_ms bigint, actor text, reason text, reservation text, lot text, rate_ms bigint)} r
WHERE 1 = 1 ON CONFLICT (key) DO NOTHING RETURNING key

-- name: move
-- Use dated before the end of ended lots may change their remaining credit, or the amount that they expired with.
-- Incoming credit may change the amount that waits to expire. Either makes the wallet due immediately (0).
UPDATE ledger_accounts SET balance_micro = balance_micro + r.amount,
    next_due_ms = CASE WHEN r.first_ms < lots_over_ms OR (deferred_micro > 0 AND r.amount > 0) THEN 0
        ELSE next_due_ms END
FROM {rows :moves (id text, amount bigint, first_ms bigint)} r WHERE account_id = r.id
RETURNING account_id, balance_micro

-- name: entries
-- Return the entries under these keys.
FROM ledger_entries e JOIN {rows :keys (key text)} w ON w.key = e.key

-- name: contents
SELECT e.key, e.from_account, e.feature, e.quantity {entries}

-- name: charges
SELECT e.key, e.from_account, e.to_account, e.amount_micro, e.feature, e.quantity, e.ts, e.rate_ms {entries}
WHERE e.kind = 'usage'

-- name: grant
SELECT to_account, amount_micro FROM ledger_entries WHERE key = :key

-- name: totals
SELECT feature, CAST(SUM(quantity) AS BIGINT) AS quantity FROM ledger_entries WHERE kind = 'usage'
    AND from_account = :from_account AND ts >= :from_ms AND ts < :to_ms GROUP BY feature

-- name: first_rates
-- For each of these windows, return the rate of the wallet's first charge of the feature. NULL: no charge exists, or
-- its rate is unknown. A charge of an older version does not name its rate. It had the latest rate on record at its
-- booking.
SELECT w.account_id, w.feature, w.window_ms, (
    SELECT COALESCE(e.rate_ms, (SELECT MAX(r.start_ms) FROM ledger_rates r
        WHERE r.feature = e.feature AND r.start_ms <= e.ts AND r.at_ms <= e.at_ms))
    FROM ledger_entries e WHERE e.from_account = w.account_id AND e.ts >= w.window_ms
        AND e.ts < w.window_ms + {window_length_ms} AND e.kind = 'usage' AND e.feature = w.feature
    ORDER BY e.at_ms, e.key LIMIT 1) AS rate_ms
FROM {rows :windows (account_id text, feature text, window_ms bigint)} w

-- name: rates
SELECT feature, start_ms, micro_credits, per_quantity FROM ledger_rates WHERE at_ms <= :known_ms

-- The amounts that a plan's executions reserve.

-- name: of_wallet
-- Return one row for a wallet, empty if it has no plan.
SELECT {reservation_terms} FROM ledger_accounts a
    LEFT JOIN ledger_plans p ON p.plan = a.plan WHERE a.account_id = :account_id

-- name: of_plan
SELECT {reservation_terms} FROM ledger_plans p WHERE p.plan = :plan

-- name: set
UPDATE ledger_plans SET hold_factor_ppm = :hold_factor_ppm, unknown_hold_micro = :unknown_hold_micro,
    most_hold_micro = :most_hold_micro, most_held_micro = :most_held_micro, holds_halt = :holds_halt
WHERE plan = :plan
