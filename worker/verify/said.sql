-- Rows about credit, prices, the mapping, suppliers and top-ups, against the recorded actions of people.
--
-- Guarantee: as in `ledger.sql`. Each such row has an action, and each action a row with the same values. If an action
-- of an earlier version did not record a value, the value is not claimed.

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: no_window
CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: actions [postgresql]
-- Actions `x`, with their values.
(SELECT action_id, action, target, at_ms, actor, reason, CAST(details AS json) AS said FROM operator_actions) x

-- name: actions [sqlite]
(SELECT action_id, action, target, at_ms, actor, reason, details AS said FROM operator_actions) x

-- name: lot_unrecorded
-- A lot's terms are those of its grant or allotment. A term that a grant does not state has its default.
SELECT 'credit_audit_mismatch' AS what, (SELECT MAX(a.org_id) FROM assignments a WHERE a.customer_id = q.customer_id) AS org_id,
    {no_window}, q.lot AS thing, q.kept, q.said
FROM (SELECT k.lot, k.customer_id, k.kind || ', priority ' || k.priority || ', ' || k.begins_ms || ' to '
        || COALESCE(CAST(k.expires_ms AS TEXT), 'no end') || ', for ' || COALESCE({kept_features}, 'all') || {kept_by}
        AS kept,
    CASE WHEN x.action = 'pool_allot' THEN 'sponsor, priority 40' ELSE COALESCE(x.said ->> 'kind', 'purchased')
        || ', priority ' || COALESCE(x.said ->> 'priority', '50') END || ', '
        || COALESCE(x.said ->> 'begins_ms', CAST(x.at_ms AS TEXT)) || ' to ' || COALESCE(x.said ->> 'expires_ms', 'no end')
        || ', for ' || COALESCE(x.said ->> 'features', 'all') || {said_by} AS said
    FROM {actions} JOIN ledger_lots k
        ON k.lot = CASE WHEN x.action = 'pool_allot' THEN x.said ->> 'lot' ELSE x.said ->> 'key' END
    WHERE x.action IN ('ledger_grant', 'pool_allot')) q
WHERE q.kept <> q.said

-- name: kept_features [postgresql]
k.features

-- name: kept_features [sqlite]
json(k.features)

-- name: acts
-- The stored terms against the recorded terms. Each stored term equals a recorded term, and the reverse. Earlier
-- versions do not record when terms begin. Most actions are grants, so the other actions are selected once.
WITH did AS MATERIALIZED (SELECT x.* FROM {actions} WHERE x.action IN ('pool_make', 'payer_allow', 'payer_end',
    'ledger_tier', 'ledger_plan', 'ledger_rate', 'provider_rate', 'feature_map', 'feature_end', 'event_value',
    'topup_set', 'topup_mode', 'supplier_set', 'settlement_payout', 'settlement_reverse', 'settlement_freeze',
    'settlement_unfreeze', 'backfill_open', 'backfill_close', 'backfill_revert'))
SELECT q.what, CASE q.what WHEN 'topup_audit_mismatch' THEN (SELECT MAX(a.org_id) FROM assignments a
    WHERE a.customer_id = q.name) ELSE q.org_id END AS org_id, {no_window},
    q.act || ' ' || q.name || CASE WHEN q.part = '' THEN '' ELSE ' of ' || q.part END
    || CASE WHEN q.number = 0 THEN '' ELSE ', number ' || q.number END AS thing,
    q.kept || COALESCE(', from ' || q.kept_ms || ' on', '') AS kept,
    q.said || COALESCE(', from ' || q.said_ms || ' on', '') AS said
FROM (SELECT what, act, name, part, number, MAX(org_id) AS org_id, MAX(kept) AS kept, MAX(kept_ms) AS kept_ms,
        MAX(said) AS said, MAX(said_ms) AS said_ms
    FROM (SELECT what, act, name, part, number, org_id, content AS kept, from_ms AS kept_ms, CAST(NULL AS TEXT) AS said,
            CAST(NULL AS BIGINT) AS said_ms FROM ({kept}) rows_kept
        UNION ALL SELECT what, act, name, part, number, org_id, NULL, NULL, content, from_ms FROM ({said}) rows_said
        ) both_of
    GROUP BY what, act, name, part, number) q
