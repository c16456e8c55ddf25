-- The organisations with verdicts that executions may change.

-- name: verdict_may_change
-- True if an organisation of this wallet is halted, or if the wallet just lost a tier. Also true if its balance is low
-- and the operator's product needs a message about it.
SELECT 1 FROM assignments a JOIN orgs o ON o.org_id = a.org_id
WHERE a.customer_id = :customer_id AND (o.is_halted OR (:balance_micro <= {low_level}
    AND EXISTS (SELECT 1 FROM hook_endpoints h WHERE h.ended_ms IS NULL
        AND ' ' || h.events || ' ' LIKE '% balance.low %')
    AND NOT EXISTS (SELECT 1 FROM balance_episodes e WHERE e.org_id = o.org_id AND e.level = 'low'
        AND e.ended_ms IS NULL)))
UNION ALL SELECT 1 FROM tier_holders WHERE customer_id = :customer_id AND ended_ms = :now_ms LIMIT 1

-- name: use_of
SELECT 1 FROM guard_uses WHERE reservation = :key AND use_key = SUBSTR(:key, 7)
