-- Payouts: the eligible settlements at one moment, less the clawbacks, released once.

-- name: columns
p.payout, p.supplier, p.period, p.released_micro, p.carried_micro, p.total_micro,
    (SELECT COUNT(*) FROM payout_lines l WHERE l.payout = p.payout) AS lines, p.at_ms, p.actor, p.reason

-- name: read
SELECT {columns} FROM payouts p WHERE p.payout = :payout

-- name: newest
SELECT {columns} FROM payouts p WHERE (:supplier = '' OR p.supplier = :supplier)
ORDER BY p.period DESC, p.supplier LIMIT :at_most

-- name: last_period
SELECT MAX(period) FROM payouts WHERE supplier = :supplier

-- name: release
-- Add each settlement once, because the key of its line names it.
INSERT INTO payout_lines (line, payout, reservation, amount_micro)
SELECT 'settlement:' || x.reservation, CAST(:payout AS TEXT), x.reservation, x.owed_micro
FROM {settlements_now} x WHERE x.state = 'eligible'

-- name: of_settlements
s.supplier = :supplier

-- name: carry
-- Add clawbacks that no payout has deducted yet.
INSERT INTO payout_lines (line, payout, reservation, reversal, amount_micro)
SELECT 'reversal:' || v.reversal, CAST(:payout AS TEXT), v.reservation, v.reversal, -v.amount_micro
FROM settlements s JOIN settlement_reversals v ON v.reservation = s.reservation
WHERE s.supplier = :supplier AND v.is_clawback
    AND NOT EXISTS (SELECT 1 FROM payout_lines l WHERE l.line = 'reversal:' || v.reversal)

-- name: sums
-- Return the sums of the lines, and the lowest threshold of their settlements.
SELECT COUNT(*) AS lines,
    CAST(COALESCE(SUM(CASE WHEN l.reversal IS NULL THEN l.amount_micro END), 0) AS BIGINT) AS released_micro,
    CAST(COALESCE(SUM(CASE WHEN l.reversal IS NOT NULL THEN l.amount_micro END), 0) AS BIGINT) AS carried_micro,
    MIN(CASE WHEN l.reversal IS NULL THEN s.threshold_micro END) AS threshold_micro
FROM payout_lines l JOIN settlements s ON s.reservation = l.reservation WHERE l.payout = :payout

-- name: insert
INSERT INTO payouts (payout, supplier, period, released_micro, carried_micro, total_micro, at_ms, actor, reason)
VALUES (:payout, :supplier, :period, :released_micro, :carried_micro, :total_micro, :at_ms, :actor, :reason)
