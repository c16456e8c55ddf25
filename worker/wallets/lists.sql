-- Wallets, a page at a time.

-- name: page
-- The lowest first. `behind`: the page before, or nothing; `which`: those that are owed or low, or any.
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
-- At or below what it is topped up from, or the level at which balances are low: its own, or everybody's. What is owed
-- is more than low, and is told by itself. None is low that has more than the highest of these levels, all of it
-- available: nearly all are passed over by that, and need not have their level looked up.
w.balance_micro >= 0 AND (w.balance_micro <= {highest_level} OR w.available_micro < w.balance_micro) AND w.available_micro <= CASE WHEN w.threshold_micro IS NULL THEN {level} WHEN {level} > w.threshold_micro THEN {level}
    ELSE w.threshold_micro END

-- name: highest_level
(SELECT MAX(h.micro) FROM (SELECT MAX(low_micro) AS micro FROM balance_levels
    UNION ALL SELECT MAX(threshold_micro) FROM topup_terms UNION ALL SELECT 0) h)

-- name: level
COALESCE((SELECT l.low_micro FROM balance_levels l WHERE l.org_id IN (w.customer_id, '')
    ORDER BY l.org_id DESC LIMIT 1), 0)

-- name: spenders_now
-- What was used of each wallet in a time, less what was given back: all entries of it are read; and what is left of it.
SELECT s.customer_id, s.used_micro, a.balance_micro, a."plan"
FROM (
    SELECT e.from_account, SUBSTR(e.from_account, 8) AS customer_id, CAST(SUM(e.amount_micro) AS BIGINT) AS used_micro
    FROM ledger_entries e
    WHERE e.kind IN ('usage', 'run') AND e.ts >= :from_ms AND e.ts < :to_ms
    GROUP BY e.from_account HAVING SUM(e.amount_micro) > 0 ORDER BY 3 DESC, 2 LIMIT :at_most
) s LEFT JOIN ledger_accounts a ON a.account_id = s.from_account ORDER BY s.used_micro DESC, s.customer_id

-- name: spenders_kept
-- Of the last look alone: what it did not find any more stays behind it.
SELECT k.place, k.customer_id, k.used_micro, k.from_ms, k.at_ms, a.balance_micro, a."plan"
FROM high_spenders k LEFT JOIN ledger_accounts a ON a.account_id = 'wallet:' || k.customer_id
WHERE k.at_ms = (SELECT f.at_ms FROM high_spenders f WHERE f.place = 1) ORDER BY k.place LIMIT :at_most
