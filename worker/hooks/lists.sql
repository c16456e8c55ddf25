-- Lists of webhooks.

-- name: endpoints
-- The counts use the indexes on due and failed deliveries.
SELECT e.name, e.url, e.events, e.generation, e.old_until_ms, e.created_ms, e.ended_ms,
    (SELECT COUNT(*) FROM hook_deliveries d WHERE d.endpoint = e.name AND d.state = 'due') AS due,
    (SELECT COUNT(*) FROM hook_deliveries d WHERE d.endpoint = e.name AND d.state = 'failed') AS failed,
    (SELECT MIN(m.at_ms) FROM hook_deliveries d JOIN hook_messages m ON m.message_id = d.message_id
        WHERE d.endpoint = e.name AND d.state = 'due') AS oldest_due_ms
FROM hook_endpoints e ORDER BY CASE WHEN e.ended_ms IS NULL THEN 0 ELSE 1 END, e.name

-- name: levels
SELECT org_id, low_micro FROM balance_levels ORDER BY org_id LIMIT :at_most

-- name: deliveries
SELECT m.message_id, m.event, m.org_id, m.customer_id, m.at_ms, d.endpoint, d.state, d.attempts, d.failures, d.replays,
    d.due_at_ms, d.ended_ms, d.last_status, d.last_error
FROM hook_messages m JOIN hook_deliveries d ON d.message_id = m.message_id

-- name: messages
{deliveries} WHERE d.state IN :states AND (:endpoint = '' OR d.endpoint = :endpoint)
    AND (:org = '' OR m.org_id = :org)
ORDER BY m.at_ms DESC, m.message_id, d.endpoint LIMIT :at_most

-- name: of_message
{deliveries} WHERE m.message_id = :message_id ORDER BY d.endpoint

-- name: body
SELECT body FROM hook_messages WHERE message_id = :message_id
