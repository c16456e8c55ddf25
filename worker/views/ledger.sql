-- Wallets and their entries.

-- name: wallets
SELECT account_id, balance_micro, plan FROM ledger_accounts
ORDER BY balance_micro LIMIT :at_most

-- name: entries
SELECT key, kind, amount_micro, feature, quantity, ts, actor, reason FROM ledger_entries
WHERE from_account = :account_id OR to_account = :account_id ORDER BY at_ms DESC, key DESC LIMIT :at_most
