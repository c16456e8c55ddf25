-- Whose wallet an organisation's is, and what suppliers wait for of it.

-- name: biller
SELECT provider, customer_id FROM assignments WHERE org_id = :org_id AND start_ms <= :now_ms
    AND (end_ms IS NULL OR :now_ms < end_ms)

-- name: hold
-- What of the cost of a wallet's runs waits for suppliers: held, or frozen.
SELECT COALESCE(CAST(SUM(x.owed_micro) AS BIGINT), 0) AS hold_micro FROM {settlements_now} x WHERE x.state IN ('hold', 'frozen')

-- name: of_customer
r.customer_id = :customer_id AND r.supplier IS NOT NULL
