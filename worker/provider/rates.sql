-- An operator's settings for estimates.

-- name: insert_rate
INSERT INTO provider_rates (provider, feature, start_ms, micro, per_quantity, at_ms, actor, reason)
VALUES (:provider, :feature, :start_ms, :micro, :per_quantity, :at_ms, :actor, :reason)
ON CONFLICT DO NOTHING RETURNING feature

-- name: set_when_down
INSERT INTO provider_when_down (provider, plan, policy) VALUES (:provider, :plan, :policy)
ON CONFLICT (provider, plan) DO UPDATE SET policy = excluded.policy

-- name: delete_when_down
DELETE FROM provider_when_down WHERE provider = :provider AND plan = :plan
