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
