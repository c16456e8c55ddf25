-- Credit from plans, credit that rolls over, and tiers (invariant 10).
--
-- Guarantee: as in `ledger.sql`. The organisation is that of the customer. The database itself computes months.

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: owner
-- The organisation of the customer in `q`. A breach here does not have a window or feature.
(SELECT MAX(a.org_id) FROM assignments a WHERE a.customer_id = q.customer_id) AS org_id,
    CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: last_ms
-- The last time at which a plan granted credit.
(SELECT MAX(x.last_ms) FROM (SELECT MAX(given_to_ms) AS last_ms FROM ledger_accounts
    UNION ALL SELECT MAX(l.begins_ms) FROM plan_lots p JOIN ledger_lots l ON l.lot = p.lot) x)

-- name: months [postgresql]
-- The months from the first to the last grant by a plan.
months (name, start_ms, end_ms) AS (
    SELECT TO_CHAR(d, 'YYYY-MM'), CAST(EXTRACT(EPOCH FROM d) * 1000 AS BIGINT),
        CAST(EXTRACT(EPOCH FROM d + INTERVAL '1 month') * 1000 AS BIGINT)
    FROM GENERATE_SERIES(
        DATE_TRUNC('month', TO_TIMESTAMP((SELECT MIN(from_ms) FROM plan_terms) / 1000) AT TIME ZONE 'UTC'),
        TO_TIMESTAMP({last_ms} / 1000) AT TIME ZONE 'UTC', INTERVAL '1 month') d)

-- name: months [sqlite]
dates (d) AS (
    SELECT DATE((SELECT MIN(from_ms) FROM plan_terms) / 1000, 'unixepoch', 'start of month')
    UNION ALL SELECT DATE(d, '+1 month') FROM dates
    WHERE DATE(d, '+1 month') <= (SELECT DATE({last_ms} / 1000, 'unixepoch'))),
months (name, start_ms, end_ms) AS (
    SELECT STRFTIME('%Y-%m', d), CAST(STRFTIME('%s', d) AS INTEGER) * 1000,
        CAST(STRFTIME('%s', d, '+1 month') AS INTEGER) * 1000
    FROM dates)

-- name: next_stay
LEFT JOIN plan_stays n ON n.customer_id = s.customer_id AND n.number = s.number + 1

-- name: begins_ms
-- The time at which a plan's credit for month `m` begins, for a customer who is on the plan during the stay `s`.
CASE WHEN s.since_ms > m.start_ms THEN s.since_ms ELSE m.start_ms END

-- name: period_missing
-- If a customer was on a plan with included credit at a month's start, or joined it during the month, the credit was
-- granted. This is claimed once the wallet was processed for that month.
WITH RECURSIVE {months}
SELECT 'missing_plan_lot' AS what, {owner}, q.*
FROM (SELECT s.customer_id, s.plan, m.name AS period
    FROM plan_stays s {next_stay}
    JOIN ledger_accounts w ON w.account_id = 'wallet:' || s.customer_id
    JOIN months m ON m.start_ms <= w.given_to_ms AND m.end_ms > s.since_ms
    WHERE (n.since_ms IS NULL OR {begins_ms} < n.since_ms)
        AND EXISTS (SELECT 1 FROM plan_terms t WHERE t.plan = s.plan AND t.included_micro > 0
            AND t.from_ms <= {begins_ms} AND NOT EXISTS (SELECT 1 FROM plan_terms u
                WHERE u.plan = t.plan AND u.number > t.number AND u.from_ms <= {begins_ms}))
        AND NOT EXISTS (SELECT 1 FROM plan_lots p WHERE p.customer_id = s.customer_id AND p.plan = s.plan
            AND p.period = m.name AND p.part = 'included')) q

