-- The sandboxes that runs name.

-- name: take
-- In the order of their ids, as everybody takes them.
INSERT INTO reservation_sandboxes (reservation, sandbox_id, org_id, is_open)
SELECT reservation, sandbox_id, org_id, TRUE FROM {rows :named (reservation text, sandbox_id text, org_id text)} r
WHERE 1 = 1 ORDER BY sandbox_id ON CONFLICT DO NOTHING RETURNING sandbox_id

-- name: takers
SELECT n.sandbox_id, r.reservation, r.expires_ms
FROM reservation_sandboxes n JOIN reservations r ON r.reservation = n.reservation
WHERE n.org_id = :org_id AND n.sandbox_id IN :names AND n.is_open AND r.expires_ms > :now_ms ORDER BY n.sandbox_id LIMIT 1

-- name: over
-- Whose runs are over and were not expired yet.
SELECT DISTINCT r.customer_id FROM reservation_sandboxes n JOIN reservations r ON r.reservation = n.reservation
WHERE n.org_id = :org_id AND n.sandbox_id IN :names AND n.is_open AND r.expires_ms <= :now_ms ORDER BY 1

-- name: metered
-- Word for word the condition of the index. What is over counts nowhere.
SELECT COUNT(*) FROM (SELECT 1 FROM reservations WHERE state = 'held' AND settled_by = 'metering'
    AND customer_id = :customer_id AND expires_ms > :now_ms LIMIT :at_most) q

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: hold_runs
-- What is due, and what metering may draw on next, in one order.
SELECT reservation FROM reservations WHERE state = 'held' AND (
        (customer_id IN :due_of AND hold = 'wallet' AND expires_ms <= :now_ms) OR (customer_id IN :customers AND settled_by = 'metering'))
ORDER BY reservation LIMIT :at_most {for_update}
