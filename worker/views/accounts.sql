-- Whose wallet an organisation's is.

-- name: biller
SELECT provider, customer_id FROM assignments WHERE org_id = :org_id AND start_ms <= :now_ms
    AND (end_ms IS NULL OR :now_ms < end_ms)