-- name: first_missing
-- If a customer's first plan grants credit to new customers, the customer got that credit.
SELECT 'missing_signup_lot' AS what, {owner}, q.*
FROM (SELECT s.customer_id, s.plan, s.since_ms FROM plan_stays s {next_stay}
    JOIN ledger_accounts w ON w.account_id = 'wallet:' || s.customer_id AND w.given_to_ms IS NOT NULL
    WHERE s.number = 1 AND (n.since_ms IS NULL OR n.since_ms > s.since_ms)
        AND EXISTS (SELECT 1 FROM plan_terms t WHERE t.plan = s.plan AND t.first_micro > 0 AND t.from_ms <= s.since_ms
            AND NOT EXISTS (SELECT 1 FROM plan_terms u
                WHERE u.plan = t.plan AND u.number > t.number AND u.from_ms <= s.since_ms))
        AND NOT EXISTS (SELECT 1 FROM plan_lots p WHERE p.customer_id = s.customer_id AND p.part = 'first')) q

-- name: period_twice
SELECT 'duplicate_plan_lot' AS what, {owner}, q.*
FROM (SELECT customer_id, part, MAX(plan) AS plan, period, COUNT(*) AS lots FROM plan_lots WHERE part <> 'rollover'
    GROUP BY customer_id, part, CASE WHEN part = 'first' THEN '' ELSE plan END, period HAVING COUNT(*) > 1) q

-- name: period_otherwise
-- Each lot of a plan has an amount of the plan's terms, its own key, and a customer who was on the plan.
WITH RECURSIVE {months}
SELECT 'plan_lot_mismatch' AS what, {owner}, q.*
FROM (SELECT p.lot, p.customer_id, p.plan, l.amount_micro, l.begins_ms, l.expires_ms
    FROM plan_lots p LEFT JOIN ledger_lots l ON l.lot = p.lot AND l.customer_id = p.customer_id
    LEFT JOIN months m ON m.name = p.period
    WHERE NOT COALESCE(CASE p.part WHEN 'included' THEN {is_included} WHEN 'first' THEN {is_first} ELSE {is_rolled} END,
        FALSE)) q

-- name: is_included
p.lot = 'included:' || p.customer_id || ':' || p.plan || ':' || p.period AND l.kind = 'included'
    AND l.begins_ms >= m.start_ms AND l.expires_ms = m.end_ms
    AND EXISTS (SELECT 1 FROM plan_stays s {next_stay} WHERE s.customer_id = p.customer_id AND s.plan = p.plan
        AND s.since_ms <= l.begins_ms AND (n.since_ms IS NULL OR n.since_ms >= l.begins_ms)
        AND (l.begins_ms = s.since_ms OR l.begins_ms = m.start_ms))
    AND EXISTS (SELECT 1 FROM plan_terms t WHERE t.plan = p.plan AND t.from_ms <= l.begins_ms
        AND t.included_micro = l.amount_micro AND t.rollover_min_micro = p.rollover_min_micro
        AND t.rollover_max_micro = p.rollover_max_micro)

-- name: is_first
p.lot = 'first:' || p.customer_id AND l.kind = 'bonus' AND l.expires_ms IS NULL
    AND EXISTS (SELECT 1 FROM plan_stays s WHERE s.customer_id = p.customer_id AND s.number = 1 AND s.plan = p.plan
        AND s.since_ms = l.begins_ms)
    AND EXISTS (SELECT 1 FROM plan_terms t WHERE t.plan = p.plan AND t.from_ms <= l.begins_ms
        AND t.first_micro = l.amount_micro)

-- name: is_rolled
-- The credit that rolled over is at most the expired part of the credit included in the month before, and at most the
-- plan's limit.
l.kind = 'included' AND l.begins_ms = m.start_ms AND l.expires_ms = m.end_ms
    AND (p.lot = {rolled_key} OR SUBSTR(p.lot, 1, LENGTH({rolled_key}) + 2) = {rolled_key} || ':r')
    AND l.amount_micro <= p.rollover_max_micro
    AND l.amount_micro <= (SELECT SUM(e.amount_micro) {month_before}
        JOIN ledger_entries e ON e.lot = o.lot AND e.kind = 'expiry' AND e.amount_micro > 0
        WHERE o.customer_id = p.customer_id AND o.part = 'included')
    AND EXISTS (SELECT 1 {month_before} WHERE o.customer_id = p.customer_id AND o.part = 'included'
        AND o.plan = p.plan AND o.rollover_min_micro = p.rollover_min_micro
        AND o.rollover_max_micro = p.rollover_max_micro)

