-- Tiers: who holds them, and what is paid.

-- name: customers_with
SELECT customer_id FROM tier_holders WHERE tier = :tier AND ended_ms IS NULL

-- name: is_paid
SELECT 1 FROM ledger_entries WHERE key = :key
