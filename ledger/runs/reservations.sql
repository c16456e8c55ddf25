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
-- Whether one of these is there.
SELECT 1 FROM reservations WHERE reservation IN :names LIMIT 1

-- name: read
SELECT {columns} FROM reservations WHERE reservation = :reservation {held}

-- name: hold
-- Only where there is room, and nothing that is due by time would change what room there is.
UPDATE ledger_accounts SET held_micro = held_micro + :amount_micro,
    next_due_ms = CASE WHEN next_due_ms < :expires_ms THEN next_due_ms ELSE :expires_ms END
WHERE account_id = :account_id AND {available_micro} - :unbilled_micro >= :amount_micro
    AND (next_due_ms IS NULL OR next_due_ms > :now_ms) AND held_micro + :amount_micro <= :most_held_micro
RETURNING balance_micro

-- name: free
-- What waited to expire until a run ends is looked at before the balance is believed again.
UPDATE ledger_accounts SET held_micro = held_micro - :freed_micro,
    next_due_ms = CASE WHEN deferred_micro > 0 THEN 0 ELSE next_due_ms END
WHERE account_id = :account_id

-- name: grow
UPDATE reservations SET amount_micro = :amount_micro, expires_ms = :expires_ms WHERE reservation = :reservation

-- name: left
-- Of what was reserved, what was not drawn.
CASE WHEN drawn_micro < amount_micro THEN amount_micro - drawn_micro ELSE 0 END

-- name: holders
SELECT reservation, {left} AS left_micro, expires_ms FROM reservations
WHERE customer_id = :customer_id AND state = 'held' AND hold = 'wallet' AND reservation <> :own ORDER BY 2 DESC, 1 LIMIT :at_most
