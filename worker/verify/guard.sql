-- The guard (invariant 14): its uses, their counters, and their charges.
--
-- Guarantee: as in `ledger.sql`. The amount by which a held use counted before its end is not on record, so limits are
-- claimed only for immediate uses. A price is claimed if it fits in 64 bits.

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: no_window
CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: guard_counter
-- A counter has the sum and the number of its period's uses.
WITH lines AS MATERIALIZED (
    SELECT u.org_id, u.metric, p.period, CASE p.period WHEN 'hour' THEN u.at_ms - u.at_ms % 3600000
        WHEN 'day' THEN u.at_ms - u.at_ms % 86400000 ELSE u.month_ms END AS start_ms,
        SUM(u.amount) AS amount, COUNT(*) AS uses
    FROM guard_uses u CROSS JOIN (SELECT 'hour' AS period UNION ALL SELECT 'day' UNION ALL SELECT 'month') p
    GROUP BY 1, 2, 3, 4)
SELECT 'guard_counter' AS what, q.org_id, {no_window}, q.metric, q.period, q.start_ms, q.kept, q.kept_uses, q.amount, q.uses
FROM (SELECT COALESCE(c.org_id, l.org_id) AS org_id, COALESCE(c.metric, l.metric) AS metric,
        COALESCE(c.period, l.period) AS period, COALESCE(c.start_ms, l.start_ms) AS start_ms,
        COALESCE(c.used, 0) AS kept, COALESCE(c.uses, 0) AS kept_uses, COALESCE(l.amount, 0) AS amount,
        COALESCE(l.uses, 0) AS uses
    FROM guard_counters c FULL JOIN lines l ON l.org_id = c.org_id AND l.metric = c.metric AND l.period = c.period
        AND l.start_ms = c.start_ms) q
WHERE q.kept <> q.amount OR q.kept_uses <> q.uses

-- name: guard_number
-- Uses of a metric are numbered without gaps in each month of an organisation.
SELECT 'guard_numbers' AS what, q.org_id, {no_window}, q.metric, q.month_ms, q.uses, q.highest
FROM (SELECT org_id, metric, month_ms, COUNT(*) AS uses, COUNT(DISTINCT number) AS numbers, MAX(number) AS highest
    FROM guard_uses GROUP BY org_id, metric, month_ms) q
WHERE q.uses <> q.highest OR q.numbers <> q.highest

-- name: guard_beyond
-- An allowed use was within its limit, together with all immediate uses before it in the same period.
SELECT 'guard_limit_excess' AS what, q.org_id, {no_window}, q.use_key, q.metric, q.limit_period, q.limit_amount,
    q.came_to
FROM (SELECT u.org_id, u.use_key, u.metric, u.limit_period, u.limit_amount, u.state, u.would,
        CASE u.limit_period WHEN 'hour' THEN u.of_hour WHEN 'day' THEN u.of_day ELSE u.of_month END AS came_to
    FROM (SELECT n.*, SUM(CASE WHEN state = 'used' THEN amount ELSE 0 END)
            OVER (PARTITION BY org_id, metric, at_ms - at_ms % 3600000 ORDER BY number) AS of_hour,
        SUM(CASE WHEN state = 'used' THEN amount ELSE 0 END)
            OVER (PARTITION BY org_id, metric, at_ms - at_ms % 86400000 ORDER BY number) AS of_day,
        SUM(CASE WHEN state = 'used' THEN amount ELSE 0 END)
            OVER (PARTITION BY org_id, metric, month_ms ORDER BY number) AS of_month FROM guard_uses n) u
    WHERE u.limit_amount IS NOT NULL AND u.state = 'used' AND u.would <> 'block') q
WHERE q.came_to > q.limit_amount

-- name: guard_charged
-- The charge of an ended use is the amount that its execution has drawn. Without an execution, or before its end, the
-- charge is 0. An execution is accepted at the time of its use or later, and for an immediate use at the same time. A
-- use names its execution, and each execution of the guard belongs to a use.
SELECT 'guard_charge_state' AS what, COALESCE(u.org_id, r.org_id) AS org_id, {no_window},
    COALESCE(u.use_key, 'the missing use of ' || r.reservation) AS use_key, u.charged_micro, u.state, r.state AS run_state,
    r.drawn_micro, u.at_ms, r.accepted_ms
