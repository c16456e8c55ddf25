-- Whose wallet an organisation's is, and what suppliers wait for of it.

-- name: biller
-- One row, also where nobody bills it; and whether its own wallet, or its customer's, was ever used.
SELECT a.provider, a.customer_id, (SELECT MIN(f.start_ms) FROM assignments f WHERE f.org_id = :org_id) AS begins_ms,
    EXISTS (SELECT 1 FROM ledger_accounts l WHERE l.account_id = :own) AS has_own,
    EXISTS (SELECT 1 FROM ledger_accounts l WHERE l.account_id = 'wallet:' || a.customer_id) AS has_theirs
FROM (SELECT 1 AS one) q LEFT JOIN assignments a ON a.org_id = :org_id AND a.start_ms <= :now_ms
    AND (a.end_ms IS NULL OR :now_ms < a.end_ms)

-- name: hold
-- What of the cost of a wallet's runs suppliers wait for: whatever of it is owed and no batch has released.
SELECT COALESCE(CAST(SUM(x.owed_micro) AS BIGINT), 0) AS hold_micro FROM {settlements_now} x WHERE x.state <> 'released'

-- name: of_customer
r.customer_id = :customer_id AND r.supplier IS NOT NULL
