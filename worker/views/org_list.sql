-- Organisations as the console lists them.

-- name: page
-- `of_state`: which; `behind`: what comes after the page before in this `order`. The columns are those of `Found`.
SELECT o.org_id, o.billing_provider, o."plan", o.is_halted, o.halted_at, o.halt_reason, o.max_concurrent_sandboxes,
    o.balance_micro, o.balance_read_ms, o.unseen_micro, o.stopped_at_ms, o.stopped_reason, o.runs_out_ms,
    (SELECT COUNT(*) FROM sandboxes s WHERE s.org_id = o.org_id AND s.state = 'running') AS running
FROM orgs o WHERE {behind} AND {of_state} AND (:provider = '' OR o.billing_provider = :provider)
    AND (:plan = '' OR o."plan" = :plan) AND (:search = '' OR o.org_id LIKE :like ESCAPE '!')
ORDER BY {order} LIMIT :at_most

-- name: behind_id
o.org_id > :after_org_id

-- name: by_id
o.org_id

-- name: behind_end
(o.runs_out_ms, o.org_id) > (:after_ms, :after_org_id) AND {ends_by}

-- name: ends_by
-- Of whom the watch looks at no more its last estimate stays.
o.runs_out_ms IS NOT NULL AND o.runs_out_ms <= :by_ms AND NOT o.is_halted AND o.billing_provider NOT IN {unbilled}

-- name: running_out
-- The first of them, with how many there are.
SELECT o.org_id, o.runs_out_ms, COUNT(*) OVER () AS orgs FROM orgs o WHERE {ends_by} ORDER BY {by_end} LIMIT :at_most

-- name: by_end
o.runs_out_ms, o.org_id

-- name: is_any
1 = 1

-- name: is_active
NOT o.is_halted AND o.stopped_at_ms IS NULL AND o.billing_provider IS NOT NULL

-- name: is_halted
-- As it stands in the index, here and below: SQLite knows it by nothing else.
o.is_halted AND o.stopped_at_ms IS NULL

-- name: is_stopped
-- Looked up first: SQLite would else go through all organisations in the order of their ids.
o.org_id IN (SELECT x.org_id FROM orgs x
    WHERE (x.held_watermark_ms IS NOT NULL OR x.stopped_at_ms IS NOT NULL) AND x.stopped_at_ms IS NOT NULL)

-- name: is_unassigned
o.billing_provider IS NULL AND NOT o.is_halted AND o.stopped_at_ms IS NULL

-- name: providers
-- Each is looked up by the one before it: they are few, and their assignments many.
WITH RECURSIVE found (provider) AS (
    SELECT MIN(provider) FROM assignments
    UNION ALL SELECT (SELECT MIN(a.provider) FROM assignments a WHERE a.provider > f.provider) FROM found f
        WHERE f.provider IS NOT NULL
)
SELECT provider FROM found WHERE provider IS NOT NULL LIMIT 100

-- name: plans
-- The ledger's, and those that other providers told of: no index has these, so that so many organisations are looked at.
SELECT "plan" FROM ledger_plans
UNION SELECT o."plan" FROM (SELECT "plan" FROM orgs LIMIT :looked_at) o WHERE o."plan" IS NOT NULL
ORDER BY "plan" LIMIT 1000
