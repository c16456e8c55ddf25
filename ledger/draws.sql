-- Draws of an execution, and its end.

-- name: draw
UPDATE reservations SET drawn_micro = :drawn_micro WHERE reservation = :reservation

-- name: finish
UPDATE reservations SET drawn_micro = :drawn_micro, state = :state, ended_ms = :ended_ms, ended_by = :ended_by,
    ended_reason = :ended_reason
WHERE reservation = :reservation

-- name: close
UPDATE reservation_sandboxes SET is_open = FALSE WHERE reservation = :reservation

-- name: entries_of
-- The entries under one number of an execution.
SELECT key, feature, quantity, amount_micro FROM ledger_entries
WHERE reservation = :reservation AND key >= :first AND key < :beyond

-- name: written_off
SELECT key, -amount_micro AS off_micro FROM ledger_entries WHERE reservation = :reservation AND key LIKE '%:-'

-- name: drawn_by_feature
-- The amount written off with a draw is omitted.
SELECT feature, CAST(COALESCE(SUM(quantity), 0) AS BIGINT) AS quantity,
    CAST(SUM(amount_micro) AS BIGINT) AS amount_micro
FROM ledger_entries WHERE reservation = :reservation AND key NOT LIKE '%:-' GROUP BY feature