FROM guard_uses u FULL JOIN (SELECT * FROM reservations WHERE reservation >= 'guard:' AND reservation < 'guard;') r
    ON r.reservation = 'guard:' || u.use_key
WHERE u.use_key IS NULL OR (u.reservation IS NULL AND r.reservation IS NOT NULL)
    OR CASE WHEN u.reservation IS NULL OR u.state IN ('held', 'expired') THEN u.charged_micro <> 0
        ELSE r.reservation IS NULL OR r.drawn_micro <> u.charged_micro
            OR r.state <> CASE u.state WHEN 'released' THEN 'released' ELSE 'settled' END END
    OR u.reservation <> 'guard:' || u.use_key OR (u.reservation IS NOT NULL AND r.reservation IS NULL)
    OR r.accepted_ms < u.at_ms OR (u.state = 'used' AND r.accepted_ms <> u.at_ms)

-- name: guard_price
-- The charge, or the amount allowed without a charge, is the price of the use by the terms in force then.
SELECT 'guard_price' AS what, u.org_id, {no_window}, u.use_key, u.amount, u.charged_micro, u.forgone_micro, m.price_micro,
    m.per_units
FROM guard_uses u LEFT JOIN guard_metrics m ON m.metric = u.metric AND m.number = u.metric_number
WHERE m.metric IS NULL OR (u.state IN ('used', 'settled', 'released')
    AND u.amount <= 4000000000000000000 / (m.price_micro + 1)
    AND u.charged_micro + u.forgone_micro <> (2 * u.amount * m.price_micro + m.per_units) / (2 * m.per_units))

-- name: billed_twice
-- The seal did not bill usage that the guard charged. Such usage has the feature or event type that the metric counts,
-- in the window of the use. Voided pushes and pushes in shadow do not bill. Nor do withdrawn events, or events of a
-- type without a feature then. The newest mapping that began by then is in force (S5).
SELECT 'guard_double_billing' AS what, u.org_id, p.window_ms, p.feature, u.use_key, u.charged_micro, u.metric,
    COALESCE(m.counts, m.metric) AS counts, SUM(p.sealed_qty) AS sealed
FROM guard_uses u JOIN guard_metrics m ON m.metric = u.metric AND m.number = u.metric_number
    JOIN pushes p ON p.org_id = u.org_id AND p.window_ms = u.at_ms - u.at_ms % 300000
WHERE u.charged_micro > 0 AND p.state NOT IN ('voided', 'shadow')
    AND (p.feature = COALESCE(m.counts, m.metric) OR EXISTS (SELECT 1
        FROM event_types t JOIN mappings f ON f.memory_mb = t.meter AND f.kind = 'exact' AND f.feature = p.feature
            AND f.start_ms <= p.window_ms
        JOIN usage_samples s ON s.memory_mb = t.meter AND s.org_id = u.org_id AND s.ts >= p.window_ms
            AND s.ts < p.window_ms + 300000 AND s.interval_s > 0
        WHERE t.event_type = COALESCE(m.counts, m.metric)
            AND NOT EXISTS (SELECT 1 FROM mappings n WHERE n.memory_mb = f.memory_mb AND n.kind = 'exact'
                AND n.start_ms <= p.window_ms
                AND (n.start_ms > f.start_ms OR (n.start_ms = f.start_ms AND n.mapping_id > f.mapping_id)))
            AND NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = s.id)))
GROUP BY u.org_id, p.window_ms, p.feature, u.use_key, u.charged_micro, u.metric, COALESCE(m.counts, m.metric)
HAVING SUM(p.sealed_qty) > 0

-- name: actions [postgresql]
(SELECT action_id, action, target, at_ms, actor, reason, CAST(details AS json) AS said FROM operator_actions) x

-- name: actions [sqlite]
(SELECT action_id, action, target, at_ms, actor, reason, details AS said FROM operator_actions) x

-- name: said_number [postgresql]
CAST(x.said ->> 'number' AS BIGINT)

-- name: said_number [sqlite]
CAST(x.said ->> 'number' AS INTEGER)

-- name: said_ended
(x.said ->> 'ended') || '' IN ('true', '1')

-- name: said_open
(x.said ->> 'fails_open') || '' IN ('true', '1')

