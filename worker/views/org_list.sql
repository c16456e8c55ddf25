-- Organisations as the console lists them.

-- name: page
-- `of_state`: which. A page goes on behind the last id.
SELECT o.org_id, o.billing_provider, o."plan", o.is_halted, o.halted_at, o.halt_reason, o.max_concurrent_sandboxes,
    o.balance_micro, o.balance_read_ms, o.unseen_micro, o.stopped_at_ms, o.stopped_reason,
    (SELECT COUNT(*) FROM sandboxes s WHERE s.org_id = o.org_id AND s.state = 'running') AS running
FROM orgs o WHERE o.org_id > :after_org_id AND {of_state} AND (:provider = '' OR o.billing_provider = :provider)
    AND (:plan = '' OR o."plan" = :plan) AND (:search = '' OR o.org_id LIKE :like ESCAPE '!')
ORDER BY o.org_id LIMIT :at_most

-- name: is_any
1 = 1

-- name: is_active
NOT o.is_halted AND o.stopped_at_ms IS NULL AND o.billing_provider IS NOT NULL

-- name: is_halted
-- As it stands in the index: SQLite knows it by nothing else.
o.is_halted AND o.stopped_at_ms IS NULL

-- name: is_stopped
o.stopped_at_ms IS NOT NULL

-- name: is_unassigned
o.billing_provider IS NULL AND NOT o.is_halted AND o.stopped_at_ms IS NULL

-- name: providers
SELECT DISTINCT provider FROM assignments ORDER BY provider LIMIT 100

-- name: plans
SELECT "plan" FROM ledger_plans ORDER BY "plan" LIMIT 1000
