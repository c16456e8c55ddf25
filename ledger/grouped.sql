-- Moves of several calls in wallets, written together.

-- name: for_update_of_wallets [postgresql]
ORDER BY w.account_id FOR UPDATE OF w

-- name: for_update_of_wallets [sqlite]

-- name: for_update_of_runs [postgresql]
FOR UPDATE OF v

-- name: for_update_of_runs [sqlite]

-- name: hold_runs
-- Lock executions in the order of their keys, as all transactions do. `of_org`: only that organisation; '': any.
SELECT v.reservation, v.org_id, v.customer_id, v.project, v.subject, v.action, v.estimate, v.amount_micro, v.drawn_micro,
    v.state, v.overage, v.accepted_ms, v.expires_ms, v.ended_ms, v.ended_by, v.ended_reason, v.fingerprint, v.actor,
    v.reason, v.supplier, v.settled_by, v.payer_number, v.hold, CASE WHEN EXISTS (SELECT 1 FROM reservation_sandboxes n
        WHERE n.reservation = v.reservation) THEN NULL ELSE '[]' END AS sandboxes
FROM {rows :runs (name text, of_org text)} r JOIN reservations v
    ON v.reservation = r.name AND (r.of_org = '' OR v.org_id = r.of_org)
ORDER BY v.reservation {for_update_of_runs}

-- name: among
-- Return those of these executions that exist.
SELECT reservation FROM reservations WHERE reservation IN :names

-- name: entries_of
-- Return the entries under these numbers of executions.
SELECT e.reservation, e.key, e.feature, e.quantity, e.amount_micro
FROM {rows :spans (reservation text, first text, beyond text)} r JOIN ledger_entries e
    ON e.reservation = r.reservation AND e.key >= r.first AND e.key < r.beyond

-- name: insert_runs
-- Insert in the order of the keys, in which all transactions lock them.
INSERT INTO reservations (reservation, org_id, customer_id, project, subject, action, estimate, amount_micro, drawn_micro,
    state, overage, accepted_ms, expires_ms, ended_ms, ended_by, ended_reason, fingerprint, actor, reason)
SELECT reservation, org_id, customer_id, project, subject, action, estimate, amount_micro, drawn_micro, state, overage,
    accepted_ms, expires_ms, ended_ms, ended_by, ended_reason, fingerprint, actor, reason
FROM {rows :runs (reservation text, org_id text, customer_id text, project text, subject text, action text, estimate text,
    amount_micro bigint, drawn_micro bigint, state text, overage text, accepted_ms bigint, expires_ms bigint,
    ended_ms bigint, ended_by text, ended_reason text, fingerprint text, actor text, reason text)} r
WHERE 1 = 1 ORDER BY reservation ON CONFLICT (reservation) DO NOTHING

-- name: move
-- Change the wallets that allow all moves and do not have a pending change. If a change is due in a wallet, or some of
-- its lots ended, Drawdown decides each call alone. Lock the wallets in the order of their ids, as all transactions do.
UPDATE ledger_accounts SET balance_micro = balance_micro + r.moved, held_micro = held_micro + r.more_held,
    next_due_ms = CASE WHEN r.ends_ms IS NULL OR next_due_ms < r.ends_ms THEN next_due_ms ELSE r.ends_ms END
FROM (SELECT r.name, r.moved, r.more_held, r.needed, r.peak, r.most_held, r.ends_ms, r.first_ms
    FROM {rows :moves (name text, moved bigint, more_held bigint, needed bigint, peak bigint, most_held bigint,
        ends_ms bigint, first_ms bigint)} r
    JOIN ledger_accounts w ON w.account_id = r.name {for_update_of_wallets}) r
WHERE account_id = r.name AND (next_due_ms IS NULL OR next_due_ms > :now_ms) AND over_micro = 0 AND deferred_micro = 0
    AND (lots_over_ms IS NULL OR lots_over_ms <= r.first_ms) AND balance_micro - held_micro + overdraft_micro >= r.needed
    AND held_micro + r.peak <= r.most_held
RETURNING account_id, balance_micro, held_micro, overdraft_micro
