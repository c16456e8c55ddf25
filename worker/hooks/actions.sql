-- Changes of webhooks by people.

-- name: to_change [postgresql]
FOR NO KEY UPDATE

-- name: to_change [sqlite]

-- name: to_end [postgresql]
FOR UPDATE

-- name: to_end [sqlite]

-- name: going_on [postgresql]
FOR KEY SHARE

-- name: going_on [sqlite]

-- name: hold
-- A transaction that changes an endpoint does not wait for transactions that write messages for the endpoint
-- (`schema/messages.sql`). A transaction that ends the endpoint waits for them.
SELECT name, url, events, generation, ended_ms FROM hook_endpoints WHERE name = :name {lock}

-- name: going
SELECT COUNT(*) FROM hook_endpoints WHERE ended_ms IS NULL

-- name: set
INSERT INTO hook_endpoints (name, url, events, created_ms, actor, reason)
VALUES (:name, :url, :events, :now_ms, :actor, :reason)
ON CONFLICT (name) DO UPDATE SET url = excluded.url, events = excluded.events, actor = excluded.actor,
    reason = excluded.reason

-- name: end_episodes
UPDATE balance_episodes SET ended_ms = :now_ms WHERE level = :level AND ended_ms IS NULL

-- name: rotate
UPDATE hook_endpoints SET generation = :generation, old_until_ms = :old_until_ms WHERE name = :name

-- name: end
UPDATE hook_endpoints SET ended_ms = :now_ms WHERE name = :name

-- name: give_up
UPDATE hook_deliveries SET state = 'failed', ended_ms = :now_ms, claim_owner = NULL,
    last_error = 'the endpoint was ended'
WHERE endpoint = :name AND state = 'due'

-- name: due_again
-- The schedule of attempts begins again. If a call is in flight and fails, its response no longer counts.
UPDATE hook_deliveries SET state = 'due', due_at_ms = :now_ms, failures = 0, replays = replays + 1, ended_ms = NULL,
    claim_owner = NULL

-- name: going_on_of
-- The active endpoints of a message, locked so that another transaction cannot end them.
SELECT name FROM hook_endpoints WHERE ended_ms IS NULL AND (:endpoint = '' OR name = :endpoint)
    AND name IN (SELECT d.endpoint FROM hook_deliveries d WHERE d.message_id = :message_id)
ORDER BY name {going_on}

-- name: replay
{due_again} WHERE message_id = :message_id AND endpoint IN :endpoints

-- name: replay_failed
{due_again} WHERE endpoint = :endpoint AND message_id IN (
    SELECT d.message_id FROM hook_deliveries d WHERE d.endpoint = :endpoint AND d.state = 'failed'
    ORDER BY d.ended_ms, d.message_id LIMIT :at_most)

-- name: failed
SELECT COUNT(*) FROM hook_deliveries WHERE endpoint = :endpoint AND state = 'failed'

-- name: level
SELECT low_micro FROM balance_levels WHERE org_id = :org_id

-- name: set_level
INSERT INTO balance_levels (org_id, low_micro, at_ms, actor, reason)
VALUES (:org_id, CAST(:low_micro AS BIGINT), :now_ms, :actor, :reason)
ON CONFLICT (org_id) DO UPDATE SET low_micro = excluded.low_micro, at_ms = excluded.at_ms, actor = excluded.actor,
    reason = excluded.reason
