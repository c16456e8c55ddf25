-- Settlements (invariant 11): the amounts owed to suppliers against executions, entries, terms, freezes and payouts.
--
-- Guarantee: as in `ledger.sql`. A breach about a settlement belongs to its execution's organisation.

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: no_window
CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: no_settlement
-- If an execution with a supplier was settled, or released after a draw, it has a settlement.
SELECT 'missing_settlement' AS what, r.org_id, {no_window}, r.reservation, r.state, r.supplier
FROM reservations r LEFT JOIN settlements s ON s.reservation = r.reservation
WHERE r.supplier IS NOT NULL AND s.reservation IS NULL
    AND (r.state = 'settled' OR (r.state = 'released' AND r.drawn_micro <> 0))

-- name: settles_nothing
-- A settlement belongs to one execution that ended at that time, and names its supplier. An expired or open execution
-- does not have a settlement.
SELECT 'unexpected_settlement' AS what, r.org_id, {no_window}, s.reservation, s.supplier, s.settled_ms, r.state,
    r.supplier AS its
FROM settlements s LEFT JOIN reservations r ON r.reservation = s.reservation
WHERE r.reservation IS NULL OR r.supplier IS NULL OR r.supplier <> s.supplier OR r.state NOT IN ('settled', 'released')
    OR r.ended_ms <> s.settled_ms

-- name: gross
-- Gross is the sum of all entries of the execution.
SELECT 'settlement_gross' AS what, r.org_id, {no_window}, s.reservation, s.gross_micro, COALESCE(q.charged, 0) AS charged
FROM settlements s JOIN reservations r ON r.reservation = s.reservation
LEFT JOIN (SELECT reservation, SUM(amount_micro) AS charged FROM ledger_entries WHERE reservation IS NOT NULL
    GROUP BY reservation) q ON q.reservation = s.reservation
WHERE s.gross_micro <> COALESCE(q.charged, 0)

-- name: share
-- A settlement has the terms of a revision. Its net amount is the supplier's share of gross, rounded down. The share is
-- computed in two parts, because the product may not fit in 64 bits.
SELECT 'settlement_share' AS what, q.org_id, {no_window}, q.reservation, q.net_micro, q.gross_micro, q.share_ppm, q.wanted
FROM (
    SELECT r.org_id, s.*, s.gross_micro / 1000000 * t.share_ppm + s.gross_micro % 1000000 * t.share_ppm / 1000000
        AS wanted, t.share_ppm AS agreed_ppm, t.threshold_micro AS agreed_micro, t.takes_clawbacks AS agreed_clawbacks,
        t.hold_ms
    FROM settlements s JOIN reservations r ON r.reservation = s.reservation
    LEFT JOIN supplier_terms t ON t.supplier = s.supplier AND t.revision = s.revision
) q
WHERE q.wanted IS NULL OR q.net_micro <> q.wanted OR q.share_ppm <> q.agreed_ppm OR q.threshold_micro <> q.agreed_micro
    OR q.takes_clawbacks <> q.agreed_clawbacks OR q.hold_until_ms <> q.settled_ms + q.hold_ms

-- name: settled_otherwise
-- The final entry of an execution was written at its settlement.
SELECT 'receipt_time' AS what, r.org_id, {no_window}, s.reservation, s.settled_ms, e.at_ms
FROM settlements s JOIN reservations r ON r.reservation = s.reservation JOIN ledger_entries e
    ON e.reservation = s.reservation AND SUBSTR(e.key, 1, LENGTH(s.reservation) + 11) = 'run:' || s.reservation || ':final:'
WHERE s.settled_ms <> e.at_ms

-- name: over_reversed
SELECT 'reversal_excess' AS what, r.org_id, {no_window}, v.reservation, v.taken, COALESCE(s.net_micro, 0) AS net_micro
FROM (SELECT reservation, SUM(amount_micro) AS taken FROM settlement_reversals GROUP BY reservation) v
LEFT JOIN settlements s ON s.reservation = v.reservation LEFT JOIN reservations r ON r.reservation = v.reservation
WHERE v.taken > COALESCE(s.net_micro, 0)

-- name: clawed_back
-- Only released amounts are clawed back, and only if the supplier's terms allow it.
SELECT 'clawback' AS what, r.org_id, {no_window}, v.reversal, v.reservation, v.amount_micro
FROM settlement_reversals v JOIN settlements s ON s.reservation = v.reservation
JOIN reservations r ON r.reservation = v.reservation
WHERE v.is_clawback AND (NOT s.takes_clawbacks OR NOT EXISTS (SELECT 1 FROM payout_lines l
    WHERE l.reservation = v.reservation AND l.reversal IS NULL))

