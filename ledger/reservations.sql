-- Reservations and the holds on wallets.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: columns
reservation, org_id, customer_id, project, subject, action, estimate, amount_micro, drawn_micro, state, overage,
    accepted_ms, expires_ms, ended_ms, ended_by, ended_reason, fingerprint, actor, reason, supplier, settled_by,
    payer_number, hold, {named_sandboxes}

-- name: insert
INSERT INTO reservations (reservation, org_id, customer_id, project, subject, action, estimate, amount_micro, state,
    overage, accepted_ms, expires_ms, fingerprint, actor, reason, supplier, settled_by, payer_number, hold)
VALUES (:reservation, :org_id, :customer_id, :project, :subject, :action, :estimate, :amount_micro, 'held',
    :overage, :accepted_ms, :expires_ms, :fingerprint, :actor, :reason, :supplier, :settled_by, :payer_number, :hold)
ON CONFLICT (reservation) DO NOTHING RETURNING reservation

-- name: among
-- Return a row if one of these executions exists.
SELECT 1 FROM reservations WHERE reservation IN :names LIMIT 1

-- name: read
SELECT {columns} FROM reservations WHERE reservation = :reservation {held}

-- name: hold
-- Reserve credit if enough is available, and no change is due in the wallet.
UPDATE ledger_accounts SET held_micro = held_micro + :amount_micro,
    next_due_ms = CASE WHEN next_due_ms < :expires_ms THEN next_due_ms ELSE :expires_ms END
WHERE account_id = :account_id AND {available_micro} - :unbilled_micro >= :amount_micro
    AND (next_due_ms IS NULL OR next_due_ms > :now_ms) AND held_micro + :amount_micro <= :most_held_micro
RETURNING balance_micro

-- name: free
-- If credit waits to expire until an execution ends, make the wallet due. Drawdown then expires the credit before it
-- uses the balance again.
UPDATE ledger_accounts SET held_micro = held_micro - :freed_micro,
    next_due_ms = CASE WHEN deferred_micro > 0 THEN 0 ELSE next_due_ms END
WHERE account_id = :account_id

-- name: grow
UPDATE reservations SET amount_micro = :amount_micro, expires_ms = :expires_ms WHERE reservation = :reservation

-- name: left
-- The reserved amount that was not drawn.
CASE WHEN drawn_micro < amount_micro THEN amount_micro - drawn_micro ELSE 0 END

-- name: holders
SELECT reservation, {left} AS left_micro, expires_ms FROM reservations
WHERE customer_id = :customer_id AND state = 'held' AND hold = 'wallet' AND reservation <> :own ORDER BY 2 DESC, 1 LIMIT :at_most

-- Reservations that are decided together.

-- name: columns_together
reservation, org_id, customer_id, project, subject, action, estimate, amount_micro, state, overage, accepted_ms, expires_ms,
    fingerprint, actor, reason, supplier

-- name: insert_together [postgresql]
-- Insert in the order of the keys, in which all transactions lock them.
INSERT INTO reservations ({columns_together})
SELECT reservation, org_id, customer_id, project, subject, action, estimate, amount_micro, 'held', overage, accepted_ms,
    expires_ms, fingerprint, actor, reason, supplier
FROM {rows :asks (reservation text, org_id text, customer_id text, project text, subject text, action text,
    estimate text, amount_micro bigint, overage text, accepted_ms bigint, expires_ms bigint, fingerprint text,
    actor text, reason text, supplier text)} r
ORDER BY reservation ON CONFLICT (reservation) DO NOTHING

-- name: insert_together [sqlite]
-- Bind values by position, one tuple for each row.
INSERT INTO reservations ({columns_together}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'held', ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (reservation) DO NOTHING

-- The sandboxes that executions name.

-- name: take
-- Insert in the order of the ids, in which all transactions lock them.
INSERT INTO reservation_sandboxes (reservation, sandbox_id, org_id, is_open)
SELECT reservation, sandbox_id, org_id, TRUE FROM {rows :named (reservation text, sandbox_id text, org_id text)} r
WHERE 1 = 1 ORDER BY sandbox_id ON CONFLICT DO NOTHING RETURNING sandbox_id

-- name: takers
SELECT n.sandbox_id, r.reservation, r.expires_ms
FROM reservation_sandboxes n JOIN reservations r ON r.reservation = n.reservation
WHERE n.org_id = :org_id AND n.sandbox_id IN :names AND n.is_open AND r.expires_ms > :now_ms ORDER BY n.sandbox_id LIMIT 1

-- name: over
-- Return wallets with executions past their end (`expires_ms`) that are not marked as expired.
SELECT DISTINCT r.customer_id FROM reservation_sandboxes n JOIN reservations r ON r.reservation = n.reservation
WHERE n.org_id = :org_id AND n.sandbox_id IN :names AND n.is_open AND r.expires_ms <= :now_ms ORDER BY 1

-- name: metered
-- The condition must equal that of the index. A reservation past its end does not count.
SELECT COUNT(*) FROM (SELECT 1 FROM reservations WHERE state = 'held' AND settled_by = 'metering'
    AND customer_id = :customer_id AND expires_ms > :now_ms LIMIT :at_most) q

-- name: hold_runs
-- Lock the due reservations, and those that metering may draw on next, in one order.
SELECT reservation FROM reservations WHERE state = 'held' AND (
        (customer_id IN :due_of AND hold = 'wallet' AND expires_ms <= :now_ms) OR (customer_id IN :customers AND settled_by = 'metering'))
ORDER BY reservation LIMIT :at_most {for_update}