WHERE COALESCE(q.kept, '') <> COALESCE(q.said, '') OR q.kept_ms <> q.said_ms

-- name: kept
SELECT 'credit_audit_mismatch' AS what, 'pool' AS act, k.pool AS name, '' AS part, 0 AS number, {nobody}, 'there' || {kept_by}
    AS content
FROM pools k
UNION ALL SELECT 'credit_audit_mismatch', 'payer', k.payer, k.org_id, k.number, k.org_id, k.since_ms,
    CASE WHEN k.allowed THEN 'up to ' || COALESCE(CAST(k.limit_micro AS TEXT), 'no limit') ELSE 'ended' END || {kept_by}
FROM payers k
UNION ALL SELECT 'credit_audit_mismatch', 'tier', k.tier, '', 0, {nobody}, k.at_once || ' at once for ' || k.price_micro
FROM tiers k
UNION ALL SELECT 'credit_audit_mismatch', 'plan', k.plan, '', 0, {nobody}, k.max_concurrent_sandboxes || ' at once' FROM {plans}
UNION ALL SELECT 'credit_audit_mismatch', 'holds on', k.plan, '', 0, {nobody}, k.hold_factor_ppm || ' ppm, '
    || COALESCE(CAST(k.unknown_hold_micro AS TEXT), 'nothing') || ' without an estimate, at most '
    || COALESCE(CAST(k.most_hold_micro AS TEXT), 'all') || ' of '
    || COALESCE(CAST(k.most_held_micro AS TEXT), 'all') || CASE WHEN k.holds_halt THEN ', halting' ELSE '' END
FROM {plans}
UNION ALL SELECT 'credit_audit_mismatch', 'terms', k.plan, '', k.number, CAST(NULL AS TEXT), k.from_ms, k.included_micro
    || ' a month, of which ' || k.rollover_min_micro || ' to ' || k.rollover_max_micro || ' roll over, '
    || k.first_micro || ' at first' || {kept_by}
FROM plan_terms k
UNION ALL SELECT 'rate_audit_mismatch', 'rate', k.feature || ' from ' || k.start_ms, '', 0, {nobody}, k.micro_credits || ' for '
    || k.per_quantity || {kept_by}
FROM ledger_rates k
UNION ALL SELECT 'rate_audit_mismatch', 'rate', k.feature || ' from ' || k.start_ms, k.provider, 0, {nobody}, k.micro || ' for '
    || k.per_quantity || {kept_by}
FROM provider_rates k
UNION ALL SELECT 'mapping_audit_mismatch', 'mapping', {kept_selector}, '', ROW_NUMBER() OVER (
        PARTITION BY k.kind, k.memory_mb, k.start_ms ORDER BY k.mapping_id), {nobody},
    COALESCE(k.feature, 'an end') || ' in ' || k.unit || {kept_by}
FROM mappings k LEFT JOIN event_types t ON t.meter = k.memory_mb
UNION ALL SELECT 'mapping_audit_mismatch', 'value of events of', k.event_type, '', 0, {nobody}, k.aggregation || ' of '
    || COALESCE(k.path, 'all') || ' times ' || k.scale || {kept_by}
FROM event_values k
UNION ALL SELECT 'topup_audit_mismatch', 'top-ups of', k.customer_id, '', 0, {nobody}, k.threshold_micro
    || ' and ' || COALESCE(CAST(k.amount_micro AS TEXT), 'up to ' || k.fill_to_micro) || ' at ' || k.price_minor || ' '
    || k.currency || ', at most ' || k.most_minor || ', ' || k.max_day || ' a day and ' || k.max_month || ' in 30, of '
    || k.service_customer || ' at ' || k.service
FROM topup_terms k
UNION ALL SELECT 'topup_audit_mismatch', 'mode of top-ups of', k.customer_id, '', 0, {nobody}, k.mode || {kept_by}
FROM topup_terms k
UNION ALL SELECT 'backfill_audit_mismatch', 'backfill', k.backfill, '', 0, k.org_id, k.from_ms, 'to ' || k.to_ms || {kept_by}
FROM backfills k
UNION ALL SELECT 'backfill_audit_mismatch', 'what went in by', k.backfill, '', 0, k.org_id, CAST(NULL AS BIGINT),
    (SELECT COUNT(*) FROM backfill_events f WHERE f.backfill = k.backfill) || ' events at ' || k.closed_ms || ' as '
    || k.diff_hash
