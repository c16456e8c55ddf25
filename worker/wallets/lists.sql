-- Wallets, a page at a time.

-- name: page
-- Wallets, the lowest balance first. `behind`: the condition for the start of the page. `which`: the condition for
-- wallets with a negative balance (`is_owed`), for low wallets, or for all.
SELECT w.customer_id, w.balance_micro, w.held_micro, w.available_micro, w."plan", w.mode, w.threshold_micro,
    w.blocked_reason
FROM (
    SELECT SUBSTR(a.account_id, 8) AS customer_id, a.account_id, a.balance_micro, a.held_micro,
        {available_micro} AS available_micro, a."plan", t.mode, t.threshold_micro, t.blocked_reason
    FROM ledger_accounts a LEFT JOIN topup_terms t ON t.customer_id = SUBSTR(a.account_id, 8)
) w
WHERE {behind} AND {which} AND (:plan = '' OR w."plan" = :plan)
    AND (:search = '' OR w.customer_id LIKE :like ESCAPE '!')
ORDER BY w.balance_micro, w.account_id LIMIT :at_most

-- name: from_the_start
1 = 1

-- name: from_there
(w.balance_micro, w.account_id) > (:after_micro, :after_account)

-- name: is_any
1 = 1

-- name: is_owed
w.balance_micro < 0

-- name: is_low
-- A wallet is low if its available credit is at or below its top-up threshold or its low level. Without its own low
-- level, the default level applies. A negative balance is `owed` instead. If a wallet's whole balance is available and
-- above the highest level, the wallet is not low. This condition excludes nearly all wallets without a read of their
-- low level.
w.balance_micro >= 0 AND (w.balance_micro <= {highest_level} OR w.available_micro < w.balance_micro) AND w.available_micro <= CASE WHEN w.threshold_micro IS NULL THEN {level} WHEN {level} > w.threshold_micro THEN {level}
    ELSE w.threshold_micro END

-- name: highest_level
(SELECT MAX(h.micro) FROM (SELECT MAX(low_micro) AS micro FROM balance_levels
    UNION ALL SELECT MAX(threshold_micro) FROM topup_terms UNION ALL SELECT 0) h)

-- name: level
COALESCE((SELECT l.low_micro FROM balance_levels l WHERE l.org_id IN (w.customer_id, '')
    ORDER BY l.org_id DESC LIMIT 1), 0)

-- name: spenders_now
-- The use of each wallet in a span, less refunds, with its balance. This reads all entries of the span.
SELECT s.customer_id, s.used_micro, a.balance_micro, a."plan"
FROM (
    SELECT e.from_account, SUBSTR(e.from_account, 8) AS customer_id, CAST(SUM(e.amount_micro) AS BIGINT) AS used_micro
    FROM ledger_entries e
    WHERE e.kind IN ('usage', 'execution') AND e.ts >= :from_ms AND e.ts < :to_ms
    GROUP BY e.from_account HAVING SUM(e.amount_micro) > 0 ORDER BY 3 DESC, 2 LIMIT :at_most
) s LEFT JOIN ledger_accounts a ON a.account_id = s.from_account ORDER BY s.used_micro DESC, s.customer_id

-- name: spenders_kept
-- Only the rows of the last check count, because rows of earlier checks can remain.
SELECT k.place, k.customer_id, k.used_micro, k.from_ms, k.at_ms, a.balance_micro, a."plan"
FROM high_spenders k LEFT JOIN ledger_accounts a ON a.account_id = 'wallet:' || k.customer_id
WHERE k.at_ms = (SELECT f.at_ms FROM high_spenders f WHERE f.place = 1) ORDER BY k.place LIMIT :at_most

-- The relations of one wallet: its terms, payers and payees, all plans and tiers, and its latest events.

-- name: terms
-- Always return one row.
SELECT t.mode, t.threshold_micro, t.amount_micro, t.fill_to_micro, t.price_minor, t.currency, t.service,
    t.service_customer, t.most_minor, t.max_day, t.max_month, t.declines, t.wait_until_ms, t.blocked_ms,
    t.blocked_reason, s.stopped_ms, s.actor AS stopped_by, s.reason AS stopped_reason,
    (SELECT l.low_micro FROM balance_levels l WHERE l.org_id IN (:org_id, '') ORDER BY l.org_id DESC LIMIT 1)
        AS low_micro,
    o.org_id, o.billing_provider, o.is_halted, o.halt_reason, o.resume_above_micro, o.balance_micro AS read_micro,
    o.balance_read_ms, (SELECT p.pool FROM pools p WHERE p.pool = :customer_id) AS pool
FROM (SELECT 1 AS one) x LEFT JOIN topup_terms t ON t.customer_id = :customer_id
LEFT JOIN topup_switch s ON s.stopped_ms IS NOT NULL LEFT JOIN orgs o ON o.org_id = :org_id

