-- The differences between balances and pushes that a person was told of.

-- name: told
{told_balances} AND (:org_id = '' OR org_id = :org_id) ORDER BY told_ms, provider, customer_id, feature {held}

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: acknowledge
UPDATE balance_marks SET told_qty = 0, told_ms = NULL, unsure_qty = 0
WHERE provider = :provider AND customer_id = :customer_id AND feature = :feature