FROM backfills k WHERE k.closed_ms IS NOT NULL
UNION ALL SELECT 'backfill_audit_mismatch', 'what was reverted of', k.backfill, '', 0, k.org_id, CAST(NULL AS BIGINT),
    'all at ' || k.reverted_ms
FROM backfills k WHERE k.reverted_ms IS NOT NULL
UNION ALL SELECT 'settlement_audit_mismatch', 'terms', k.supplier, '', k.revision + 1, {nobody}, k.share_ppm || ' ppm, held '
    || k.hold_ms || ', above ' || k.threshold_micro || CASE WHEN k.takes_clawbacks THEN ', clawed back' ELSE '' END
    || {kept_by}
FROM supplier_terms k
UNION ALL SELECT 'settlement_audit_mismatch', 'payout', k.payout, '', 0, {nobody}, k.released_micro || ' released, '
    || k.carried_micro || ' taken off, in ' || (SELECT COUNT(*) FROM payout_lines l WHERE l.payout = k.payout)
    || ' lines' || {kept_by}
FROM payouts k
UNION ALL SELECT 'settlement_audit_mismatch', 'reversal', k.reversal, k.reservation, 0, {nobody}, k.amount_micro || ' taken '
    || CASE WHEN k.is_clawback THEN 'back' ELSE 'off' END || {kept_by}
FROM settlement_reversals k
UNION ALL SELECT 'settlement_audit_mismatch', 'freeze', k.supplier, COALESCE(k.reservation, ''), k.number, {nobody},
    'made' || {kept_by}
FROM (SELECT f.*, from_ms AS at_ms, {freeze_number} AS number FROM settlement_freezes f) k
UNION ALL SELECT 'settlement_audit_mismatch', 'end of a freeze', k.supplier, COALESCE(k.reservation, ''), k.number, {nobody},
    'made' || {kept_by}
FROM (SELECT supplier, reservation, ended_ms AS at_ms, ended_by AS actor, ended_reason AS reason,
    {freeze_number} AS number FROM settlement_freezes WHERE ended_ms IS NOT NULL) k

-- name: nobody
-- The columns of an action that does not belong to one organisation, and counts from its own time on.
CAST(NULL AS TEXT) AS org_id, CAST(NULL AS BIGINT) AS from_ms

-- name: kept_selector
CASE WHEN k.unit = 'units' THEN COALESCE('the event type ' || t.event_type, 'the meter ' || k.memory_mb)
    ELSE REPLACE(k.kind, '_', ' ') || ' ' || COALESCE(k.memory_mb || ' MB', 'any size') END || ' from ' || k.start_ms

-- name: said_selector
COALESCE('the event type ' || (x.said ->> 'event_type'), REPLACE(x.said ->> 'kind', '_', ' ') || ' '
    || COALESCE((x.said ->> 'memory_mb') || ' MB', 'any size')) || ' from ' || (x.said ->> 'start_ms')

-- name: plans
-- Plans with a recorded action.
ledger_plans k WHERE EXISTS (SELECT 1 FROM operator_actions o WHERE o.target = k.plan AND o.action = 'ledger_plan')

-- name: freeze_number
-- Freezes of a settlement or supplier follow one another, so they are numbered.
ROW_NUMBER() OVER (PARTITION BY supplier, reservation ORDER BY freeze_id)

-- name: said
SELECT 'credit_audit_mismatch' AS what, 'pool' AS act, x.target AS name, '' AS part, 0 AS number, {nobody}, 'there' || {said_by}
    AS content
FROM did x WHERE x.action = 'pool_make'
UNION ALL SELECT 'credit_audit_mismatch', 'payer', x.target, x.said ->> 'org_id',
    ROW_NUMBER() OVER (PARTITION BY x.target, x.said ->> 'org_id' ORDER BY x.action_id), x.said ->> 'org_id',
    CAST(x.said ->> 'since_ms' AS BIGINT), CASE WHEN x.action = 'payer_allow'
        THEN 'up to ' || COALESCE(x.said ->> 'limit_micro', 'no limit') ELSE 'ended' END || {said_by}
