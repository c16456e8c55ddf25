-- Reserved credit (invariant 10): reservations against wallets and entries.
--
-- Guarantee: as in `ledger.sql`. An organisation stands in a reservation itself.

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: no_window
CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: held
-- A wallet keeps what its reservations have left, to the micro-credit.
SELECT 'held' AS what, COALESCE(MAX(org_id),
    (SELECT MAX(a.org_id) FROM assignments a WHERE 'wallet:' || a.customer_id = account_id)) AS org_id, {no_window}, account_id, SUM(kept) AS kept, SUM(part) AS parts
FROM (
    SELECT account_id, CAST(NULL AS TEXT) AS org_id, held_micro AS kept, 0 AS part FROM ledger_accounts
    UNION ALL SELECT 'wallet:' || customer_id, org_id, 0, amount_micro - drawn_micro FROM reservations
    WHERE state = 'held' AND drawn_micro < amount_micro
) sides GROUP BY account_id HAVING SUM(kept) <> SUM(part)

-- name: never_due
-- A hold that its wallet does not know the end of would never expire.
SELECT 'never_due' AS what, r.org_id, {no_window}, r.reservation, r.expires_ms, a.next_due_ms
FROM reservations r LEFT JOIN ledger_accounts a ON a.account_id = 'wallet:' || r.customer_id
WHERE r.state = 'held' AND (a.next_due_ms IS NULL OR a.next_due_ms > r.expires_ms)

-- name: run_drawn
-- What a run drew is what its entries sum to.
SELECT 'run_drawn' AS what, r.org_id, {no_window}, r.reservation, r.drawn_micro, COALESCE(q.lines, 0) AS lines
FROM reservations r LEFT JOIN (SELECT reservation, SUM(amount_micro) AS lines FROM ledger_entries
    WHERE reservation IS NOT NULL GROUP BY reservation) q ON q.reservation = r.reservation
WHERE r.drawn_micro <> COALESCE(q.lines, 0)

-- name: run_entry
-- Every entry of a run is its wallet's, named after it and dated as it was accepted.
SELECT 'run_entry' AS what, r.org_id, {no_window}, e.key, e.from_account, e.reservation, r.customer_id
FROM ledger_entries e LEFT JOIN reservations r ON r.reservation = e.reservation
WHERE (e.kind = 'run' OR e.reservation IS NOT NULL) AND (r.reservation IS NULL OR e.kind <> 'run'
    OR e.from_account <> 'wallet:' || r.customer_id OR e.ts <> r.accepted_ms
    OR SUBSTR(e.key, 1, LENGTH(r.reservation) + 5) <> 'run:' || r.reservation || ':')

-- name: unsettled
-- Who is settled has a receipt, even of nothing; who goes on or expired has none.
SELECT CASE WHEN r.state = 'settled' THEN 'no_receipt' ELSE 'receipt' END AS what, r.org_id, {no_window},
    r.reservation, r.state
FROM reservations r WHERE (r.state = 'settled' AND NOT {has_receipt}) OR (r.state IN ('held', 'expired') AND {has_receipt})

-- name: has_receipt
EXISTS (SELECT 1 FROM ledger_entries e WHERE e.reservation = r.reservation
    AND SUBSTR(e.key, 1, LENGTH(r.reservation) + 11) = 'run:' || r.reservation || ':final:')

-- name: above_hold
SELECT 'above_hold' AS what, org_id, {no_window}, reservation, drawn_micro, amount_micro, overage
FROM reservations WHERE overage <> 'charge' AND drawn_micro > amount_micro
