-- The reserved credit of wallets, without reservations that are over, and the rest of ended lots.

-- name: held
SELECT a.org_id, a.customer_id, EXISTS (SELECT 1 FROM reservations m
    WHERE m.customer_id = a.customer_id AND m.state = 'held' AND m.settled_by = 'metering') AS has_metering,
    w.held_micro - COALESCE((SELECT SUM(h.amount_micro - h.drawn_micro) FROM reservations h
    WHERE h.customer_id = a.customer_id AND h.state = 'held' AND h.hold = 'wallet' AND h.expires_ms <= :now_ms
    AND h.drawn_micro < h.amount_micro), 0) AS held_micro
FROM {billed_now} a {look_up} ledger_accounts w {looked_up_by} w.account_id = 'wallet:' || a.customer_id {end_look_w}
WHERE w.held_micro > 0 AND NOT EXISTS (SELECT 1 FROM ledger_plans p WHERE p.plan = w.plan AND NOT p.holds_halt)

-- name: held_elsewhere
-- Reservations on balances that providers keep (`local`), without reservations that are over.
SELECT h.org_id, SUM(h.amount_micro - h.drawn_micro) AS held_micro, h.org_id AS customer_id, FALSE AS has_metering
FROM reservations h
WHERE h.org_id IN :org_ids AND h.state = 'held' AND h.hold <> 'wallet' AND h.hold = 'local' AND h.expires_ms > :now_ms
    AND h.drawn_micro < h.amount_micro
GROUP BY h.org_id

-- name: in_wallets
-- The credit for new use and for open executions (`Wallet.payable_micro`).
SELECT a.org_id, {available_micro} + w.held_micro - w.overdraft_micro AS payable_micro
FROM {billed_now} a {look_up} ledger_accounts w {looked_up_by} w.account_id = 'wallet:' || a.customer_id {end_look_w}

-- name: over_elsewhere
-- All transactions lock in the order of keys. Rows that another transaction ended meanwhile are left out.
SELECT reservation FROM reservations WHERE state = 'held' AND hold <> 'wallet' AND expires_ms <= :now_ms
ORDER BY reservation LIMIT :at_most {for_update}

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: lapsed
-- The credit of ended lots, which does not pay for new use (`Wallet.lapsed_micro`). These lots still pay for use before
-- `lots_over_ms`.
SELECT a.org_id, w.balance_micro - w.held_micro + w.overdraft_micro - {available_micro} AS lapsed_micro, w.lots_over_ms
FROM {billed_now} a {look_up} ledger_accounts w {looked_up_by} w.account_id = 'wallet:' || a.customer_id {end_look_w}
WHERE w.over_micro > 0

-- The use of the sandboxes of executions that metering settles, and the charges of these executions.

-- name: run
-- `from_ms`: the first window that is not finally counted.
reservation, org_id, customer_id, settled_by, amount_micro, drawn_micro, metered_before_micro, expires_ms,
    COALESCE(metered_to_ms, accepted_ms - accepted_ms % {window_length_ms}) AS from_ms

-- name: metering
-- This repeats the condition of the index word for word.
state = 'held' AND settled_by = 'metering'

-- name: hold_runs
-- All transactions lock in the order of keys.
SELECT {run} FROM reservations WHERE {metering} AND reservation > :after
ORDER BY reservation LIMIT :at_most {for_update}

-- name: hold_all
-- One statement locks all in one order: reservations that metering draws on, due reservations, and the caller's own.
SELECT {run} FROM reservations WHERE state = 'held' AND reservation IN (
    SELECT reservation FROM reservations WHERE {metering} AND customer_id IN :customers
    UNION SELECT reservation FROM reservations WHERE customer_id IN :due_of AND state = 'held'
        AND hold = 'wallet' AND expires_ms <= :now_ms
    UNION SELECT reservation FROM reservations WHERE reservation = :own)
ORDER BY reservation LIMIT :at_most {for_update}

-- name: runs_of
SELECT {run} FROM reservations WHERE {metering} AND customer_id IN :customers

-- name: used
-- Seconds by window and size, for the sandboxes of each execution while it lasts, and for all other use. Sandboxes of
-- two organisations may have the same id, so both columns must match.
WITH picked AS MATERIALIZED (SELECT org_id, from_ms FROM {rows :orgs (org_id text, from_ms bigint)} r),
named AS MATERIALIZED (
    SELECT n.org_id, n.sandbox_id, h.reservation, h.accepted_ms, h.expires_ms
    FROM {rows :runs (reservation text)} r JOIN reservations h ON h.reservation = r.reservation
    JOIN reservation_sandboxes n ON n.reservation = h.reservation
)
SELECT s.org_id, s.ts - s.ts % {window_length_ms} AS window_ms, s.memory_mb, n.reservation,
    SUM(s.interval_s) AS seconds
FROM picked p {look_up} usage_samples s {looked_up_by} s.org_id = p.org_id AND s.ts >= p.from_ms {end_look_s}
LEFT JOIN named n ON n.org_id = s.org_id AND n.sandbox_id = s.sandbox_id AND s.ts >= n.accepted_ms
    AND s.ts < n.expires_ms
WHERE s.problem IS NULL AND NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = s.id)
GROUP BY 1, 2, 3, 4

-- name: charged
SELECT r.customer_id, e.ts - e.ts % {window_length_ms} AS window_ms, e.feature,
    CAST(SUM(e.amount_micro) AS BIGINT) AS amount_micro, CAST(SUM(e.quantity) AS BIGINT) AS quantity
FROM {rows :wallets (customer_id text, from_ms bigint)} r
JOIN ledger_entries e ON e.from_account = 'wallet:' || r.customer_id AND e.ts >= r.from_ms AND e.kind = 'usage'
GROUP BY 1, 2, 3

-- name: behind
-- The time before which an organisation's windows are sealed, charged and not dirty. The statement repeats the
-- condition of the index on open pushes word for word.
SELECT r.org_id, (SELECT MIN(m.end_ms) FROM (
    SELECT COALESCE(o.held_watermark_ms, b.watermark_ms, 0) AS end_ms
    UNION ALL SELECT MIN(q.window_ms) FROM pushes q
        WHERE q.org_id = r.org_id AND q.window_ms >= r.from_ms AND q.state IN {open_states}
    UNION ALL SELECT MIN(d.window_ms) FROM dirty_windows d WHERE d.org_id = r.org_id AND d.window_ms >= r.from_ms
    ) m) AS end_ms
FROM {rows :orgs (org_id text, from_ms bigint)} r JOIN orgs o ON o.org_id = r.org_id
LEFT JOIN buckets b ON b.id = o.bucket

-- name: shrink
UPDATE reservations SET drawn_micro = r.drawn, metered_before_micro = r.before, metered_to_ms = r.to_ms
FROM {rows :runs (reservation text, drawn bigint, before bigint, to_ms bigint)} r
WHERE reservations.reservation = r.reservation
