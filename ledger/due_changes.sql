-- Changes of wallets that fall due by time.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: left
-- The reserved amount that was not drawn.
CASE WHEN drawn_micro < amount_micro THEN amount_micro - drawn_micro ELSE 0 END

-- name: look
-- Return a wallet. `is_due` is 1 if a change of its balance is due.
SELECT a.balance_micro, a.plan, {concurrent_sandboxes} AS max_concurrent_sandboxes,
    p.max_concurrent_sandboxes AS plan_sandboxes, a.held_micro, a.overdraft_micro,
    a.over_micro, CASE WHEN a.next_due_ms <= :now_ms THEN 1 ELSE 0 END AS is_due
FROM (SELECT CAST(:customer_id AS TEXT) AS id) w JOIN ledger_accounts a ON a.account_id = 'wallet:' || w.id
LEFT JOIN ledger_plans p ON p.plan = a.plan

-- name: due_wallets
-- Return the first due wallets, in the order of their due times.
SELECT account_id, next_due_ms FROM ledger_accounts WHERE next_due_ms <= :now_ms
ORDER BY next_due_ms, account_id LIMIT :at_most

-- name: hold_due
-- Lock due reservations in the order of their keys, without those that another transaction ended meanwhile.
SELECT reservation FROM reservations WHERE customer_id IN :customers AND state = 'held' AND hold = 'wallet'
    AND expires_ms <= :now_ms
ORDER BY reservation LIMIT :at_most {for_update}

-- name: hold_wallets
SELECT account_id FROM ledger_accounts WHERE account_id IN :accounts ORDER BY account_id {for_update}

-- name: expire
UPDATE reservation_sandboxes SET is_open = FALSE
WHERE is_open AND reservation IN (SELECT reservation FROM {rows :due (reservation text)} d);
UPDATE reservations SET state = 'expired', ended_ms = :now_ms, ended_by = 'drawdown', ended_reason = 'expired'
WHERE reservation IN (SELECT reservation FROM {rows :due (reservation text)} d)
RETURNING reservation, org_id, customer_id, project, subject, action, amount_micro, drawn_micro, expires_ms,
    {left} AS left_micro

-- name: unhold
UPDATE ledger_accounts SET held_micro = held_micro - r.freed
FROM {rows :wallets (account_id text, freed bigint)} r WHERE ledger_accounts.account_id = r.account_id

-- name: next_due
-- Run this separate statement under the wallets' lock, so that it sees the reservations made since this transaction
-- began. A wallet is due when a lot ends, and again when Drawdown books that end. Afterwards only a change of the lot
-- makes the wallet due. A wallet on a plan is due when each month begins, even if the plan then grants no credit. A
-- pool is due when its allotment returns. A wallet that is not settled yet, or is still to be reported (`due_ms`), is
-- due now. The query reads only the first end of an execution, because many executions may continue.
UPDATE ledger_accounts SET next_due_ms = (SELECT MIN(moment_ms) FROM (
    SELECT MIN(h.expires_ms) AS moment_ms FROM reservations h WHERE h.customer_id = r.customer_id AND h.state = 'held'
        AND h.hold = 'wallet'
    UNION ALL SELECT l.begins_ms FROM ledger_lots l
        WHERE l.customer_id = r.customer_id AND l.begins_ms > l.at_ms AND l.begins_ms > :now_ms
    UNION ALL SELECT l.expires_ms FROM ledger_lots l WHERE l.customer_id = r.customer_id AND l.expires_ms > :now_ms
    UNION ALL SELECT l.expires_ms + :wait_ms FROM ledger_lots l
        WHERE l.customer_id = r.customer_id AND l.expires_ms > :now_ms - :wait_ms
    UNION ALL SELECT l.expires_ms + :wait_ms FROM ledger_lots l
        WHERE l.pool = r.customer_id AND l.expires_ms > :now_ms - :wait_ms
    UNION ALL SELECT r.due_ms
    UNION ALL SELECT CASE WHEN ledger_accounts.plan IS NOT NULL THEN :month_ms END
    UNION ALL SELECT s.since_ms FROM plan_stays s WHERE s.customer_id = r.customer_id AND s.since_ms > :now_ms
    UNION ALL SELECT t.paid_to_ms + CASE WHEN t.renews THEN :wait_ms ELSE 0 END FROM tier_holders t
        WHERE t.customer_id = r.customer_id AND t.ended_ms IS NULL) moments)
FROM {rows :wallets (account_id text, customer_id text, due_ms bigint)} r
WHERE ledger_accounts.account_id = r.account_id RETURNING ledger_accounts.account_id, ledger_accounts.next_due_ms

-- name: due_left
-- Return the due amount by customer. A customer without a due reservation has no row.
SELECT customer_id, CAST(SUM({left}) AS BIGINT) AS left_micro FROM reservations
WHERE customer_id IN :customers AND state = 'held' AND hold = 'wallet' AND expires_ms <= :now_ms
GROUP BY customer_id
