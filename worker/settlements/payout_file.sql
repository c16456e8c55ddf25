-- The lines of a batch, a page at a time.

-- name: lines
SELECT l.line, l.reservation, l.reversal, s.settled_ms, s.gross_micro, s.share_ppm, s.net_micro, l.amount_micro, v.reason
FROM payout_lines l JOIN settlements s ON s.reservation = l.reservation
LEFT JOIN settlement_reversals v ON v.reversal = l.reversal
WHERE l.payout = :payout AND l.line > :after ORDER BY l.line LIMIT :at_most
