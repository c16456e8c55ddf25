-- Lists of settlements, suppliers and payouts.

-- name: page
-- Settlements, the newest first. `behind`: the condition for settlements after the previous page.
SELECT {settlement_columns}
FROM {settlements_now} x WHERE x.state IN :states AND {behind}
ORDER BY x.settled_ms DESC, x.reservation DESC LIMIT :at_most

-- name: from_the_start
1 = 1

-- name: from_there
(x.settled_ms, x.reservation) < (:after_ms, :after)

-- name: of_chosen
(:supplier = '' OR s.supplier = :supplier) AND (:org = '' OR r.org_id = :org)
    AND (:project = '' OR r.project = :project)

-- name: of_chosen_org
-- The condition uses the index on an organisation's executions.
r.org_id = :org AND (:supplier = '' OR s.supplier = :supplier) AND (:project = '' OR r.project = :project)

-- name: reversals
SELECT reversal, reservation, amount_micro, is_clawback, at_ms, actor, reason FROM settlement_reversals
WHERE reservation = :reservation ORDER BY at_ms, reversal LIMIT :at_most

-- name: freezes
-- The freezes of the settlement, and those of its supplier.
SELECT freeze_id, supplier, reservation, from_ms, actor, reason, ended_ms, ended_by, ended_reason
FROM settlement_freezes WHERE supplier = :supplier AND (reservation IS NULL OR reservation = :reservation)
ORDER BY from_ms DESC, freeze_id DESC LIMIT :at_most

-- name: suppliers
SELECT t.supplier, t.share_ppm, t.hold_ms, t.threshold_micro, t.takes_clawbacks,
    EXISTS (SELECT 1 FROM settlement_freezes f WHERE f.supplier = t.supplier AND f.reservation IS NULL
        AND f.ended_ms IS NULL) AS is_frozen
FROM supplier_terms t
WHERE t.revision = (SELECT MAX(n.revision) FROM supplier_terms n WHERE n.supplier = t.supplier) AND {which}
ORDER BY t.supplier LIMIT :at_most

-- name: of_any
1 = 1

-- name: of_name
t.supplier = :supplier

-- name: sums
SELECT x.supplier, x.state, CAST(SUM(x.owed_micro) AS BIGINT) AS owed_micro,
    CAST(SUM(x.net_micro) AS BIGINT) AS net_micro, CAST(SUM(x.reversed_micro) AS BIGINT) AS reversed_micro,
    CAST(SUM(x.clawed_back_micro) AS BIGINT) AS clawed_back_micro
FROM {settlements_now} x WHERE x.state IN :states GROUP BY x.supplier, x.state

-- name: of_suppliers
s.supplier IN :suppliers

-- name: paid
SELECT supplier, CAST(SUM(total_micro) AS BIGINT) AS paid_micro, CAST(SUM(carried_micro) AS BIGINT) AS carried_micro
FROM payouts WHERE supplier IN :suppliers GROUP BY supplier

-- name: agreed
-- The lowest threshold of the terms under which the settlements of the next payout were made.
SELECT x.supplier, MIN(x.threshold_micro) AS threshold_micro FROM {settlements_now} x WHERE x.state = 'eligible'
GROUP BY x.supplier

-- name: last_periods
SELECT supplier, MAX(period) AS period FROM payouts WHERE supplier IN :suppliers GROUP BY supplier

-- name: unsettled
-- The charges of executions that expired and were not settled. Their suppliers are not owed a share yet.
SELECT supplier, CAST(SUM(drawn_micro) AS BIGINT) AS drawn_micro FROM reservations
WHERE supplier IN :suppliers AND state = 'expired' GROUP BY supplier

-- name: unpaid
SELECT CAST(COALESCE(SUM(l.amount_micro), 0) AS BIGINT) FROM payout_lines l
JOIN reservations r ON r.reservation = l.reservation
JOIN ledger_accounts a ON a.account_id = 'wallet:' || r.customer_id AND a.balance_micro < 0
WHERE l.payout = :payout AND l.reversal IS NULL

-- The lines of a payout, a page at a time.

-- name: lines
SELECT l.line, l.reservation, l.reversal, s.settled_ms, s.gross_micro, s.share_ppm, s.net_micro, l.amount_micro, v.reason
FROM payout_lines l JOIN settlements s ON s.reservation = l.reservation
LEFT JOIN settlement_reversals v ON v.reversal = l.reversal
WHERE l.payout = :payout AND l.line > :after ORDER BY l.line LIMIT :at_most
