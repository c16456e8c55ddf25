-- Whose a wallet is.

-- name: other_owners
-- Of claims to a customer's credit: the pool of that name, as far as the credit lies in the ledger, and other organisations
-- that are billed as this customer in that time.
SELECT c.n, p.pool, a.org_id, a.provider
FROM {rows :claims (n bigint, org_id text, customer_id text, start_ms bigint, end_ms bigint)} c
LEFT JOIN pools p ON p.pool = c.customer_id AND :in_ledger = 1
LEFT JOIN assignments a ON a.provider IN :providers AND a.customer_id = c.customer_id AND a.org_id <> c.org_id
    AND (a.end_ms IS NULL OR a.end_ms > c.start_ms) AND (c.end_ms IS NULL OR a.start_ms < c.end_ms)
WHERE p.pool IS NOT NULL OR a.org_id IS NOT NULL
ORDER BY c.n, a.start_ms