-- name: guard_unrecorded
-- Limits, limit overrides and prices of metrics agree with the actions. The state of an override is that of its last
-- action.
SELECT 'guard_audit_mismatch' AS what, CAST(NULL AS TEXT) AS org_id, {no_window}, q.thing, q.kept, q.said
FROM (SELECT COALESCE(k.thing, s.thing) AS thing, k.kept, s.said FROM ({kept}) k FULL JOIN ({said}) s
    ON s.thing = k.thing) q
WHERE COALESCE(q.kept, '') <> COALESCE(q.said, '')

-- name: kept
SELECT 'metric ' || k.metric || ', number ' || k.number AS thing, k.price_micro || ' for ' || k.per_units || ' by '
    || COALESCE(k.payer, 'itself') || ', phase ' || k.phase || ', of ' || COALESCE(k.counts, 'its name')
    || ', warned at ' || k.warn_ppm || CASE WHEN k.fails_open THEN ', let through unknown' ELSE '' END || {kept_by}
    AS kept
FROM guard_metrics k
UNION ALL SELECT 'limit ' || k.metric || ' of ' || k.plan || ' a ' || k.period || ', number ' || k.number,
    COALESCE(CAST(k.amount AS TEXT), 'no end') || ', phase ' || COALESCE(CAST(k.phase AS TEXT), 'as its metric')
    || CASE WHEN k.ended THEN ', ended' ELSE '' END || {kept_by}
FROM guard_limits k
UNION ALL SELECT 'override ' || k.number, k.metric || ' a ' || k.period || ' of the ' || k.reach || ' ' || k.target
    || ': ' || COALESCE(CAST(k.amount AS TEXT), 'no end') || ' until ' || COALESCE(CAST(k.ends_ms AS TEXT), 'no end')
    || {kept_by}
FROM guard_overrides k
UNION ALL SELECT 'word on override ' || o.number, REPLACE(o.state, '_', ' ') || ' at ' || o.decided_ms || ' by '
    || o.decided_by || ': ' || o.decided_reason
FROM guard_overrides o WHERE o.state <> 'asked'

-- name: said
SELECT 'metric ' || x.target || ', number ' || {said_number} AS thing, (x.said ->> 'price_micro') || ' for '
    || (x.said ->> 'per_units') || ' by ' || COALESCE(x.said ->> 'payer', 'itself') || ', phase '
    || (x.said ->> 'phase') || ', of ' || COALESCE(x.said ->> 'counts', 'its name') || ', warned at '
    || (x.said ->> 'warn_ppm') || CASE WHEN {said_open} THEN ', let through unknown' ELSE '' END || {said_by} AS said
FROM {actions} WHERE x.action = 'guard_metric'
UNION ALL SELECT 'limit ' || x.target || ' of ' || (x.said ->> 'plan') || ' a ' || (x.said ->> 'period') || ', number '
    || {said_number}, COALESCE(x.said ->> 'amount', 'no end') || ', phase '
    || COALESCE(x.said ->> 'phase', 'as its metric') || CASE WHEN {said_ended} THEN ', ended' ELSE '' END || {said_by}
FROM {actions} WHERE x.action = 'guard_limit'
UNION ALL SELECT 'override ' || x.target, (x.said ->> 'metric') || ' a ' || (x.said ->> 'period') || ' of the '
    || (x.said ->> 'reach') || ' ' || (x.said ->> 'target') || ': ' || COALESCE(x.said ->> 'amount', 'no end')
    || ' until ' || COALESCE(x.said ->> 'ends_ms', 'no end') || {said_by}
FROM {actions} WHERE x.action IN ('override_ask', 'override_make')
UNION ALL SELECT 'word on override ' || x.target, CASE x.action WHEN 'override_refuse' THEN 'refused'
    WHEN 'override_end' THEN 'ended' ELSE 'in force' END || ' at ' || x.at_ms || ' by ' || x.actor || ': ' || x.reason
FROM (SELECT x.*, ROW_NUMBER() OVER (PARTITION BY x.target ORDER BY x.action_id DESC) AS back FROM {actions}
    WHERE x.action IN ('override_make', 'override_approve', 'override_refuse', 'override_end')) x
WHERE x.back = 1