-- name: released_early
-- A release waits for the hold. Unless the supplier accepts clawbacks, it also waits 35 days (the correction horizon).
SELECT 'early_release' AS what, r.org_id, {no_window}, l.reservation, l.payout, p.at_ms, s.hold_until_ms
FROM {released} WHERE p.at_ms < s.hold_until_ms OR (NOT s.takes_clawbacks AND p.at_ms < s.settled_ms + 3024000000)

-- name: released
-- The settlements that payouts released, line by line.
payout_lines l JOIN payouts p ON p.payout = l.payout AND l.reversal IS NULL
JOIN settlements s ON s.reservation = l.reservation JOIN reservations r ON r.reservation = l.reservation

-- name: released_frozen
-- A freeze at the same moment is allowed, because the payout may have come first.
SELECT 'frozen_release' AS what, r.org_id, {no_window}, l.reservation, l.payout, p.at_ms, f.from_ms
FROM {released} JOIN settlement_freezes f ON f.supplier = s.supplier
    AND (f.reservation IS NULL OR f.reservation = s.reservation)
WHERE f.from_ms < p.at_ms AND (f.ended_ms IS NULL OR p.at_ms < f.ended_ms)

-- name: released_amount
-- A release pays the net amount less earlier reversals. A clawback subtracts the amount that was taken back.
SELECT 'release_amount' AS what, r.org_id, {no_window}, l.line, l.payout, l.amount_micro,
    CASE WHEN l.reversal IS NULL THEN s.net_micro - COALESCE(q.taken, 0) ELSE -v.amount_micro END AS wanted
FROM payout_lines l JOIN settlements s ON s.reservation = l.reservation
JOIN reservations r ON r.reservation = l.reservation
LEFT JOIN settlement_reversals v ON v.reversal = l.reversal
LEFT JOIN (SELECT reservation, SUM(amount_micro) AS taken FROM settlement_reversals WHERE NOT is_clawback
    GROUP BY reservation) q ON q.reservation = l.reservation
WHERE CASE WHEN l.reversal IS NULL THEN l.amount_micro <> s.net_micro - COALESCE(q.taken, 0)
    ELSE v.reversal IS NULL OR NOT v.is_clawback OR v.reservation <> l.reservation OR l.amount_micro <> -v.amount_micro
    END

-- name: released_twice
SELECT 'duplicate_release' AS what, r.org_id, {no_window}, q.reservation, q.lines
FROM (SELECT reservation, COUNT(*) AS lines FROM payout_lines GROUP BY reservation, COALESCE(reversal, '')) q
JOIN reservations r ON r.reservation = q.reservation WHERE q.lines > 1

-- name: payout_line_supplier
-- A line belongs to a payout of the same supplier.
SELECT 'payout_line_supplier' AS what, r.org_id, {no_window}, l.line, l.payout, s.supplier
FROM payout_lines l LEFT JOIN payouts p ON p.payout = l.payout LEFT JOIN settlements s ON s.reservation = l.reservation
LEFT JOIN reservations r ON r.reservation = l.reservation
WHERE p.payout IS NULL OR s.reservation IS NULL OR p.supplier <> s.supplier

-- name: payout_total
-- A payout is the sum of its releases and deductions. It is above the lowest threshold of its settlements. Its id has
-- the supplier and the month, so a supplier has at most one payout a month.
SELECT 'payout_total' AS what, q.org_id, {no_window}, p.payout, p.total_micro, p.released_micro, p.carried_micro,
    COALESCE(q.released, 0) AS released, COALESCE(q.carried, 0) AS carried, COALESCE(q.threshold, 0) AS threshold
FROM payouts p LEFT JOIN (
    SELECT l.payout, MAX(r.org_id) AS org_id, SUM(CASE WHEN l.reversal IS NULL THEN l.amount_micro ELSE 0 END)
        AS released, SUM(CASE WHEN l.reversal IS NULL THEN 0 ELSE l.amount_micro END) AS carried,
        MIN(CASE WHEN l.reversal IS NULL THEN s.threshold_micro END) AS threshold
    FROM payout_lines l LEFT JOIN settlements s ON s.reservation = l.reservation
    LEFT JOIN reservations r ON r.reservation = l.reservation GROUP BY l.payout
) q ON q.payout = p.payout
WHERE p.released_micro <> COALESCE(q.released, 0) OR p.carried_micro <> COALESCE(q.carried, 0)
    OR p.total_micro <> p.released_micro + p.carried_micro OR p.total_micro <= COALESCE(q.threshold, 0)
    OR p.payout <> 'payout:' || p.supplier || ':' || p.period
