-- The unit in which a provider's rates count.

-- name: balances
SELECT feature, start_ms, balance FROM provider_rates WHERE provider = :provider AND balance IS NOT NULL
