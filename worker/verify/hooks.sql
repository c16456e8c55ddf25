-- Messages to the operator's product (invariant 13) against their facts.
--
-- Guarantee: as in `ledger.sql`. The name of a fact has its event and its subject.

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: no_window
CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: message_without_fact
-- Each message has a fact on record. A test message to an endpoint does not have a fact.
SELECT 'message_without_fact' AS what, m.org_id, {no_window}, m.message_id, m.fact FROM hook_messages m
WHERE m.event <> 'endpoint.test' AND NOT EXISTS (
    SELECT 1 FROM projections p WHERE p.org_id = m.org_id AND p.at_ms = m.at_ms
        AND m.event = CASE WHEN p.is_halted THEN 'organisation.halted' ELSE 'organisation.resumed' END)
AND NOT EXISTS (
    SELECT 1 FROM balance_episodes e WHERE e.org_id = m.org_id AND m.event = 'balance.' || e.level
        AND m.fact = m.event || ':' || e.org_id || ':' || e.episode)
AND NOT EXISTS (
    SELECT 1 FROM reservations r WHERE m.event = 'reservation.expired' AND r.reservation = SUBSTR(m.fact, 21)
        AND r.expires_ms <= m.at_ms)
AND NOT EXISTS (
    SELECT 1 FROM topups p WHERE m.event = 'topup.credited' AND p.topup = SUBSTR(m.fact, 16)
        AND p.state = 'credited')
AND NOT EXISTS (
    SELECT 1 FROM topups p WHERE m.event = 'topup.failed' AND p.topup = SUBSTR(m.fact, 14)
        AND p.state IN ('credited', 'declined', 'needs_customer', 'given_up'))
AND NOT EXISTS (
    SELECT 1 FROM guard_overrides o WHERE m.fact = m.event || ':' || o.number AND CASE m.event
        WHEN 'override.requested' THEN o.at_ms = m.at_ms WHEN 'override.approved' THEN o.state IN ('in_force', 'ended')
        WHEN 'override.refused' THEN o.state = 'refused' WHEN 'override.ended' THEN o.state = 'ended' END)

-- name: delivery_waits
-- The longest wait of the schedule is ten hours. The limit of two days allows for clocks.
SELECT 'delivery_wait' AS what, m.org_id, {no_window}, d.message_id, d.endpoint, d.due_at_ms,
    CAST(:now_ms AS BIGINT) AS moment_ms
FROM hook_deliveries d JOIN hook_messages m ON m.message_id = d.message_id
WHERE d.state = 'due' AND d.due_at_ms > CAST(:now_ms AS BIGINT) + 2 * CAST(86400000 AS BIGINT)

-- name: undelivered
-- Each delivered message was sent. A message is given up only after its schedule, or if its endpoint was ended.
SELECT 'delivery_state' AS what, m.org_id, {no_window}, d.message_id, d.endpoint, d.state, d.attempts, d.failures
FROM hook_deliveries d LEFT JOIN hook_messages m ON m.message_id = d.message_id
WHERE m.message_id IS NULL OR (d.state = 'delivered' AND d.attempts = 0) OR (d.state = 'failed' AND d.failures < 8
    AND NOT EXISTS (SELECT 1 FROM hook_endpoints e WHERE e.name = d.endpoint AND e.ended_ms IS NOT NULL))