-- name: related
-- Each part has its own bound. An unknown number is NULL.
SELECT * FROM (SELECT 'biller' AS part, a.provider AS who, a.customer_id AS other, CAST(NULL AS BIGINT) AS limit_micro,
        CAST(NULL AS BIGINT) AS spent_micro, a.start_ms AS since_ms, a.reason AS said
    FROM assignments a WHERE a.org_id = :org_id AND a.start_ms <= :now_ms
        AND (a.end_ms IS NULL OR :now_ms < a.end_ms)) biller
UNION ALL
SELECT * FROM (SELECT 'shares', a.org_id, a.provider, CAST(NULL AS BIGINT), CAST(NULL AS BIGINT), a.start_ms, a.reason
    FROM assignments a WHERE a.provider IN (SELECT p.provider FROM provider_states p UNION ALL SELECT 'embedded')
        AND a.customer_id = :customer_id AND a.org_id <> :org_id AND a.start_ms <= :now_ms
        AND (a.end_ms IS NULL OR :now_ms < a.end_ms) ORDER BY a.org_id LIMIT :at_most) shares
UNION ALL
SELECT * FROM (SELECT 'pays_for_it', p.payer, '', p.limit_micro, {spent_micro}, p.since_ms, p.reason
    FROM payers p WHERE p.org_id = :org_id AND p.allowed AND {counts} ORDER BY p.payer LIMIT :at_most) upstream
UNION ALL
SELECT * FROM (SELECT 'it_pays_for', p.org_id, '', p.limit_micro, {spent_micro}, p.since_ms, p.reason
    FROM payers p WHERE p.payer = :customer_id AND p.allowed AND {counts} ORDER BY p.org_id LIMIT :at_most) downstream
UNION ALL
SELECT * FROM (SELECT 'pool', l.pool, '', CAST(SUM(l.amount_micro) AS BIGINT), CAST(NULL AS BIGINT), MIN(l.begins_ms),
        MAX(l.reason)
    FROM ledger_lots l WHERE l.customer_id = :customer_id AND l.pool IS NOT NULL AND l.expires_ms > :now_ms
    GROUP BY l.pool ORDER BY l.pool LIMIT :at_most) pool
UNION ALL
SELECT * FROM (SELECT 'sponsor', l.actor, l.lot, l.amount_micro, CAST(NULL AS BIGINT), l.begins_ms, l.reason
    FROM ledger_lots l WHERE l.customer_id = :customer_id AND l.pool IS NULL AND l.kind = 'sponsor'
        AND (l.expires_ms IS NULL OR l.expires_ms > :now_ms) ORDER BY l.begins_ms DESC, l.lot LIMIT :at_most) sponsor
UNION ALL
SELECT * FROM (SELECT 'member', l.customer_id, '', CAST(SUM(l.amount_micro) AS BIGINT), CAST(NULL AS BIGINT),
        MIN(l.begins_ms), MAX(l.reason)
    FROM ledger_lots l WHERE l.pool = :customer_id AND l.expires_ms > :now_ms
    GROUP BY l.customer_id ORDER BY l.customer_id LIMIT :at_most) member
UNION ALL
SELECT * FROM (SELECT DISTINCT 'supplier', r.supplier, '', CAST(NULL AS BIGINT), CAST(NULL AS BIGINT),
        CAST(NULL AS BIGINT), '' FROM (SELECT q.supplier FROM reservations q WHERE q.customer_id = :customer_id
        AND q.supplier IS NOT NULL LIMIT :looked_at) r) supplier

-- name: counts
-- The last row about a payer and an organisation.
p.number = (SELECT MAX(q.number) FROM payers q WHERE q.payer = p.payer AND q.org_id = p.org_id)

-- name: spent_micro
CAST(COALESCE((SELECT SUM(CASE WHEN r.state = 'held' AND r.expires_ms > :now_ms AND r.amount_micro > r.drawn_micro
    THEN r.amount_micro ELSE r.drawn_micro END) FROM reservations r
    WHERE r.customer_id = p.payer AND r.org_id = p.org_id AND r.payer_number = p.number), 0) AS BIGINT)

-- name: offers
-- Plans and tiers, with the tiers that the customer holds, or held before.
SELECT * FROM (SELECT 'plan' AS part, p."plan" AS name, p.max_concurrent_sandboxes AS at_once,
        CAST(NULL AS BIGINT) AS price_micro, COALESCE(t.included_micro, 0) AS included_micro,
        COALESCE(t.rollover_max_micro, 0) AS rollover_max_micro, COALESCE(t.first_micro, 0) AS first_micro,
        p.hold_factor_ppm, p.most_hold_micro, CAST(NULL AS BIGINT) AS paid_to_ms, p.holds_halt AS goes_on,
        CAST(NULL AS BIGINT) AS ended_ms, '' AS ended_reason
    FROM ledger_plans p LEFT JOIN plan_terms t ON t."plan" = p."plan"
        AND t.number = (SELECT MAX(n.number) FROM plan_terms n WHERE n."plan" = p."plan")
    ORDER BY p.max_concurrent_sandboxes, p."plan" LIMIT :at_most) plans
