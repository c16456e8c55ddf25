-- Who pays for a run, and whether its organisation may start one.

-- name: biller
SELECT provider, customer_id FROM assignments WHERE org_id = :org_id AND start_ms <= :now_ms
    AND (end_ms IS NULL OR :now_ms < end_ms)

-- name: standing
SELECT is_halted, halt_reason, stopped_at_ms FROM orgs WHERE org_id = :org_id

-- name: any_halted
SELECT 1 FROM orgs WHERE org_id IN :orgs AND is_halted LIMIT 1
