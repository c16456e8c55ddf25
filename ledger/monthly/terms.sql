-- What plans give, from when on.

-- name: gives
t.included_micro, t.rollover_min_micro, t.rollover_max_micro, t.first_micro

-- name: newest
SELECT {gives} FROM plan_terms t WHERE t.plan = :plan ORDER BY t.number DESC LIMIT 1

-- name: of_plans
SELECT t.plan, t.from_ms, {gives} FROM plan_terms t WHERE t.plan IN :plans ORDER BY t.plan, t.number

-- name: add
-- From now on; never for what began before: a month that wallets on the plan were looked at for, a stay on it, whatever
-- the clock of this machine says.
INSERT INTO plan_terms (plan, number, from_ms, included_micro, rollover_min_micro, rollover_max_micro, first_micro,
    at_ms, actor, reason)
SELECT CAST(:plan AS TEXT), q.number, CASE WHEN q.least_ms > :at_ms THEN q.least_ms ELSE :at_ms END, :included_micro,
    :rollover_min_micro, :rollover_max_micro, :first_micro, :at_ms, CAST(:actor AS TEXT), CAST(:reason AS TEXT)
FROM (SELECT COALESCE(MAX(n.number), 0) + 1 AS number, MAX(n.least_ms) AS least_ms
    FROM (SELECT t.number, t.from_ms AS least_ms FROM plan_terms t WHERE t.plan = :plan
        UNION ALL SELECT 0, MAX(a.given_to_ms) + 1 FROM ledger_accounts a WHERE a.plan = :plan
        UNION ALL SELECT 0, MAX(s.since_ms) + 1 FROM plan_stays s WHERE s.plan = :plan) n) q
RETURNING from_ms