UNION ALL
SELECT * FROM (SELECT 'tier', t.tier, t.at_once, t.price_micro, CAST(NULL AS BIGINT), CAST(NULL AS BIGINT),
        CAST(NULL AS BIGINT), CAST(NULL AS BIGINT), CAST(NULL AS BIGINT), h.paid_to_ms, h.renews, h.ended_ms,
        h.ended_reason
    FROM tiers t LEFT JOIN tier_holders h ON h.tier = t.tier AND h.customer_id = :customer_id
    ORDER BY t.at_once, t.tier LIMIT :at_most) sold

-- name: happened
-- Charges are one row a day, because a wallet is charged every few minutes. Refunds are one row a day, too. A paid
-- top-up is shown as a top-up, and its grant is omitted.
SELECT * FROM (SELECT CASE WHEN e.amount_micro < 0 THEN 'given back' ELSE 'charge' END AS part, MAX(e.ts) AS at_ms,
        '' AS kind, '' AS key, CAST(-SUM(e.amount_micro) AS BIGINT) AS micro, COUNT(*) AS entries,
        CAST(NULL AS BIGINT) AS minor, '' AS currency, '' AS state, '' AS said, '' AS actor
    FROM ledger_entries e WHERE e.from_account = :account_id AND e.kind IN ('usage', 'execution')
        AND e.ts >= :charged_from_ms GROUP BY e.ts - e.ts % 86400000, 1 ORDER BY 2 DESC LIMIT :at_most) charged
UNION ALL
SELECT * FROM (SELECT 'entry', e.ts, e.kind, e.key, -e.amount_micro, 1, CAST(NULL AS BIGINT), '', '', e.reason, e.actor
    FROM ledger_entries e WHERE e.from_account = :account_id AND e.kind NOT IN ('usage', 'execution') AND e.ts >= :from_ms
    ORDER BY e.ts DESC, e.key LIMIT :at_most) taken
UNION ALL
SELECT * FROM (SELECT 'entry', e.ts, e.kind, e.key, e.amount_micro, 1, CAST(NULL AS BIGINT), '', '', e.reason, e.actor
    FROM ledger_entries e WHERE e.to_account = :account_id AND e.kind = 'grant' AND e.ts >= :from_ms
        AND e.key NOT IN (SELECT u.topup FROM topups u WHERE u.customer_id = :customer_id)
    ORDER BY e.ts DESC, e.key LIMIT :at_most) given
UNION ALL
SELECT * FROM (SELECT 'entry', e.ts, e.kind, e.key, e.amount_micro, 1, CAST(NULL AS BIGINT), '', '', e.reason, e.actor
    FROM ledger_entries e WHERE e.to_account = :account_id AND e.kind = 'expiry' AND e.to_account <> 'breakage'
        AND e.ts >= :from_ms ORDER BY e.ts DESC, e.key LIMIT :at_most) returned
UNION ALL
SELECT * FROM (SELECT 'topup', u.at_ms, 'top-up', u.topup, u.credits_micro, u.attempts, u.money_minor, u.currency,
        u.state, COALESCE(u.evidence, u.answer, ''), u.service
    FROM topups u WHERE u.customer_id = :customer_id ORDER BY u.at_ms DESC, u.topup LIMIT :topups) filled
UNION ALL
SELECT * FROM (SELECT 'plan', y.since_ms, 'plan', y."plan", CAST(NULL AS BIGINT), 1, CAST(NULL AS BIGINT), '', '',
        y.reason, y.actor
    FROM plan_stays y WHERE y.customer_id = :customer_id AND y.since_ms >= :from_ms
    ORDER BY y.number DESC LIMIT :at_most) stays
UNION ALL
SELECT * FROM (SELECT 'tier', h.ended_ms, 'tier', h.tier, CAST(NULL AS BIGINT), 1, CAST(NULL AS BIGINT), '', 'ended',
        COALESCE(h.ended_reason, ''), h.actor
    FROM tier_holders h WHERE h.customer_id = :customer_id AND h.ended_ms >= :from_ms
    ORDER BY h.ended_ms DESC LIMIT :at_most) ended

-- The figures of executions and settlements for the Prometheus metrics.

-- name: held
SELECT COUNT(*) FROM reservations WHERE state = 'held'

-- name: overdue
-- Executions past their end that the sweep has not expired yet. A decision about a wallet's balance first expires the
-- wallet's executions.
SELECT COUNT(*) AS runs, MIN(expires_ms) AS since_ms FROM reservations WHERE state = 'held' AND expires_ms <= :now_ms

-- name: expired
SELECT COUNT(*) FROM reservations WHERE state = 'expired' AND ended_ms > :since_ms

-- name: waiting
-- The waiting amount is the sum of all net amounts, less the amounts reversed before their release, less the released
-- amounts.
SELECT CAST(COALESCE((SELECT SUM(net_micro) FROM settlements), 0)
    - COALESCE((SELECT SUM(amount_micro) FROM settlement_reversals WHERE NOT is_clawback), 0)
    - COALESCE((SELECT SUM(released_micro) FROM payouts), 0) AS BIGINT)

-- name: freezes
SELECT COUNT(*) AS freezes, MIN(from_ms) AS since_ms FROM settlement_freezes WHERE ended_ms IS NULL
