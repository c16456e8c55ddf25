-- Costs in credits, learned from a provider.

-- name: hold_costs
SELECT provider, costs_read_ms FROM provider_states WHERE provider = :provider {for_update}

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: starts
SELECT start_ms FROM provider_rates WHERE provider = :provider AND feature = :feature

-- name: insert_cost
INSERT INTO provider_rates (provider, feature, start_ms, micro, per_quantity, at_ms, actor, reason, balance, confirmed_ms)
VALUES (:provider, :feature, :start_ms, :micro, :per_quantity, :at_ms, :actor, :reason, :balance, :confirmed_ms)

-- name: costs_read
UPDATE provider_states SET costs_read_ms = :asked_ms
WHERE provider = :provider AND (costs_read_ms IS NULL OR costs_read_ms < :asked_ms OR costs_read_ms > :latest_ms)
