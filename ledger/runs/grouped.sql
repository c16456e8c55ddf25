-- Reservations that are decided together.

-- name: columns
reservation, org_id, customer_id, project, subject, action, estimate, amount_micro, state, overage, accepted_ms, expires_ms,
    fingerprint, actor, reason, supplier

-- name: insert [postgresql]
-- In the order of their keys, as everybody locks them.
INSERT INTO reservations ({columns})
SELECT reservation, org_id, customer_id, project, subject, action, estimate, amount_micro, 'held', overage, accepted_ms,
    expires_ms, fingerprint, actor, reason, supplier
FROM {rows :asks (reservation text, org_id text, customer_id text, project text, subject text, action text,
    estimate text, amount_micro bigint, overage text, accepted_ms bigint, expires_ms bigint, fingerprint text,
    actor text, reason text, supplier text)} r
ORDER BY reservation ON CONFLICT (reservation) DO NOTHING

-- name: insert [sqlite]
-- Bound by place, a tuple a row.
INSERT INTO reservations ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'held', ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (reservation) DO NOTHING
