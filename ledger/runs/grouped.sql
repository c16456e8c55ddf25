-- Reservations that are decided together.

-- name: insert
-- In the order of their keys, as everybody locks them.
INSERT INTO reservations (reservation, org_id, customer_id, project, subject, action, estimate, amount_micro, state,
    overage, accepted_ms, expires_ms, fingerprint, actor, reason, supplier)
SELECT reservation, :org_id, :customer_id, project, subject, action, estimate, amount_micro, 'held', overage, :accepted_ms,
    expires_ms, fingerprint, actor, reason, supplier
FROM {rows :asks (reservation text, project text, subject text, action text, estimate text, amount_micro bigint,
    overage text, expires_ms bigint, fingerprint text, actor text, reason text, supplier text)} r
WHERE 1 = 1 ORDER BY reservation ON CONFLICT (reservation) DO NOTHING RETURNING reservation
