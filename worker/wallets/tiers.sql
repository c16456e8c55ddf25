-- Tiers: their holders, and their payments.

-- name: customers_with
SELECT customer_id FROM tier_holders WHERE tier = :tier AND ended_ms IS NULL

-- name: is_paid
SELECT 1 FROM ledger_entries WHERE key = :key

-- Tiers, and their holders.

-- name: tiers
SELECT t.tier, t.at_once, t.price_micro, COUNT(h.customer_id) AS customers
FROM tiers t LEFT JOIN tier_holders h ON h.tier = t.tier AND h.ended_ms IS NULL
GROUP BY t.tier, t.at_once, t.price_micro ORDER BY t.at_once, t.tier

-- name: of_customer
SELECT h.tier, t.at_once, t.price_micro, h.paid_to_ms, h.renews, h.ended_ms, h.ended_reason
FROM tier_holders h JOIN tiers t ON t.tier = h.tier WHERE h.customer_id = :customer_id
ORDER BY CASE WHEN h.ended_ms IS NULL THEN 0 ELSE 1 END, h.tier
