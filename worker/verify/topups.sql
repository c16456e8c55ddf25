-- Automatic top-ups (invariant 12) against the ledger.
--
-- Guarantee: as in `ledger.sql`. The assignments of a wallet's customer name its organisation.

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: no_window
CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: owner
-- The organisation with the wallet that the top-up `p` fills.
(SELECT MAX(a.org_id) FROM assignments a WHERE a.customer_id = p.customer_id) AS org_id

-- name: uncredited
-- Paid credit is in the wallet once, because the entry's key is the top-up's id.
SELECT 'missing_topup_credit' AS what, {owner}, {no_window}, p.topup, p.credits_micro, p.customer_id, e.amount_micro, e.to_account
FROM topups p LEFT JOIN ledger_entries e ON e.key = p.topup AND e.kind = 'grant'
WHERE p.state = 'credited' AND (e.key IS NULL OR e.amount_micro <> p.credits_micro
    OR e.to_account <> 'wallet:' || p.customer_id)

-- name: unpaid
-- Each entry of a top-up has a top-up that was paid.
SELECT 'unpaid_topup_credit' AS what, (SELECT MAX(a.org_id) FROM assignments a WHERE 'wallet:' || a.customer_id = e.to_account)
    AS org_id, {no_window}, e.key, e.amount_micro, e.to_account, COALESCE(p.state, '') AS state
FROM ledger_entries e LEFT JOIN topups p ON p.topup = e.key
WHERE e.kind = 'grant' AND e.key LIKE 'topup:%' AND (p.topup IS NULL OR p.state <> 'credited' OR p.payment_id IS NULL)

-- name: two_open
-- A wallet has at most one open top-up.
SELECT 'concurrent_topups' AS what, (SELECT MAX(a.org_id) FROM assignments a WHERE a.customer_id = q.customer_id) AS org_id,
    {no_window}, q.customer_id, q.topups
FROM (SELECT customer_id, COUNT(*) AS topups FROM topups WHERE state IN ('due', 'sending', 'in_doubt')
    GROUP BY customer_id) q WHERE q.topups > 1

-- name: named
-- A top-up's id is its wallet and episode, because another id would be another charge.
SELECT 'topup_id' AS what, {owner}, {no_window}, p.topup, p.customer_id, p.episode FROM topups p
WHERE p.topup <> 'topup:' || p.customer_id || ':' || p.episode

-- name: cost
-- The money is the credits times the price at that time, rounded up to a whole minor unit.
SELECT 'topup_cost' AS what, {owner}, {no_window}, p.topup, p.money_minor, p.credits_micro, p.price_minor
FROM topups p
WHERE CAST(p.money_minor AS NUMERIC) * 1000000 < CAST(p.credits_micro AS NUMERIC) * p.price_minor
    OR CAST(p.money_minor - 1 AS NUMERIC) * 1000000 >= CAST(p.credits_micro AS NUMERIC) * p.price_minor

-- name: paid_again
-- A payment credits one top-up of its service.
SELECT 'shared_payment' AS what, {owner}, {no_window}, p.topup, p.payment_id, p.service, o.topup AS other
FROM topups p JOIN topups o ON o.service = p.service AND o.payment_id = p.payment_id AND o.topup < p.topup

-- name: capped
-- For each top-up, count the wallet's top-ups up to it, within a day and within 30 days. The counts must not exceed the
-- limits in its terms. The order is by episode, because clocks differ.
SELECT 'topup_cap' AS what, {owner}, {no_window}, p.topup, p.day, p.max_day, p.month, p.max_month FROM (
    SELECT q.*, {before} AND o.at_ms > q.at_ms - 86400000) AS day, {before} AND o.at_ms > q.at_ms - 2592000000) AS month
    FROM topups q) p
WHERE p.day > p.max_day OR p.month > p.max_month

-- name: before
(SELECT COUNT(*) FROM topups o WHERE o.customer_id = q.customer_id AND o.episode <= q.episode
    AND (o.state = 'shadow') = (q.state = 'shadow')

-- name: paid_otherwise
-- If the evidence or the entry's reason states a paid amount, that amount is the requested amount, and the payment is
-- the top-up's payment.
SELECT 'topup_payment' AS what, {owner}, {no_window}, p.topup, p.money_minor, p.currency, p.payment_id, e.reason AS booked
FROM topups p LEFT JOIN ledger_entries e ON e.key = p.topup AND e.kind = 'grant'
CROSS JOIN (SELECT 'paid as %: % (minor units)' AS says) w
WHERE p.state = 'credited' AND (
    (p.evidence LIKE w.says AND p.evidence <> {said_paid}) OR (e.reason LIKE w.says AND e.reason <> {said_paid}))

-- name: said_paid
'paid as ' || p.payment_id || ': ' || CAST(p.money_minor AS TEXT) || ' ' || p.currency || ' (minor units)'

-- name: calls
-- Each call that may have charged money is on record, and the numbers of calls start at 1. A top-up in shadow does not
-- make calls.
SELECT 'topup_calls' AS what, {owner}, {no_window}, p.topup, p.attempts, COALESCE(q.tries, 0) AS tries
FROM topups p LEFT JOIN (SELECT topup, COUNT(*) AS tries, MIN(attempt) AS lowest, MAX(attempt) AS highest
    FROM topup_attempts GROUP BY topup) q ON q.topup = p.topup
WHERE p.attempts <> COALESCE(q.tries, 0) OR (q.tries > 0 AND (q.lowest <> 1 OR q.highest <> q.tries))
    OR (p.state = 'shadow' AND p.attempts > 0)

-- name: topup_waits
-- An open top-up waits at most a day. A day more allows for clocks.
SELECT 'topup_wait' AS what, {owner}, {no_window}, p.topup, p.state, p.due_at_ms, CAST(:now_ms AS BIGINT) AS moment_ms
FROM topups p WHERE p.state IN ('due', 'sending', 'in_doubt')
    AND p.due_at_ms > CAST(:now_ms AS BIGINT) + 2 * CAST(86400000 AS BIGINT)

-- name: uncalled
-- A top-up without a call is not paid, unless a person has resolved it.
SELECT 'topup_without_call' AS what, {owner}, {no_window}, p.topup, p.state FROM topups p
WHERE p.attempts = 0 AND p.state IN ('credited', 'declined', 'needs_customer', 'sending')
    AND NOT EXISTS (SELECT 1 FROM losses)
    AND NOT EXISTS (SELECT 1 FROM operator_actions x WHERE x.action = 'topup_resolve' AND x.target = p.topup)
