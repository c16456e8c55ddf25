-- Suppliers: the terms of each, and the lock under which what it is owed changes.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: newest
SELECT supplier, revision, share_ppm, hold_ms, threshold_micro, takes_clawbacks, at_ms, actor, reason
FROM supplier_terms WHERE supplier = :supplier ORDER BY revision DESC LIMIT 1

-- name: hold
-- Its terms from the first on, which is always there.
SELECT revision FROM supplier_terms WHERE supplier = :supplier ORDER BY revision {for_update}

-- name: insert
INSERT INTO supplier_terms (supplier, revision, share_ppm, hold_ms, threshold_micro, takes_clawbacks, at_ms, actor,
    reason)
VALUES (:supplier, :revision, :share_ppm, :hold_ms, :threshold_micro, :takes_clawbacks, :at_ms, :actor, :reason)
ON CONFLICT (supplier, revision) DO NOTHING RETURNING revision
