-- The facts for changes of executions that are decided together.

-- name: wallets
-- The wallets of these customers, and whether they may still have to pay for recorded usage.
WITH paying AS MATERIALIZED (SELECT r.customer_id FROM {rows :customers (customer_id text)} r LIMIT :asking)
SELECT r.customer_id, x.balance_micro, x.held_micro, x.overdraft_micro, x.over_micro, x.plan, x.next_due_ms, x.lots_over_ms,
    x.deferred_micro, CASE WHEN EXISTS (SELECT 1 FROM assignments a JOIN orgs o ON o.org_id = a.org_id
        LEFT JOIN buckets b ON b.id = o.bucket WHERE a.customer_id = r.customer_id AND a.start_ms <= :now_ms
        AND (a.end_ms IS NULL OR :now_ms < a.end_ms) AND {may_have_used}) THEN 1 ELSE 0 END AS has_used
FROM paying r JOIN ledger_accounts x ON x.account_id = 'wallet:' || r.customer_id

-- name: rates
-- All rates, each with the time when it was set.
SELECT feature, start_ms, micro_credits, per_quantity, at_ms FROM ledger_rates

-- name: verdict_may_change
-- The customers with a halted organisation, or with a low balance that needs a message to the operator's product.
WITH moved AS MATERIALIZED (
    SELECT r.customer_id, r.balance FROM {rows :moved (customer_id text, balance bigint)} r LIMIT :asking
)
SELECT m.customer_id FROM moved m WHERE EXISTS (SELECT 1 FROM assignments a JOIN orgs o ON o.org_id = a.org_id
    WHERE a.customer_id = m.customer_id AND (o.is_halted OR (m.balance <= {low_level}
        AND EXISTS (SELECT 1 FROM hook_endpoints h WHERE h.ended_ms IS NULL
            AND ' ' || h.events || ' ' LIKE '% balance.low %')
        AND NOT EXISTS (SELECT 1 FROM balance_episodes e WHERE e.org_id = o.org_id AND e.level = 'low'
            AND e.ended_ms IS NULL))))
