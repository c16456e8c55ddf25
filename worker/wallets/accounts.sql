-- The provider that bills an organisation, and the part of a wallet's charges that you owe to suppliers.

-- name: biller
-- Always return one row, with NULL for an organisation without a provider. `has_own`: the organisation's own wallet
-- exists. `has_theirs`: its customer's wallet exists.
SELECT a.provider, a.customer_id, (SELECT MIN(f.start_ms) FROM assignments f WHERE f.org_id = :org_id) AS begins_ms,
    EXISTS (SELECT 1 FROM ledger_accounts l WHERE l.account_id = :own) AS has_own,
    EXISTS (SELECT 1 FROM ledger_accounts l WHERE l.account_id = 'wallet:' || a.customer_id) AS has_theirs
FROM (SELECT 1 AS one) q LEFT JOIN assignments a ON a.org_id = :org_id AND a.start_ms <= :now_ms
    AND (a.end_ms IS NULL OR :now_ms < a.end_ms)

-- name: hold
-- The part of the cost of a wallet's executions that you owe to suppliers, and that no payout has released.
SELECT COALESCE(CAST(SUM(x.owed_micro) AS BIGINT), 0) AS hold_micro FROM {settlements_now} x WHERE x.state <> 'released'

-- name: of_customer
r.customer_id = :customer_id AND r.supplier IS NOT NULL

-- Wallets and their entries.

-- name: wallets
SELECT account_id, balance_micro, plan FROM ledger_accounts
ORDER BY balance_micro LIMIT :at_most

-- name: of_wallet
(from_account = :account_id OR to_account = :account_id)

-- name: is_entry
SELECT 1 FROM ledger_entries WHERE key = :after AND {of_wallet}

-- name: entries
SELECT key, kind, amount_micro, CASE WHEN to_account = :account_id THEN amount_micro ELSE -amount_micro END
    AS moved_micro, feature, quantity, ts, at_ms, actor, reason
FROM ledger_entries WHERE {of_wallet}
    AND (:after = '' OR (at_ms, key) < (SELECT e.at_ms, e.key FROM ledger_entries e WHERE e.key = :after))
ORDER BY at_ms DESC, key DESC LIMIT :at_most

-- The rows that an organisation's users may see.

-- name: told
-- Show whether another organisation uses a wallet, or used it before, because the ledger has past charges, too. A
-- customer that is an organisation itself uses its own wallet. The row also has the wallet's top-up terms, or NULL.
SELECT EXISTS (
        SELECT 1 FROM assignments a WHERE a.customer_id = :customer_id AND a.org_id <> :org_id AND a.provider IN (
            SELECT p.provider FROM provider_states p WHERE p.terms IS NOT NULL UNION ALL SELECT 'embedded')
        UNION ALL
        SELECT 1 FROM orgs o WHERE o.org_id = :customer_id AND o.org_id <> :org_id) AS is_shared,
    t.service, t.service_customer, t.threshold_micro, t.amount_micro, t.blocked_ms
FROM (SELECT 1 AS one) q LEFT JOIN topup_terms t ON t.customer_id = :customer_id AND t.mode = 'live'

-- name: org
SELECT billing_provider, is_halted, halted_at, halt_reason, balance_micro, unconfirmed_micro, balance_read_ms, runs_out_ms
FROM orgs WHERE org_id = :org_id

-- name: blocked
SELECT metric, CAST(SUM(count) AS BIGINT) AS times, CAST(SUM(amount) AS BIGINT) AS amount, MAX(last_ms) AS last_ms
FROM guard_denials WHERE org_id = :org_id AND minute_ms >= :since_ms AND enforced
GROUP BY metric ORDER BY MAX(last_ms) DESC, metric LIMIT :at_most

-- name: overrides
-- Limit overrides that were requested or made for one organisation, and have not ended. Overrides that wait for a
-- decision come first.
SELECT number, period, amount, ends_ms, state, at_ms FROM guard_overrides
WHERE metric = :metric AND reach = 'org' AND target = :org_id
    AND state IN ('asked', 'in_force') AND (ends_ms IS NULL OR ends_ms > :now_ms)
ORDER BY CASE WHEN state = 'asked' THEN 0 ELSE 1 END, number DESC LIMIT :at_most
