-- The facts for calls that are decided together: uses, the ends of uses, and changes of executions.

-- name: impatient [postgresql]
-- A shared transaction waits only briefly for a lock. After that, its calls are decided alone.
SELECT set_config('lock_timeout', :wait, TRUE) AS wait

-- name: impatient [sqlite]
SELECT :wait AS wait

-- name: for_update_of_counters [postgresql]
FOR UPDATE OF c

-- name: for_update_of_counters [sqlite]

-- name: hold_counters
-- All transactions lock counters in this order.
SELECT c.org_id, c.metric, c.period, c.start_ms, c.used, c.uses, c.warned
FROM {rows :counters (of_org text, of_metric text, its_period text, begins_ms bigint)} r JOIN guard_counters c
    ON c.org_id = r.of_org AND c.metric = r.of_metric AND c.period = r.its_period AND c.start_ms = r.begins_ms
ORDER BY c.org_id, c.metric, c.start_ms, CASE c.period WHEN 'month' THEN 0 WHEN 'day' THEN 1 ELSE 2 END
{for_update_of_counters}

-- name: no [postgresql]
FALSE

-- name: no [sqlite]
0

-- name: make
-- All transactions lock counters in this order.
INSERT INTO guard_counters (org_id, metric, period, start_ms, used, uses, warned)
SELECT of_org, of_metric, its_period, begins_ms, 0, 0, {no}
FROM {rows :counters (of_org text, of_metric text, its_period text, begins_ms bigint)} r WHERE 1 = 1
ORDER BY of_org, of_metric, begins_ms, CASE its_period WHEN 'month' THEN 0 WHEN 'day' THEN 1 ELSE 2 END
ON CONFLICT DO NOTHING

-- name: move
-- Update locked counters. If the new amount exceeds a limit, the row is not updated, and the count of rows shows it.
UPDATE guard_counters SET used = used + r.amount, uses = uses + r.more_uses, warned = r.is_warned
FROM {rows :moves (of_org text, of_metric text, its_period text, begins_ms bigint, amount bigint, more_uses bigint,
    is_warned boolean, most bigint)} r
WHERE org_id = r.of_org AND metric = r.of_metric AND period = r.its_period AND start_ms = r.begins_ms
    AND used + r.amount <= r.most
