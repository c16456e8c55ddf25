-- Deliveries of providers, each event once.

-- name: taken
SELECT state FROM webhooks WHERE provider = :provider AND event_id = :event_id AND state <> 'failed'

-- name: store
INSERT INTO webhooks (provider, event_id, received_ms, body_sha256, state, attempts, error)
VALUES (:provider, :event_id, :received_ms, :body_sha256, :state, 1, :error)
ON CONFLICT (provider, event_id) DO UPDATE SET state = :state, attempts = webhooks.attempts + 1, error = :error,
    received_ms = :received_ms
WHERE webhooks.state = 'failed' RETURNING attempts

-- name: forget
DELETE FROM webhooks WHERE received_ms < :before_ms
