-- All rows of a span, in an order that does not change.

-- name: entries
SELECT key, at_ms, ts AS ts_ms, kind, from_account, to_account, amount_micro, feature, quantity, reservation AS execution,
    lot, actor, reason
FROM ledger_entries WHERE {time} >= :from_ms AND {time} < :to_ms AND {of_whom} ORDER BY {time}, key

-- name: booked
at_ms

-- name: used
ts

-- name: of_wallet
(from_account = :account_id OR to_account = :account_id)

-- name: pushes
-- The export includes voided pushes, so that a program with an earlier export sees the change.
SELECT key, window_ms, org_id, feature, revision, sealed_qty AS quantity, provider, customer_id,
    sent_qty AS sent_quantity, state
FROM pushes WHERE window_ms >= :from_ms AND window_ms < :to_ms AND {of_whom}
ORDER BY window_ms, org_id, feature, revision

-- name: folded
-- Return the last day of the range that has folded pushes.
SELECT MAX(day_ms) FROM folded_pushes WHERE day_ms > :from_ms - 86400000 AND day_ms < :to_ms AND {of_whom}

-- name: of_org
org_id = :org_id

-- name: of_all
1 = 1
