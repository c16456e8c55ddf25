-- Tiers, and their holders.

-- name: tier
SELECT tier, at_once, price_micro FROM tiers WHERE tier = :tier

-- name: to_change [postgresql]
FOR NO KEY UPDATE

-- name: to_change [sqlite]

-- name: tier_to_change
SELECT tier, at_once, price_micro FROM tiers WHERE tier = :tier {to_change}

-- name: set_tier
INSERT INTO tiers (tier, at_once, price_micro) VALUES (:tier, :at_once, :price_micro)
ON CONFLICT (tier) DO UPDATE SET at_once = excluded.at_once, price_micro = excluded.price_micro

-- name: holder
SELECT customer_id, tier, bought_ms, paid_to_ms, renews, ended_ms, ended_reason FROM tier_holders
WHERE customer_id = :customer_id AND tier = :tier

-- name: buy
-- Buy the tier, even if it ended or does not renew.
INSERT INTO tier_holders (customer_id, tier, bought_ms, paid_to_ms, renews, actor, reason)
VALUES (:customer_id, :tier, :now_ms, :paid_to_ms, TRUE, :actor, :reason)
ON CONFLICT (customer_id, tier) DO UPDATE SET
    bought_ms = CASE WHEN tier_holders.ended_ms IS NULL THEN tier_holders.bought_ms ELSE excluded.bought_ms END,
    paid_to_ms = excluded.paid_to_ms, renews = TRUE, ended_ms = NULL, ended_reason = NULL, actor = excluded.actor,
    reason = excluded.reason

-- name: expect
-- Make the wallet due at that moment, unless it is due earlier.
UPDATE ledger_accounts SET next_due_ms = CASE WHEN next_due_ms < :paid_to_ms THEN next_due_ms ELSE :paid_to_ms END
WHERE account_id = :account_id

-- name: let_end
UPDATE tier_holders SET renews = FALSE, actor = :actor, reason = :reason
WHERE customer_id = :customer_id AND tier = :tier AND ended_ms IS NULL AND renews RETURNING tier

-- name: due
-- Return the tiers at the end of their month. A tier that continues waits until the rest of the month is booked.
SELECT t.customer_id, t.tier, k.price_micro, t.renews, CASE WHEN {is_unused} THEN 1 ELSE 0 END AS is_unused
FROM tier_holders t JOIN tiers k ON k.tier = t.tier
WHERE t.customer_id IN :customers AND t.ended_ms IS NULL
    AND t.paid_to_ms + CASE WHEN t.renews THEN :wait_ms ELSE 0 END <= :now_ms
ORDER BY t.customer_id, k.at_once DESC, t.tier

-- name: active
SELECT t.tier, t.at_once FROM tier_holders h JOIN tiers t ON t.tier = h.tier
WHERE h.customer_id = :customer_id AND h.ended_ms IS NULL

-- name: go_on
UPDATE tier_holders SET paid_to_ms = :paid_to_ms
WHERE (customer_id, tier) IN (SELECT customer_id, tier FROM {rows :paid (customer_id text, tier text)} r)

-- name: end
UPDATE tier_holders SET ended_ms = :now_ms, ended_reason = r.ended_reason
FROM {rows :ended (customer_id text, tier text, ended_reason text)} r
WHERE tier_holders.customer_id = r.customer_id AND tier_holders.tier = r.tier
