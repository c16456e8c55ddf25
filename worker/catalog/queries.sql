-- The terms of billing: the mapping, the terms of providers, and wallets.

-- name: mapping_rows
SELECT kind, memory_mb, feature, unit, start_ms, at_ms FROM mappings ORDER BY mapping_id

-- name: terms_in_force
SELECT provider, terms, live_from_ms, wire_since_ms FROM provider_states WHERE terms IS NOT NULL

-- name: is_used
SELECT * FROM (SELECT 1 FROM pushes WHERE provider = :provider LIMIT 1) p
UNION ALL SELECT * FROM (SELECT 1 FROM folded_pushes WHERE provider = :provider LIMIT 1) f

-- name: keep_terms
INSERT INTO provider_states (provider, terms, live_from_ms, wire_since_ms)
VALUES (:provider, :terms, :live_from_ms, :wire_since_ms)
ON CONFLICT (provider) DO UPDATE SET terms = excluded.terms, live_from_ms = excluded.live_from_ms,
    wire_since_ms = excluded.wire_since_ms

-- name: waiting_for_a_provider
pending_usage WHERE reason = 'no_provider'

-- name: paused
SELECT provider, paused_ms, paused_reason FROM provider_states WHERE paused_ms IS NOT NULL

-- name: orgs_of_customers
-- This includes assignments that have ended or begin later, because a superfluous refresh does no harm.
SELECT DISTINCT a.org_id, a.provider FROM {rows :customers (id text)} w JOIN assignments a ON a.customer_id = w.id

-- name: wallets_on_plan
SELECT account_id FROM ledger_accounts WHERE plan = :plan

-- name: billers
-- The providers that bill organisations as this customer, now.
SELECT provider, org_id FROM assignments WHERE customer_id = :customer_id AND start_ms <= :at_ms
    AND (end_ms IS NULL OR :at_ms < end_ms)

-- Features that organisations use now.

-- name: in_use
WITH picked AS MATERIALIZED (SELECT r.org_id FROM {rows :orgs (org_id text)} r),
segments (lo, hi, start_ms, end_ms, feature) AS (SELECT lo, hi, start_ms, end_ms, feature
    FROM {rows :segments (lo bigint, hi bigint, start_ms bigint, end_ms bigint, feature text, unit text)} r),
used AS MATERIALIZED (
    SELECT DISTINCT p.org_id, s.memory_mb, s.ts - s.ts % {window_length_ms} AS window_ms
    FROM picked p {look_up} usage_samples s {looked_up_by} s.org_id = p.org_id AND s.ts >= :from_ms {end_look_s}
    WHERE s.problem IS NULL
    UNION
    SELECT p.org_id, b.memory_mb, :window_ms FROM picked p {each_then} sandboxes b ON b.org_id = p.org_id
        AND b.state = 'running' AND b.memory_mb BETWEEN 0 AND {most_memory_mb}
)
SELECT DISTINCT u.org_id, g.feature FROM used u JOIN segments g ON {in_segment} AND u.window_ms >= g.start_ms
    AND u.window_ms < g.end_ms

-- The owner of a wallet.

-- name: other_owners
-- The other owners of the credit in each claim. If the embedded ledger keeps the credit, the pool of that name is an
-- owner. Organisations that are billed as this customer at that time are owners, too.
SELECT c.n, p.pool, a.org_id, a.provider
FROM {rows :claims (n bigint, org_id text, customer_id text, start_ms bigint, end_ms bigint)} c
LEFT JOIN pools p ON p.pool = c.customer_id AND :in_ledger = 1
LEFT JOIN assignments a ON a.provider IN :providers AND a.customer_id = c.customer_id AND a.org_id <> c.org_id
    AND (a.end_ms IS NULL OR a.end_ms > c.start_ms) AND (c.end_ms IS NULL OR a.start_ms < c.end_ms)
WHERE p.pool IS NOT NULL OR a.org_id IS NOT NULL
ORDER BY c.n, a.start_ms
