-- The terms of billing: the mapping, providers' terms, wallets.

-- name: mapping_rows
SELECT kind, memory_mb, feature, unit, start_ms FROM mappings ORDER BY mapping_id

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
-- An assignment that has ended, or has yet to begin, is asked about as well: a read too many costs nothing.
SELECT DISTINCT a.org_id, a.provider FROM {rows :customers (id text)} w JOIN assignments a ON a.customer_id = w.id

-- name: wallets_on_plan
SELECT account_id FROM ledger_accounts WHERE plan = :plan

-- name: billers
-- Who bills organisations as this customer, now.
SELECT provider, org_id FROM assignments WHERE customer_id = :customer_id AND start_ms <= :at_ms
    AND (end_ms IS NULL OR :at_ms < end_ms)