FROM did x WHERE x.action IN ('payer_allow', 'payer_end')
UNION ALL SELECT 'credit_audit_mismatch', 'tier', x.target, '', 0, {nobody}, (x.said ->> 'at_once') || ' at once for '
    || (x.said ->> 'price_micro')
FROM {newest} WHERE x.action = 'ledger_tier' AND x.back = 1
UNION ALL SELECT 'credit_audit_mismatch', 'plan', x.target, '', 0, {nobody}, (x.said ->> 'max_concurrent') || ' at once'
FROM {newest} WHERE x.action = 'ledger_plan' AND x.back = 1
UNION ALL SELECT 'credit_audit_mismatch', 'holds on', x.target, '', 0, {nobody},
    COALESCE(x.said -> 'holds' ->> 'hold_factor_ppm', '1000000') || ' ppm, '
    || COALESCE(x.said -> 'holds' ->> 'unknown_hold_micro', 'nothing') || ' without an estimate, at most '
    || COALESCE(x.said -> 'holds' ->> 'most_hold_micro', 'all') || ' of '
    || COALESCE(x.said -> 'holds' ->> 'most_held_micro', 'all')
    || CASE WHEN {holds_halt} THEN ', halting' ELSE '' END
FROM {newest} WHERE x.action = 'ledger_plan' AND x.back_of_holds = 1
UNION ALL SELECT 'credit_audit_mismatch', 'terms', x.target, '', ROW_NUMBER() OVER (PARTITION BY x.target ORDER BY x.action_id),
    CAST(NULL AS TEXT), CAST(x.said ->> 'from_ms' AS BIGINT), (x.said -> 'gives' ->> 'included_micro')
    || ' a month, of which ' || (x.said -> 'gives' ->> 'rollover_min_micro') || ' to '
    || (x.said -> 'gives' ->> 'rollover_max_micro') || ' roll over, ' || (x.said -> 'gives' ->> 'first_micro')
    || ' at first' || {said_by}
FROM did x WHERE x.action = 'ledger_plan' AND x.said ->> 'gives' <> x.said ->> 'gave_before'
UNION ALL SELECT 'rate_audit_mismatch', 'rate', COALESCE(x.said ->> 'feature', x.target) || ' from '
    || (x.said ->> 'start_ms'), CASE x.action WHEN 'provider_rate' THEN x.target ELSE '' END, 0, {nobody},
    COALESCE(x.said ->> 'micro', x.said ->> 'micro_credits') || ' for ' || (x.said ->> 'per_quantity') || {said_by}
FROM did x WHERE x.action IN ('ledger_rate', 'provider_rate')
UNION ALL SELECT 'mapping_audit_mismatch', 'mapping', {said_selector}, '', ROW_NUMBER() OVER (
        PARTITION BY {said_selector} ORDER BY x.action_id), {nobody},
    CASE x.action WHEN 'feature_map' THEN x.target ELSE 'an end' END || ' in ' || (x.said ->> 'unit') || {said_by}
FROM did x WHERE x.action IN ('feature_map', 'feature_end')
UNION ALL SELECT 'mapping_audit_mismatch', 'value of events of', x.target, '', 0, {nobody}, (x.said ->> 'aggregation') || ' of '
    || COALESCE(x.said ->> 'path', 'all') || ' times ' || (x.said ->> 'scale') || {said_by}
FROM did x WHERE x.action = 'event_value'
UNION ALL SELECT 'topup_audit_mismatch', 'top-ups of', x.target, '', 0, {nobody},
    (x.said ->> 'threshold_micro') || ' and ' || COALESCE(x.said ->> 'amount_micro', 'up to '
    || (x.said ->> 'fill_to_micro')) || ' at ' || (x.said ->> 'price_minor') || ' ' || (x.said ->> 'currency')
    || ', at most ' || (x.said ->> 'most_minor') || ', ' || (x.said ->> 'max_day') || ' a day and '
    || (x.said ->> 'max_month') || ' in 30, of ' || (x.said ->> 'service_customer') || ' at ' || (x.said ->> 'service')
