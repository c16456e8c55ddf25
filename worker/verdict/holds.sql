-- What is held of wallets, without holds that are over and were not expired yet; what is left of lots that are over.

-- name: held
SELECT a.org_id, a.customer_id, EXISTS (SELECT 1 FROM reservations m
    WHERE m.customer_id = a.customer_id AND m.state = 'held' AND m.settled_by = 'metering') AS has_metering,
    w.held_micro - COALESCE((SELECT SUM(h.amount_micro - h.drawn_micro) FROM reservations h
    WHERE h.customer_id = a.customer_id AND h.state = 'held' AND h.hold = 'wallet' AND h.expires_ms <= :now_ms
    AND h.drawn_micro < h.amount_micro), 0) AS held_micro
FROM {billed_now} a {look_up} ledger_accounts w {looked_up_by} w.account_id = 'wallet:' || a.customer_id {end_look_w}
WHERE w.held_micro > 0 AND NOT EXISTS (SELECT 1 FROM ledger_plans p WHERE p.plan = w.plan AND NOT p.holds_halt)

-- name: held_elsewhere
-- Of balances that providers keep: held here, and not over.
SELECT h.org_id, SUM(h.amount_micro - h.drawn_micro) AS held_micro, h.org_id AS customer_id, FALSE AS has_metering
FROM reservations h
WHERE h.org_id IN :org_ids AND h.state = 'held' AND h.hold <> 'wallet' AND h.hold = 'local' AND h.expires_ms > :now_ms
    AND h.drawn_micro < h.amount_micro
GROUP BY h.org_id

-- name: in_wallets
-- What there is for new use and for runs that go on (`Wallet.payable_micro`).
SELECT a.org_id, {available_micro} + w.held_micro - w.overdraft_micro AS payable_micro
FROM {billed_now} a {look_up} ledger_accounts w {looked_up_by} w.account_id = 'wallet:' || a.customer_id {end_look_w}

-- name: over_elsewhere
-- By their keys, one order for all: rows that another ended meanwhile are left out.
SELECT reservation FROM reservations WHERE state = 'held' AND hold <> 'wallet' AND expires_ms <= :now_ms
ORDER BY reservation LIMIT :at_most {for_update}

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: lapsed
-- What lots that are over no longer pay for what is new with (`Wallet.lapsed_micro`), and up to when what was used is
-- theirs.
SELECT a.org_id, w.balance_micro - w.held_micro + w.overdraft_micro - {available_micro} AS lapsed_micro, w.lots_over_ms
FROM {billed_now} a {look_up} ledger_accounts w {looked_up_by} w.account_id = 'wallet:' || a.customer_id {end_look_w}
WHERE w.over_micro > 0
