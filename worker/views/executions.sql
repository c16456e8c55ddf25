-- Runs and what they drew.

-- name: seen
-- A run that is over is expired, whether anything has looked at it since or not.
CASE WHEN state = 'held' AND expires_ms <= :now_ms THEN 'expired' ELSE state END

-- name: columns
reservation, org_id, customer_id, project, subject, action, estimate, amount_micro, drawn_micro, {seen} AS state, overage,
    accepted_ms, expires_ms, ended_ms, ended_by, ended_reason, fingerprint, actor, reason, supplier, settled_by,
    payer_number, hold, {named_sandboxes}

-- name: list
SELECT {columns} FROM reservations WHERE state IN :kept AND {seen} IN :states AND (:org = '' OR org_id = :org)
    AND (:project = '' OR project = :project) AND (:subject = '' OR subject = :subject)
    AND (:action = '' OR action = :action) AND (:payer = '' OR customer_id = :payer) AND accepted_ms <= :accepted_by_ms
ORDER BY accepted_ms DESC, reservation LIMIT :at_most

-- name: org
SELECT org_id FROM reservations WHERE reservation = :reservation

-- name: one
SELECT {columns} FROM reservations WHERE reservation = :reservation

-- name: entries
-- Of a run without a wallet: what it used, which samples bill.
SELECT key, at_ms, amount_micro, feature, quantity, actor, reason FROM ledger_entries
WHERE reservation = :reservation
UNION ALL SELECT 'run:' || reservation || ':' || number || ':' || feature, at_ms, amount_micro, feature, quantity,
    actor, reason
FROM run_usage WHERE reservation = :reservation
ORDER BY at_ms, key LIMIT :at_most