-- name: rolled_key
'rollover:' || p.customer_id || ':' || p.period

-- name: month_before
FROM plan_lots o JOIN ledger_lots b ON b.lot = o.lot AND b.expires_ms = l.begins_ms

-- name: rolled
-- The credit that rolled over equals the expired part of a month's included credit, within the limit of the month's
-- last plan. This is not claimed while changes of the wallet are due. If the credit that rolled over was used before
-- late use arrived, more may have rolled over, up to the plan's limit.
SELECT CASE WHEN q.wanted > q.rolled THEN 'rollover_shortfall' ELSE 'rollover_excess' END AS what, {owner}, q.*
FROM (SELECT y.*, CASE WHEN y.expired > 0 AND y.expired >= y.from_micro
            THEN CASE WHEN y.expired < y.upto_micro THEN y.expired ELSE y.upto_micro END ELSE 0 END AS wanted
    FROM (SELECT x.customer_id, x.period, x.expired, {last_terms_min} AS from_micro, {last_terms_max} AS upto_micro,
            COALESCE(r.rolled, 0) AS rolled, COALESCE(r.allowed, 0) AS allowed
        FROM (SELECT p.customer_id, p.period, l.expires_ms, COALESCE(SUM(e.amount_micro), 0) AS expired
            FROM plan_lots p JOIN ledger_lots l ON l.lot = p.lot
            LEFT JOIN ledger_entries e ON e.lot = p.lot AND e.kind = 'expiry'
            WHERE p.part = 'included' GROUP BY p.customer_id, p.period, l.expires_ms) x
        LEFT JOIN {rolled_lots} r ON r.customer_id = x.customer_id AND r.begins_ms = x.expires_ms) y) q
JOIN ledger_accounts w ON w.account_id = 'wallet:' || q.customer_id
WHERE q.rolled > q.allowed OR (q.wanted > q.rolled AND w.next_due_ms > 0 AND w.deferred_micro = 0)

-- name: rolled_lots
-- The credit that rolled over into each month, minus the part that late use took.
(SELECT z.customer_id, z.begins_ms, SUM(z.amount_micro) AS rolled, MAX(z.allowed) AS allowed
    FROM (SELECT p.customer_id, l.begins_ms, l.amount_micro, p.rollover_max_micro AS allowed
        FROM plan_lots p JOIN ledger_lots l ON l.lot = p.lot WHERE p.part = 'rollover'
        UNION ALL SELECT p.customer_id, l.begins_ms, e.amount_micro, 0
        FROM plan_lots p JOIN ledger_lots l ON l.lot = p.lot
        JOIN ledger_entries e ON e.lot = p.lot AND e.key LIKE 'reduced:%' WHERE p.part = 'rollover') z
    GROUP BY z.customer_id, z.begins_ms)

-- name: last_terms_min
(SELECT o.rollover_min_micro {last_of_month})

-- name: last_terms_max
(SELECT o.rollover_max_micro {last_of_month})

-- name: last_of_month
FROM plan_lots o JOIN ledger_lots b ON b.lot = o.lot WHERE o.customer_id = x.customer_id AND o.period = x.period
    AND o.part = 'included' ORDER BY b.begins_ms DESC, o.lot DESC LIMIT 1

-- name: reduced_otherwise
SELECT 'rollover_reduction' AS what, {owner}, q.*
FROM (SELECT e.key, e.lot, e.amount_micro, SUBSTR(e.to_account, 8) AS customer_id
    FROM ledger_entries e LEFT JOIN plan_lots p ON p.lot = e.lot
    WHERE e.key LIKE 'reduced:%' AND NOT COALESCE(e.kind = 'grant' AND e.amount_micro < 0 AND p.part = 'rollover'
        AND SUBSTR(e.key, 1, LENGTH(e.lot) + 10) = 'reduced:' || e.lot || ':r', FALSE)) q

