-- The guard's counters, and the uses that they sum up.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: these
-- The counters of an organisation's metric at a moment.
org_id = :org_id AND metric = :metric AND ((period = 'hour' AND start_ms = :hour_ms)
    OR (period = 'day' AND start_ms = :day_ms) OR (period = 'month' AND start_ms = :month_ms))

-- name: lock_keys
SELECT CAST(pg_advisory_xact_lock(hashtextextended(name, 0)) AS TEXT) AS locked
FROM (SELECT name FROM {rows :names (name text)} r ORDER BY name) ordered

-- name: make
INSERT INTO guard_counters (org_id, metric, period, start_ms, used, uses, warned)
SELECT :org_id, :metric, period, start_ms, 0, 0, {no} FROM {rows :rows (period text, start_ms bigint)} x WHERE 1 = 1
ON CONFLICT DO NOTHING

-- name: no [postgresql]
FALSE

-- name: no [sqlite]
0

-- name: counters
-- All transactions lock in this order. The month's counter comes first, because its lock excludes all other uses.
-- `overs`: the number of expired uses when the statement began. While the statement waits for the lock, another
-- transaction may subtract them from the counters.
SELECT period, used, uses, warned, (SELECT COUNT(*) FROM guard_uses WHERE {is_over}) AS overs
FROM guard_counters WHERE {these}
ORDER BY start_ms, CASE period WHEN 'month' THEN 0 WHEN 'day' THEN 1 ELSE 2 END {held}

-- name: move
-- If the new amount exceeds a limit, the row is not updated. The caller then finds fewer than three updated rows.
UPDATE guard_counters SET used = used + :amount, uses = uses + :uses,
    warned = CASE period WHEN 'hour' THEN :warned_hour WHEN 'day' THEN :warned_day ELSE :warned_month END
WHERE {these} AND used + :amount
    <= CASE period WHEN 'hour' THEN :most_hour WHEN 'day' THEN :most_day ELSE :most_month END

-- name: give_back
UPDATE guard_counters SET used = used - :amount WHERE {these}

-- name: is_over
org_id = :org_id AND metric = :metric AND state = 'held' AND expires_ms <= :now_ms

-- name: over
SELECT use_key, amount, at_ms FROM guard_uses WHERE {is_over} ORDER BY use_key LIMIT :at_most {for_update}

-- name: over_in_all
SELECT COALESCE(SUM(CASE WHEN at_ms >= :hour_ms THEN amount END), 0) AS "hour",
    COALESCE(SUM(CASE WHEN at_ms >= :day_ms THEN amount END), 0) AS "day",
    COALESCE(SUM(CASE WHEN at_ms >= :month_ms THEN amount END), 0) AS "month"
FROM guard_uses WHERE {is_over}

-- name: expire
UPDATE guard_uses SET state = 'expired', amount = 0, ended_ms = :now_ms WHERE use_key IN :keys

-- name: columns
use_key, org_id, metric, number, month_ms, metric_number, asked, amount, state, decision, would, rule, enforced,
    limit_period, limit_amount, degraded, reservation, charged_micro, forgone_micro, fingerprint, at_ms, expires_ms,
    ended_ms, actor, reason

-- name: uses
SELECT {columns},
    (SELECT v.customer_id FROM reservations v WHERE v.reservation = guard_uses.reservation) AS payer,
    (SELECT m.price_micro FROM guard_metrics m WHERE {its_terms}) AS price_micro,
    (SELECT m.per_units FROM guard_metrics m WHERE {its_terms}) AS per_units
FROM guard_uses WHERE use_key IN :names ORDER BY use_key {held}

-- name: its_terms
m.metric = guard_uses.metric AND m.number = guard_uses.metric_number

-- name: add_uses
-- All statements that insert several uses do so in the order of the keys, so they do not deadlock.
INSERT INTO guard_uses ({columns})
SELECT {columns} FROM {rows :uses (use_key text, org_id text, metric text, number bigint, month_ms bigint,
    metric_number integer, asked bigint, amount bigint, state text, decision text, would text, rule text,
    enforced boolean, limit_period text, limit_amount bigint, degraded boolean, reservation text, charged_micro bigint,
    forgone_micro bigint, fingerprint text, at_ms bigint, expires_ms bigint, ended_ms bigint, actor text, reason text)} r
WHERE 1 = 1 ORDER BY use_key ON CONFLICT DO NOTHING RETURNING use_key

-- name: change_use
UPDATE guard_uses SET amount = :amount, state = :state, charged_micro = :charged_micro,
    forgone_micro = :forgone_micro, expires_ms = :expires_ms, ended_ms = :ended_ms
WHERE use_key = :use_key

-- name: deny
INSERT INTO guard_denials (org_id, metric, minute_ms, reason_code, enforced, count, amount, pays, first_ms, last_ms,
    sample)
VALUES (:org_id, :metric, :minute_ms, :reason_code, :enforced, :count, :amount, :pays, :now_ms, :now_ms, :sample)
ON CONFLICT (org_id, metric, minute_ms, reason_code, enforced) DO UPDATE SET count = guard_denials.count + excluded.count,
    amount = guard_denials.amount + excluded.amount, pays = excluded.pays,
    last_ms = CASE WHEN excluded.last_ms > guard_denials.last_ms THEN excluded.last_ms ELSE guard_denials.last_ms END

-- Set counters to the sums of their uses.

-- name: this
org_id = :org_id AND metric = :metric AND period = :period AND start_ms = :start_ms

-- name: make_one
INSERT INTO guard_counters (org_id, metric, period, start_ms, used, uses, warned)
VALUES (:org_id, :metric, :period, :start_ms, 0, 0, {no}) ON CONFLICT DO NOTHING

-- name: counter
SELECT used, uses FROM guard_counters WHERE {this} {for_update}

-- name: sum
SELECT COALESCE(SUM(amount), 0) AS amount, COUNT(*) AS uses FROM guard_uses
WHERE org_id = :org_id AND metric = :metric AND at_ms >= :start_ms AND at_ms < :end_ms

-- name: correct
UPDATE guard_counters SET used = :after, uses = :uses WHERE {this}

-- name: add
INSERT INTO guard_corrections (org_id, metric, period, start_ms, "before", "after", at_ms, actor, reason)
VALUES (:org_id, :metric, :period, :start_ms, :before, :after, :at_ms, :actor, :reason)
