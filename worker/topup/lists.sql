-- Lists and figures of automatic top-ups.

-- name: terms
SELECT t.*, COALESCE({available_micro}, 0) AS available_micro
FROM topup_terms t LEFT JOIN ledger_accounts a ON a.account_id = 'wallet:' || t.customer_id

-- name: wallets
{terms} WHERE (:wallet = '' OR t.customer_id = :wallet) ORDER BY (t.blocked_ms IS NULL), t.customer_id LIMIT :at_most

-- name: topups
SELECT topup, customer_id, credits_micro, money_minor, currency, service, state, attempts, lookups, at_ms, due_at_ms,
    ended_ms, answer, evidence, payment_id
FROM topups WHERE state IN :states AND (:wallet = '' OR customer_id = :wallet)
ORDER BY at_ms DESC, topup DESC LIMIT :at_most

-- name: topup
SELECT topup, customer_id, credits_micro, money_minor, currency, service, state, attempts, lookups, at_ms, due_at_ms,
    ended_ms, answer, evidence, payment_id
FROM topups WHERE topup = :topup

-- name: attempts
SELECT attempt, started_ms, finished_ms, outcome, detail FROM topup_attempts WHERE topup = :topup
ORDER BY attempt DESC LIMIT :at_most

-- name: switched
SELECT stopped_ms, actor, reason FROM topup_switch WHERE stopped_ms IS NOT NULL

-- name: open
SELECT state, COUNT(*) AS topups, MIN(at_ms) AS oldest_ms FROM topups WHERE state IN ('due', 'sending', 'in_doubt')
GROUP BY state

-- name: ended
SELECT state, COUNT(*) AS topups FROM topups WHERE ended_ms > :since_ms AND state <> 'shadow' GROUP BY state

-- name: blocked
SELECT COUNT(*) FROM topup_terms WHERE blocked_ms IS NOT NULL AND mode = 'live'

-- name: paused_debts
-- The query reads the debts first, because they are few.
WITH t AS MATERIALIZED (SELECT x.customer_id, -a.balance_micro AS owed_micro
    FROM topup_terms x {each_then} ledger_accounts a ON a.account_id = 'wallet:' || x.customer_id
    WHERE x.mode = 'live' AND a.balance_micro < 0)
SELECT t.customer_id, t.owed_micro FROM t WHERE {is_unused} ORDER BY t.owed_micro DESC, t.customer_id LIMIT :at_most

-- name: manual_review
SELECT COUNT(*) FROM topups WHERE state IN ('due', 'sending', 'in_doubt') AND state = 'in_doubt'
    AND answer = 'other_content'
