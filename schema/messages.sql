-- Messages and their endpoints.

-- name: wanted
SELECT events FROM hook_endpoints WHERE ended_ms IS NULL

-- name: insert
-- A repeated fact has the same id, and does not add a row.
INSERT INTO hook_messages (message_id, event, fact, org_id, customer_id, at_ms, body)
SELECT message_id, event, fact, org_id, customer_id, at_ms, body
FROM {rows :messages (message_id text, event text, fact text, org_id text, customer_id text, at_ms bigint, body text)} r
WHERE 1 = 1 ON CONFLICT DO NOTHING RETURNING message_id

-- name: deliver
-- Events are words between blanks, without wildcards of LIKE. If a transaction is ending an endpoint, wait for its end.
-- The endpoint then does not get a delivery. Other transactions cannot end an endpoint with a delivery until this
-- transaction is over.
INSERT INTO hook_deliveries (message_id, endpoint, due_at_ms)
SELECT m.message_id, e.name, m.at_ms FROM hook_messages m CROSS JOIN hook_endpoints e
WHERE m.message_id IN (SELECT message_id FROM {rows :new (message_id text)} r)
    AND e.ended_ms IS NULL AND ' ' || e.events || ' ' LIKE '% ' || m.event || ' %' {going_on}
ON CONFLICT DO NOTHING

-- name: deliver_to
INSERT INTO hook_deliveries (message_id, endpoint, due_at_ms) VALUES (:message_id, :endpoint, :at_ms)
ON CONFLICT DO NOTHING

-- name: going_on [postgresql]
FOR KEY SHARE OF e

-- name: going_on [sqlite]
