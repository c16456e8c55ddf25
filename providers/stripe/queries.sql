-- Stripe's customers that have a wallet in the embedded ledger.

-- name: accounts
-- Return those of the given customers that have an account in the ledger. `is_granted` is true if the customer was
-- ever granted credit.
WITH granted AS (SELECT DISTINCT to_account FROM ledger_entries WHERE from_account = :from_account)
SELECT w.id, g.to_account IS NOT NULL AS is_granted FROM {rows :customers (id text)} w
JOIN ledger_accounts a ON a.account_id = 'wallet:' || w.id
LEFT JOIN granted g ON g.to_account = a.account_id
