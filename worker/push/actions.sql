-- The differences between balances and pushes that were reported to a person.

-- name: told
{told_balances} AND (:org_id = '' OR org_id = :org_id) ORDER BY told_ms, provider, customer_id, feature {held}

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: acknowledge
UPDATE balance_marks SET told_qty = 0, told_ms = NULL, unsure_qty = 0
WHERE provider = :provider AND customer_id = :customer_id AND feature = :feature

-- The pushes that a command finds by a filter.

-- name: by_filter
SELECT key FROM pushes WHERE state IN {open_states} AND {open_state} IN :states AND (:org_id = '' OR org_id = :org_id)
    AND (:provider = '' OR provider = :provider) AND (:error = '' OR last_error LIKE '%' || :error || '%' ESCAPE '!')
ORDER BY window_ms, org_id, feature, revision

-- The pushes that a person tried to cancel at their provider before.

-- name: asked_before
SELECT DISTINCT a.target FROM {rows :keys (key text)} x
    JOIN operator_actions a ON a.target = x.key AND a.action = 'push_cancel'

-- Pushes in doubt, chosen by a common property.

-- name: chosen
-- The first condition matches the index on pushes that need a person.
p.state IN ('in_doubt', 'rejected') AND p.state = 'in_doubt'
    AND (:provider = '' OR p.provider = :provider) AND (:org_id = '' OR p.org_id = :org_id)
    AND (:customer_id = '' OR p.customer_id = :customer_id) AND (:feature = '' OR p.feature = :feature)
    AND p.window_ms >= :from_ms AND p.window_ms < :to_ms
    AND (:error = '' OR p.last_error LIKE '%' || :error || '%' ESCAPE '!')

-- name: count
SELECT COUNT(*) FROM pushes p WHERE {chosen}

-- name: hold_push [postgresql]
FOR UPDATE OF p

-- name: hold_push [sqlite]

-- name: portion
-- The pushes after a place, locked until the transaction ends.
SELECT p.* FROM pushes p WHERE {chosen}
    AND (p.window_ms, p.org_id, p.feature, p.revision) > (:after_ms, :after_org, :after_feature, :after_revision)
ORDER BY p.window_ms, p.org_id, p.feature, p.revision LIMIT :at_most {hold_push}
