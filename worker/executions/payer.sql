-- Who asks for a run.

-- name: asker
-- Who bills an organisation now, and whether it may run: one row, also where nobody knows it.
SELECT a.provider, a.customer_id, o.is_halted, o.halt_reason, o.stopped_at_ms
FROM (SELECT 1 AS one) q LEFT JOIN orgs o ON o.org_id = :org_id
    LEFT JOIN assignments a ON a.org_id = :org_id AND a.start_ms <= :now_ms
        AND (a.end_ms IS NULL OR :now_ms < a.end_ms)
