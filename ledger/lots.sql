-- Lots: their terms, the amounts booked of them, and the use in each part of time.

-- name: insert
INSERT INTO ledger_lots (lot, customer_id, kind, amount_micro, priority, begins_ms, expires_ms, features, at_ms, actor,
    reason, pool)
VALUES (:lot, :customer_id, :kind, :amount_micro, :priority, :begins_ms, :expires_ms, :features, :at_ms, :actor,
    :reason, :pool)
ON CONFLICT (lot) DO NOTHING RETURNING lot

-- name: columns
l.lot, l.customer_id, l.kind, l.amount_micro, l.priority, l.begins_ms, l.expires_ms, l.features, l.at_ms, l.actor,
    l.reason, l.pool

-- name: one
SELECT {columns} FROM ledger_lots l WHERE l.lot = :lot

-- name: of_wallets
-- Return the lots of wallets, each with its booked amounts and its part of a plan.
SELECT {columns},
    CAST(COALESCE(SUM(CASE WHEN e.kind = 'expiry' THEN e.amount_micro END), 0) AS BIGINT) AS expired_micro,
    CAST(COALESCE(-SUM(CASE WHEN e.kind = 'grant' THEN e.amount_micro END), 0) AS BIGINT) AS taken_micro,
    COUNT(CASE WHEN e.kind = 'expiry' THEN 1 END) AS expiries, COUNT(CASE WHEN e.kind = 'grant' THEN 1 END) AS takes,
    p.part, p.plan, p.period, COALESCE(p.rollover_min_micro, 0) AS rollover_min_micro,
    COALESCE(p.rollover_max_micro, 0) AS rollover_max_micro,
    CAST(COALESCE(-SUM(CASE WHEN e.key LIKE 'reduced:%' THEN e.amount_micro END), 0) AS BIGINT) AS reduced_micro
FROM ledger_lots l LEFT JOIN plan_lots p ON p.lot = l.lot LEFT JOIN ledger_entries e ON e.lot = l.lot
WHERE l.customer_id IN :customers GROUP BY l.lot, p.lot

-- name: to_begin
-- Return lots that were granted for later, have begun, and are not in the balance yet.
SELECT {columns} FROM ledger_lots l
WHERE l.customer_id IN :customers AND l.begins_ms > l.at_ms AND l.begins_ms <= :now_ms
    AND NOT EXISTS (SELECT 1 FROM ledger_entries e WHERE e.key = l.lot)
ORDER BY l.lot

-- name: to_look_at
-- Return wallets with an ended lot that their last check did not book, with credit that waits to expire, or with a
-- change since then (due time 0). Also return wallets that get lots that have already ended (:too).
SELECT a.account_id, a.balance_micro, a.held_micro, a.over_micro FROM ledger_accounts a
WHERE a.account_id IN :accounts AND (a.next_due_ms = 0 OR a.deferred_micro > 0 OR a.account_id IN :too OR EXISTS (
    SELECT 1 FROM ledger_lots l WHERE l.customer_id = SUBSTR(a.account_id, 8) AND l.expires_ms <= :now_ms
    AND (a.lots_ended_ms IS NULL OR l.expires_ms > a.lots_ended_ms)))
ORDER BY a.account_id

-- name: used
-- Return the use in each part of time, by feature. Usage counts at its window, an execution at its acceptance, and a
-- tier at its month. Credit that was taken back without a lot ('', `TAKEN`) counts at that moment. A pool uses the
-- credit that it allots. If allotted credit returns, it does not count as used.
WITH parts AS MATERIALIZED (SELECT * FROM {rows :parts (account_id text, part bigint, from_ms bigint, to_ms bigint)} r)
SELECT p.account_id, p.part, e.feature, CAST(SUM(e.amount_micro) AS BIGINT) AS amount_micro
FROM parts p JOIN ledger_entries e ON e.from_account = p.account_id AND e.ts >= p.from_ms AND e.ts < p.to_ms
WHERE e.kind IN ('usage', 'execution', 'tier') GROUP BY p.account_id, p.part, e.feature
UNION ALL
SELECT p.account_id, p.part, '', CAST(-SUM(e.amount_micro) AS BIGINT)
FROM parts p JOIN ledger_entries e ON e.to_account = p.account_id AND e.ts >= p.from_ms AND e.ts < p.to_ms
WHERE e.kind = 'grant' AND e.amount_micro < 0 AND e.lot IS NULL GROUP BY p.account_id, p.part
UNION ALL
SELECT p.account_id, p.part, NULL, CAST(SUM(e.amount_micro) AS BIGINT)
FROM parts p JOIN ledger_entries e ON e.from_account = p.account_id AND e.ts >= p.from_ms AND e.ts < p.to_ms
WHERE e.kind = 'grant' GROUP BY p.account_id, p.part
UNION ALL
SELECT p.account_id, p.part, NULL, CAST(-SUM(e.amount_micro) AS BIGINT)
FROM parts p JOIN ledger_entries e ON e.to_account = p.account_id AND e.ts >= p.from_ms AND e.ts < p.to_ms
WHERE e.kind = 'expiry' AND e.to_account <> 'breakage' GROUP BY p.account_id, p.part

-- name: lenders
-- Return the pools that may gain or lose credit by ended lots of these customers.
SELECT DISTINCT l.pool FROM ledger_lots l
WHERE l.customer_id IN :customers AND l.expires_ms <= :over_ms AND l.pool IS NOT NULL

-- name: borrowers
-- Return customers with ended allotments of these pools, if Drawdown did not check them since, or they changed since
-- (0). The pool loses the late use of an allotment.
SELECT DISTINCT l.customer_id FROM ledger_lots l JOIN ledger_accounts a ON a.account_id = 'wallet:' || l.customer_id
WHERE l.pool IN :customers AND l.expires_ms <= :over_ms
    AND (a.lots_ended_ms IS NULL OR a.lots_ended_ms < l.expires_ms OR a.next_due_ms = 0)
ORDER BY l.customer_id LIMIT :at_most

-- name: looked_at
UPDATE ledger_accounts SET deferred_micro = r.deferred_micro, over_micro = r.over_micro, lots_ended_ms = (
    SELECT MAX(l.expires_ms) FROM ledger_lots l
    WHERE l.customer_id = SUBSTR(r.account_id, 8) AND l.expires_ms <= :over_ms), lots_over_ms = (
    SELECT MAX(l.expires_ms) FROM ledger_lots l
    WHERE l.customer_id = SUBSTR(r.account_id, 8) AND l.expires_ms <= :now_ms)
FROM {rows :looked (account_id text, deferred_micro bigint, over_micro bigint)} r WHERE ledger_accounts.account_id = r.account_id

-- name: expect
-- Make the wallet due at that moment, unless it is due earlier.
UPDATE ledger_accounts SET next_due_ms = CASE WHEN next_due_ms < :moment_ms THEN next_due_ms ELSE :moment_ms END
WHERE account_id = :account_id
