-- Settlements, their freezes and reversals.

-- name: insert
INSERT INTO settlements (reservation, supplier, revision, gross_micro, share_ppm, net_micro, settled_ms, hold_until_ms,
    threshold_micro, takes_clawbacks)
VALUES (:reservation, :supplier, :revision, :gross_micro, :share_ppm, :net_micro, :settled_ms, :hold_until_ms,
    :threshold_micro, :takes_clawbacks)

-- name: supplier_of
SELECT supplier FROM settlements WHERE reservation = :reservation

-- name: read
SELECT {settlement_columns} FROM {settlements_now} x

-- name: of_settlements
s.reservation = :reservation

-- name: open_freeze
SELECT freeze_id, supplier, reservation, from_ms, actor, reason, ended_ms, ended_by, ended_reason
FROM settlement_freezes WHERE supplier = :supplier AND ended_ms IS NULL AND {of_what}

-- name: of_one
reservation = :reservation

-- name: of_all
reservation IS NULL

-- name: freeze
INSERT INTO settlement_freezes (supplier, reservation, from_ms, actor, reason)
VALUES (:supplier, :reservation, :from_ms, :actor, :reason)

-- name: unfreeze
UPDATE settlement_freezes SET ended_ms = :ended_ms, ended_by = :ended_by, ended_reason = :ended_reason
WHERE freeze_id = :freeze_id

-- name: last_act
-- Return the last time of a payout, a freeze, or its end.
SELECT MAX(at_ms) FROM (SELECT at_ms FROM payouts WHERE supplier = :supplier
    UNION ALL SELECT from_ms FROM settlement_freezes WHERE supplier = :supplier
    UNION ALL SELECT ended_ms FROM settlement_freezes WHERE supplier = :supplier) acts

-- name: reversal
SELECT reversal, reservation, amount_micro, is_clawback, at_ms, actor, reason FROM settlement_reversals
WHERE reversal = :reversal

-- name: reverse
INSERT INTO settlement_reversals (reversal, reservation, amount_micro, is_clawback, at_ms, actor, reason)
VALUES (:reversal, :reservation, :amount_micro, :is_clawback, :at_ms, :actor, :reason)
ON CONFLICT (reversal) DO NOTHING RETURNING reversal

-- Suppliers: the terms of each, and the lock for changes of the amount owed to it.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: newest
SELECT supplier, revision, share_ppm, hold_ms, threshold_micro, takes_clawbacks, at_ms, actor, reason
FROM supplier_terms WHERE supplier = :supplier ORDER BY revision DESC LIMIT 1

-- name: hold
-- Lock the terms of a supplier, from its first revision, which always exists.
SELECT revision FROM supplier_terms WHERE supplier = :supplier ORDER BY revision {for_update}

-- name: insert_terms
INSERT INTO supplier_terms (supplier, revision, share_ppm, hold_ms, threshold_micro, takes_clawbacks, at_ms, actor,
    reason)
VALUES (:supplier, :revision, :share_ppm, :hold_ms, :threshold_micro, :takes_clawbacks, :at_ms, :actor, :reason)
ON CONFLICT (supplier, revision) DO NOTHING RETURNING revision
