-- Lists of organisations.

-- name: chosen
(:provider = '' OR o.billing_provider = :provider) AND (:plan = '' OR o."plan" = :plan)
    AND (:search = '' OR o.org_id LIKE :like ESCAPE '!') AND (:halted = 0 OR o.is_halted)
    AND (:unassigned = 0 OR NOT EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = o.org_id)) AND {ending}
    AND (:overridden = 0 OR ((o.override_halted IS NOT NULL OR o.override_max_concurrent IS NOT NULL) AND {overrides}))

-- name: overrides
-- One that has run out says nothing, though no tick has forgotten it yet.
(o.override_until_ms IS NULL OR o.override_until_ms > :now_ms)

-- name: never_halted
SELECT o.org_id, o.override_until_ms AS until_ms, COUNT(*) OVER () AS orgs FROM orgs o
WHERE NOT o.override_halted AND {overrides} ORDER BY o.org_id LIMIT :at_most

-- name: any_end
1 = 1

-- name: ends_by
-- Of the index, then of those that are still looked at.
o.runs_out_ms IS NOT NULL AND o.runs_out_ms <= :runs_out_by_ms AND {ends} IS NOT NULL

-- name: ends
-- Of whom the watch looks at no more its last estimate stays.
CASE WHEN NOT o.is_halted AND o.billing_provider NOT IN {unbilled} THEN o.runs_out_ms END

-- name: list
-- One page. `value`: by what; `order`: which way, names behind it; `later`: what comes after a page in that order.
SELECT o.org_id, o.billing_provider, o."plan", o.is_halted, o.halt_reason, o.max_concurrent_sandboxes, o.balance_micro,
    o.balance_read_ms, o.unseen_micro, o.stopped_reason,
    CASE WHEN {overrides} THEN o.override_halted END AS override_halted,
    CASE WHEN {overrides} THEN o.override_max_concurrent END AS override_max_concurrent,
    CASE WHEN {overrides} THEN o.override_until_ms END AS override_until_ms
FROM orgs o WHERE {chosen} AND {later} ORDER BY {order} LIMIT :at_most

-- name: ascending
{value} ASC, o.org_id ASC

-- name: descending
{value} DESC, o.org_id DESC

-- name: after_ascending
(:after_org_id = '' OR ({value}, o.org_id) > {last})

-- name: after_descending
(:after_org_id = '' OR ({value}, o.org_id) < {last})

-- name: last
-- The row that the page before ended with; where it has another value by now, the page goes on by that one.
((SELECT {value} FROM orgs o WHERE o.org_id = :after_org_id), CAST(:after_org_id AS TEXT))

-- name: by_name
o.org_id

-- name: by_balance
-- Whoever has no value comes last.
COALESCE(o.balance_micro, 9223372036854775807)

-- name: by_halted
COALESCE(o.halted_at, -1)

-- name: by_end
COALESCE({ends}, 9223372036854775807)

-- name: by_plan
COALESCE(o."plan", '')

-- name: ids
SELECT o.org_id FROM orgs o WHERE {chosen} ORDER BY o.org_id LIMIT :at_most

-- name: scheduled_flips
SELECT a.org_id, o.billing_provider, a.provider, a.customer_id, a.start_ms, a.actor, a.reason
FROM assignments a JOIN orgs o ON o.org_id = a.org_id
WHERE a.start_ms > :now_ms AND (:provider = '' OR a.provider = :provider)
ORDER BY a.start_ms, a.org_id LIMIT :at_most
