-- Grants of plans: the stays of each customer on plans, and the granted credit.

-- name: behind
-- Return wallets on a plan that were not checked since this month began, or since their plan changed.
SELECT account_id FROM ledger_accounts WHERE {is_behind} ORDER BY account_id

-- name: is_behind
account_id IN :accounts AND plan IS NOT NULL AND (given_to_ms IS NULL OR given_to_ms < :month_ms)

-- name: plans_behind
-- Return all plans that these customers ever had.
SELECT DISTINCT s.plan FROM plan_stays s
WHERE s.customer_id IN (SELECT SUBSTR(account_id, 8) FROM ledger_accounts WHERE {is_behind})

-- name: stays
SELECT customer_id, number, plan, since_ms FROM plan_stays WHERE customer_id IN :customers ORDER BY customer_id, number

-- name: there
SELECT lot FROM plan_lots WHERE customer_id IN :customers AND part <> 'rollover'

-- name: given
{rows :lots (lot text, customer_id text, kind text, amount_micro bigint, priority integer, begins_ms bigint,
    expires_ms bigint, at_ms bigint, actor text, reason text, plan text, part text, period text,
    rollover_min_micro bigint, rollover_max_micro bigint)} r

-- name: give
INSERT INTO ledger_lots (lot, customer_id, kind, amount_micro, priority, begins_ms, expires_ms, at_ms, actor, reason)
SELECT lot, customer_id, kind, amount_micro, priority, begins_ms, expires_ms, at_ms, actor, reason FROM {given}
WHERE 1 = 1 ORDER BY lot ON CONFLICT (lot) DO NOTHING;
INSERT INTO plan_lots (lot, customer_id, part, plan, period, rollover_min_micro, rollover_max_micro)
SELECT lot, customer_id, part, plan, period, rollover_min_micro, rollover_max_micro FROM {given}
WHERE 1 = 1 ORDER BY lot ON CONFLICT (lot) DO NOTHING

-- name: caught_up
UPDATE ledger_accounts SET given_to_ms = :month_ms WHERE account_id IN :accounts

-- The credit that plans grant, and its start.

-- name: gives
t.included_micro, t.rollover_min_micro, t.rollover_max_micro, t.first_micro

-- name: newest
SELECT {gives} FROM plan_terms t WHERE t.plan = :plan ORDER BY t.number DESC LIMIT 1

-- name: of_plans
SELECT t.plan, t.from_ms, {gives} FROM plan_terms t WHERE t.plan IN :plans ORDER BY t.plan, t.number

-- name: add
-- The terms apply from now on. They never start before earlier terms, a month for which wallets were checked, or a stay
-- on the plan. A wrong clock of this machine does not change that.
INSERT INTO plan_terms (plan, number, from_ms, included_micro, rollover_min_micro, rollover_max_micro, first_micro,
    at_ms, actor, reason)
SELECT CAST(:plan AS TEXT), q.number, CASE WHEN q.least_ms > :at_ms THEN q.least_ms ELSE :at_ms END, :included_micro,
    :rollover_min_micro, :rollover_max_micro, :first_micro, :at_ms, CAST(:actor AS TEXT), CAST(:reason AS TEXT)
FROM (SELECT COALESCE(MAX(n.number), 0) + 1 AS number, MAX(n.least_ms) AS least_ms
    FROM (SELECT t.number, t.from_ms AS least_ms FROM plan_terms t WHERE t.plan = :plan
        UNION ALL SELECT 0, MAX(a.given_to_ms) + 1 FROM ledger_accounts a WHERE a.plan = :plan
        UNION ALL SELECT 0, MAX(s.since_ms) + 1 FROM plan_stays s WHERE s.plan = :plan) n) q
RETURNING from_ms
