-- Costs in credits, as a provider reported them.

-- name: told_costs
SELECT feature, balance, micro, per_quantity, confirmed_ms, at_ms FROM provider_rates
WHERE provider = :provider AND balance IS NOT NULL AND (micro > 0 OR balance = feature)
