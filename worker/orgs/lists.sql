-- Lists of organisations.

-- name: list
-- One page. `value`: the column to sort by. `order`: its direction, and then the name. `later`: the condition for rows
-- after the previous page. The columns are those of `OrgColumns`.
SELECT o.org_id, o.billing_provider, o."plan", o.is_halted, o.halted_at, o.halt_reason, o.max_concurrent_sandboxes,
    o.balance_micro, o.balance_read_ms, o.unconfirmed_micro, o.stopped_at_ms, o.stopped_reason, o.runs_out_ms,
    o.override_halted, o.override_max_concurrent, o.override_until_ms,
    (SELECT COUNT(*) FROM sandboxes s WHERE s.org_id = o.org_id AND s.state = 'running') AS running,
    CASE WHEN o.billing_provider IS NULL THEN {has_assignment} END AS is_scheduled
FROM orgs o WHERE {later} AND {chosen} ORDER BY {order} LIMIT :at_most

-- name: ids
SELECT o.org_id FROM orgs o WHERE {chosen} ORDER BY o.org_id LIMIT :at_most

-- name: chosen
{of_state} AND {ending} AND (:provider = '' OR o.billing_provider = :provider) AND (:plan = '' OR o."plan" = :plan)
    AND (:search = '' OR o.org_id LIKE :like ESCAPE '!')
    AND (:overridden = 0 OR ((o.override_halted IS NOT NULL OR o.override_max_concurrent IS NOT NULL) AND {overrides}))

-- name: any
1 = 1

-- name: is_active
NOT o.is_halted AND o.stopped_at_ms IS NULL AND o.billing_provider IS NOT NULL

-- name: is_halted
-- The condition must be exactly that of the index. Otherwise SQLite does not use the index.
o.is_halted

-- name: is_stopped
-- The subquery is read first. Otherwise SQLite would read all organisations in the order of their ids.
o.org_id IN (SELECT x.org_id FROM orgs x
    WHERE (x.held_watermark_ms IS NOT NULL OR x.stopped_at_ms IS NOT NULL) AND x.stopped_at_ms IS NOT NULL)

-- name: is_scheduled
o.billing_provider IS NULL AND {has_assignment}

-- name: is_unassigned
o.billing_provider IS NULL AND NOT {has_assignment}

-- name: has_assignment
EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = o.org_id)

-- name: overrides
-- An ended override does not count, even before a tick deletes it.
(o.override_until_ms IS NULL OR o.override_until_ms > :now_ms)

-- name: ends_by
-- Select by the index, and then only organisations that the watch still estimates.
o.runs_out_ms IS NOT NULL AND o.runs_out_ms <= :runs_out_by_ms AND {watched}

-- name: ends
-- If the watch no longer estimates an organisation, the row keeps the last estimate, which a list must not show.
CASE WHEN {watched} THEN o.runs_out_ms END

-- name: watched
NOT o.is_halted AND o.billing_provider NOT IN {unbilled}

-- name: never_halted
SELECT o.org_id, o.override_until_ms AS until_ms, COUNT(*) OVER () AS orgs FROM orgs o
WHERE NOT o.override_halted AND {overrides} ORDER BY o.org_id LIMIT :at_most

-- name: running_out
SELECT o.org_id, o.runs_out_ms, COUNT(*) OVER () AS orgs FROM orgs o
WHERE {ends_by} ORDER BY o.runs_out_ms, o.org_id LIMIT :at_most

-- name: ascending
{value} ASC, o.org_id ASC

-- name: descending
{value} DESC, o.org_id DESC

-- name: after_name
o.org_id > :after_org_id

-- name: after_ascending
({value}, o.org_id) > ({last}, :after_org_id)

-- name: after_descending
({value}, o.org_id) < ({last}, :after_org_id)

-- name: as_read
:after_ms

-- name: by_now
-- The present value of the last row of the previous page. If the value has changed, the page continues from the new
-- value.
(SELECT {value} FROM orgs o WHERE o.org_id = :after_org_id)

-- name: by_name
o.org_id

-- name: by_balance
-- Rows without a value come last.
COALESCE(o.balance_micro, 9223372036854775807)

-- name: by_halted
COALESCE(o.halted_at, -1)

-- name: by_end
COALESCE({ends}, 9223372036854775807)

-- name: by_known_end
o.runs_out_ms

-- name: by_plan
COALESCE(o."plan", '')

-- name: providers
-- Find each provider by the one before it, because providers are few and assignments are many.
WITH RECURSIVE found (provider) AS (
    SELECT MIN(provider) FROM assignments
    UNION ALL SELECT (SELECT MIN(a.provider) FROM assignments a WHERE a.provider > f.provider) FROM found f
        WHERE f.provider IS NOT NULL
)
SELECT provider FROM found WHERE provider IS NOT NULL LIMIT 100

-- name: plans
-- The ledger's plans, and plans that other providers report. The plans of other providers do not have an index, so
-- :looked_at organisations are read.
SELECT "plan" FROM ledger_plans
UNION SELECT o."plan" FROM (SELECT "plan" FROM orgs LIMIT :looked_at) o WHERE o."plan" IS NOT NULL
ORDER BY "plan" LIMIT 1000

-- name: scheduled_flips
SELECT a.org_id, o.billing_provider, a.provider, a.customer_id, a.start_ms, a.actor, a.reason
FROM assignments a JOIN orgs o ON o.org_id = a.org_id
WHERE a.start_ms > :now_ms AND (:provider = '' OR a.provider = :provider)
ORDER BY a.start_ms, a.org_id LIMIT :at_most

-- Rows that refer to one organisation.

-- name: pushes
-- The index of pushes is by window and organisation, so the query reads the index once for each window.
WITH RECURSIVE windows (window_ms) AS (
    SELECT CAST(:from_ms AS BIGINT)
    UNION ALL SELECT window_ms + {window_length_ms} FROM windows WHERE window_ms + {window_length_ms} < :to_ms
)
SELECT q.key, q.window_ms, q.feature, q.revision, q.provider, q.sealed_qty, q.sent_qty, q.state, q.attempts, q.last_error
FROM windows w {then} pushes q ON q.window_ms = w.window_ms AND q.org_id = :org_id
ORDER BY q.window_ms DESC, q.feature, q.revision DESC LIMIT :at_most

-- name: then [postgresql]
JOIN

-- name: then [sqlite]
-- SQLite keeps the order of a cross join. With another join, SQLite may read all pushes first.
CROSS JOIN

-- name: halts
SELECT cell_id, halted_at, due_at_ms, acked_at_ms, attempts, last_error FROM halts WHERE org_id = :org_id
ORDER BY halted_at DESC, cell_id LIMIT :at_most

-- name: assignments
SELECT start_ms, end_ms, provider, customer_id, actor, reason FROM assignments WHERE org_id = :org_id
ORDER BY start_ms DESC LIMIT :at_most