-- name: plan_unrecorded
-- A wallet is on the last plan that its customer joined.
SELECT 'plan_audit_mismatch' AS what, {owner}, q.*
FROM (SELECT SUBSTR(w.account_id, 8) AS customer_id, w.plan, s.plan AS said FROM ledger_accounts w
    LEFT JOIN plan_stays s ON 'wallet:' || s.customer_id = w.account_id AND NOT EXISTS (SELECT 1 FROM plan_stays n
        WHERE n.customer_id = s.customer_id AND n.number > s.number)
    WHERE COALESCE(w.plan, '') <> COALESCE(s.plan, '')) q

-- name: plan_never_due
-- If a wallet on a plan does not know when the next month begins, it would never get that month's included credit.
SELECT 'plan_due_time' AS what, {owner}, q.*
FROM (SELECT SUBSTR(w.account_id, 8) AS customer_id, w.plan, w.next_due_ms, w.given_to_ms FROM ledger_accounts w
    WHERE w.plan IS NOT NULL AND (w.next_due_ms IS NULL OR w.next_due_ms > {month_after_given})) q

-- name: month_after_given [postgresql]
CAST(EXTRACT(EPOCH FROM (TO_TIMESTAMP(w.given_to_ms / 1000) AT TIME ZONE 'UTC') + INTERVAL '1 month') * 1000 AS BIGINT)

-- name: month_after_given [sqlite]
CAST(STRFTIME('%s', w.given_to_ms / 1000, 'unixepoch', '+1 month') AS INTEGER) * 1000

-- name: tier_entry
-- A charge for a tier is to the customer who bought the tier, for the month of the charge's date.
SELECT 'unknown_tier_charge' AS what, {owner}, q.*
FROM (SELECT e.key, e.from_account, e.amount_micro, SUBSTR(e.from_account, 8) AS customer_id FROM ledger_entries e
    WHERE e.kind = 'tier' AND (e.amount_micro < 0 OR NOT EXISTS (SELECT 1 FROM tier_holders h
        WHERE e.from_account = 'wallet:' || h.customer_id
            AND e.key = 'tier:' || h.customer_id || ':' || h.tier || ':' || {month_of_entry}))) q

-- name: month_of_entry [postgresql]
TO_CHAR(TO_TIMESTAMP(e.ts / 1000) AT TIME ZONE 'UTC', 'YYYY-MM')

-- name: month_of_entry [sqlite]
STRFTIME('%Y-%m', e.ts / 1000, 'unixepoch')

-- name: tier_holder
-- A month of a tier is paid before its use. If the wallet does not know the end of the paid time, the tier would
-- continue unpaid.
SELECT CASE WHEN q.paid = 0 THEN 'missing_tier_charge' ELSE 'tier_due_time' END AS what, {owner}, q.*
FROM (SELECT h.customer_id, h.tier, h.paid_to_ms, w.next_due_ms, (SELECT COUNT(*) FROM ledger_entries e
            WHERE e.key = 'tier:' || h.customer_id || ':' || h.tier || ':' || {month_paid}
                AND e.from_account = 'wallet:' || h.customer_id) AS paid
    FROM tier_holders h LEFT JOIN ledger_accounts w ON w.account_id = 'wallet:' || h.customer_id
    WHERE h.ended_ms IS NULL) q
WHERE q.paid = 0 OR q.next_due_ms IS NULL OR q.next_due_ms > q.paid_to_ms + 720000

-- name: month_paid [postgresql]
TO_CHAR(TO_TIMESTAMP((h.paid_to_ms - 1) / 1000) AT TIME ZONE 'UTC', 'YYYY-MM')

-- name: month_paid [sqlite]
STRFTIME('%Y-%m', (h.paid_to_ms - 1) / 1000, 'unixepoch')
