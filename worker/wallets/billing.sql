-- What hangs on one wallet: its terms, who pays for whom, plans and tiers beside its own, what happened to it lately.

-- name: terms
-- One row, whatever is there of it.
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
-- Each part is bounded by itself. Where a number is unknown it is NULL.
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
-- What was said last of a payer and an organisation.
p.number = (SELECT MAX(q.number) FROM payers q WHERE q.payer = p.payer AND q.org_id = p.org_id)

-- name: spent_micro
CAST(COALESCE((SELECT SUM(CASE WHEN r.state = 'held' AND r.expires_ms > :now_ms AND r.amount_micro > r.drawn_micro
    THEN r.amount_micro ELSE r.drawn_micro END) FROM reservations r
    WHERE r.customer_id = p.payer AND r.org_id = p.org_id AND r.payer_number = p.number), 0) AS BIGINT)

-- name: offers
-- Plans and tiers, and which of the tiers the customer holds, or held.
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
-- Charges are one row a day, and so is what was given back: a wallet is charged every few minutes. A top-up that was
-- paid is told by itself, and not once more by its grant.
SELECT * FROM (SELECT CASE WHEN e.amount_micro < 0 THEN 'given back' ELSE 'charge' END AS part, MAX(e.ts) AS at_ms,
        '' AS kind, '' AS key, CAST(-SUM(e.amount_micro) AS BIGINT) AS micro, COUNT(*) AS entries,
        CAST(NULL AS BIGINT) AS minor, '' AS currency, '' AS state, '' AS said, '' AS actor
    FROM ledger_entries e WHERE e.from_account = :account_id AND e.kind IN ('usage', 'run')
        AND e.ts >= :charged_from_ms GROUP BY e.ts - e.ts % 86400000, 1 ORDER BY 2 DESC LIMIT :at_most) charged
UNION ALL
SELECT * FROM (SELECT 'entry', e.ts, e.kind, e.key, -e.amount_micro, 1, CAST(NULL AS BIGINT), '', '', e.reason, e.actor
    FROM ledger_entries e WHERE e.from_account = :account_id AND e.kind NOT IN ('usage', 'run') AND e.ts >= :from_ms
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
