-- Due messages, their endpoints, and the outcomes of calls.

-- name: due_endpoints
-- One read of the index for each active endpoint. Endpoints are few.
SELECT e.name, e.url FROM hook_endpoints e WHERE e.ended_ms IS NULL AND (:only = '' OR e.name = :only) AND EXISTS (
    SELECT 1 FROM hook_deliveries d WHERE d.endpoint = e.name AND d.state = 'due' AND d.due_at_ms <= :now_ms)
ORDER BY e.name

-- name: claim
-- MATERIALIZED selects once. A plan that selects again for each row would claim more than the limit.
WITH x AS MATERIALIZED (
    SELECT d.message_id FROM hook_deliveries d JOIN hook_endpoints e ON e.name = d.endpoint AND e.ended_ms IS NULL
    WHERE d.endpoint = :endpoint AND d.state = 'due' AND d.due_at_ms <= :now_ms
    ORDER BY d.due_at_ms, d.message_id LIMIT :at_most {skip_locked}
)
UPDATE hook_deliveries SET claim_owner = :claim_owner, due_at_ms = :lease_end_ms, attempts = attempts + 1
WHERE endpoint = :endpoint AND message_id IN (SELECT message_id FROM x)
RETURNING message_id, failures

-- name: skip_locked [postgresql]
FOR UPDATE OF d SKIP LOCKED

-- name: skip_locked [sqlite]

-- name: endpoint
SELECT url, generation, old_until_ms FROM hook_endpoints WHERE name = :endpoint

-- name: bodies
SELECT message_id, body FROM hook_messages WHERE message_id IN :message_ids

-- name: settle
UPDATE hook_deliveries SET state = :state, due_at_ms = :due_at_ms, failures = failures + :failed,
    last_status = :last_status, last_error = :last_error, ended_ms = :ended_ms, claim_owner = NULL
WHERE message_id = :message_id AND endpoint = :endpoint AND state = 'due'
    AND (claim_owner = :claim_owner OR :state = 'delivered')
