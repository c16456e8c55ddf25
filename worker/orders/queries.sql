-- Orders: placed by a person, done by a tick.

-- name: open
state IN ('waiting', 'under_way')

-- name: same
SELECT order_id, state, actor, at_ms FROM orders WHERE {open} AND kind = :kind AND asked = :asked ORDER BY order_id LIMIT 1

-- name: count_open
SELECT COUNT(*) FROM orders WHERE {open}

-- name: place
INSERT INTO orders (kind, asked, state, at_ms, via, actor, reason)
VALUES (:kind, :asked, 'waiting', :at_ms, :via, :actor, :reason) RETURNING order_id

-- name: latest_assignment
SELECT provider, customer_id, start_ms FROM assignments WHERE org_id = :org_id ORDER BY start_ms DESC LIMIT 1

-- name: topup_terms
SELECT * FROM topup_terms WHERE customer_id = :wallet

-- name: cancel
UPDATE orders SET state = 'cancelled', ended_ms = :now_ms WHERE order_id = :order_id AND state = 'waiting'

-- name: state
SELECT state FROM orders WHERE order_id = :order_id

-- name: free
-- Nobody has it, or whoever had it is dead.
(state = 'waiting' OR (state = 'under_way' AND lease_ms <= :now_ms))

-- name: take
-- One at a time, the oldest first. What is free is asked for again of the row itself: of two ticks at once the second
-- waits for the first one's commit, and then finds it taken.
UPDATE orders SET state = 'under_way', worker = :worker, lease_ms = :lease_ms, tries = tries + 1,
    began_ms = COALESCE(began_ms, :now_ms)
WHERE {free} AND order_id = (SELECT MIN(order_id) FROM orders WHERE {open})
RETURNING order_id, kind, asked, at_ms, actor, reason, via, tries, said

-- name: put_back
-- A turn that came to its end counts for none of the tries, but for one in vain.
UPDATE orders SET state = 'waiting', worker = NULL, lease_ms = NULL, tries = tries * :counted, said = :said
WHERE order_id = :order_id AND state = 'under_way' AND worker = :worker

-- name: end
UPDATE orders SET state = :state, worker = NULL, lease_ms = NULL, ended_ms = :now_ms, said = :said
WHERE order_id = :order_id AND state = 'under_way' AND worker = :worker

-- name: sealed
SELECT COALESCE(SUM(pushes), 0) FROM replays WHERE order_id = :order_id

-- name: columns
o.order_id, o.kind, o.asked, o.state, o.at_ms, o.began_ms, o.ended_ms, o.actor, o.reason, o.said, o.via

-- name: list
-- Each with how far its latest replay has come, and what all of its replays sealed.
SELECT {columns}, r.from_ms, r.to_ms, r.next_ms,
    (SELECT COALESCE(SUM(p.pushes), 0) FROM replays p WHERE p.order_id = o.order_id) AS pushes
FROM orders o LEFT JOIN replays r
    ON r.replay_id = (SELECT MAX(l.replay_id) FROM replays l WHERE l.order_id = o.order_id)
WHERE 1 = 1 {only} ORDER BY o.order_id DESC LIMIT :at_most

-- name: only_before
AND o.order_id < :before