FROM {newest} WHERE x.action = 'topup_set' AND x.back = 1
UNION ALL SELECT 'topup_audit_mismatch', 'mode of top-ups of', x.target, '', 0, {nobody},
    (x.said ->> 'mode') || {said_by}
FROM (SELECT m.*, ROW_NUMBER() OVER (PARTITION BY m.target ORDER BY m.action_id DESC) AS back FROM did m
    WHERE m.action IN ('topup_set', 'topup_mode')) x WHERE x.back = 1
UNION ALL SELECT 'backfill_audit_mismatch', CASE x.action WHEN 'backfill_open' THEN 'backfill'
        WHEN 'backfill_close' THEN 'what went in by' ELSE 'what was reverted of' END, x.target, '', 0,
    x.said ->> 'org_id', CAST(x.said ->> 'from_ms' AS BIGINT), CASE x.action
        WHEN 'backfill_open' THEN 'to ' || (x.said ->> 'to_ms') || {said_by}
        WHEN 'backfill_close' THEN (x.said ->> 'events') || ' events at ' || x.at_ms || ' as ' || (x.said ->> 'hash')
        ELSE 'all at ' || x.at_ms END
FROM did x WHERE x.action IN ('backfill_open', 'backfill_close', 'backfill_revert')
UNION ALL SELECT 'settlement_audit_mismatch', 'terms', x.target, '',
    ROW_NUMBER() OVER (PARTITION BY x.target ORDER BY x.action_id), {nobody}, (x.said ->> 'share_ppm') || ' ppm, held '
    || (x.said ->> 'hold_ms') || ', above ' || (x.said ->> 'threshold_micro')
    || CASE WHEN (x.said ->> 'takes_clawbacks') || '' IN ('true', '1') THEN ', clawed back' ELSE '' END || {said_by}
FROM did x WHERE x.action = 'supplier_set'
UNION ALL SELECT 'settlement_audit_mismatch', 'payout', x.target, '', 0, {nobody}, (x.said ->> 'released_micro') || ' released, '
    || (x.said ->> 'carried_micro') || ' taken off, in ' || (x.said ->> 'lines') || ' lines' || {said_by}
FROM did x WHERE x.action = 'settlement_payout'
UNION ALL SELECT 'settlement_audit_mismatch', 'reversal', x.said ->> 'key', x.target, 0, {nobody}, (x.said ->> 'amount_micro')
    || ' taken ' || CASE WHEN (x.said ->> 'is_clawback') || '' IN ('true', '1') THEN 'back' ELSE 'off' END || {said_by}
FROM did x WHERE x.action = 'settlement_reverse'
UNION ALL SELECT 'settlement_audit_mismatch', CASE WHEN x.action = 'settlement_freeze' THEN 'freeze' ELSE 'end of a freeze' END,
    x.said ->> 'supplier', COALESCE(x.said ->> 'reservation', ''), ROW_NUMBER() OVER (
        PARTITION BY x.action, x.said ->> 'supplier', x.said ->> 'reservation' ORDER BY x.action_id), {nobody},
    'made' || {said_by}
FROM did x WHERE x.action IN ('settlement_freeze', 'settlement_unfreeze')

-- name: newest
-- Actions numbered by `back` from the newest, for each action and target. `back_of_holds` numbers the actions that
-- state a plan's reserved amounts first.
(SELECT o.*, ROW_NUMBER() OVER (PARTITION BY o.action, o.target ORDER BY o.action_id DESC) AS back,
    ROW_NUMBER() OVER (PARTITION BY o.action, o.target
        ORDER BY CASE WHEN o.said ->> 'holds' IS NULL THEN 1 ELSE 0 END, o.action_id DESC) AS back_of_holds
FROM (SELECT x.* FROM did x WHERE x.action IN ('ledger_tier', 'ledger_plan', 'topup_set')) o) x

-- name: holds_halt
COALESCE((x.said -> 'holds' ->> 'holds_halt') || '', 'true') IN ('true', '1')
