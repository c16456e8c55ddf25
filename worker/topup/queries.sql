-- Automatic top-ups: begin, claim, charge, settle, look up.
--
-- Guarantee: each statement finds top-ups by their key or by an index. `candidates` and `end_shadows` also read all
-- terms. `t` is a wallet's terms, and `p` a top-up. Locks are taken in one order: the switch, terms, top-ups,
-- reservations, wallets.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: skip_terms [postgresql]
FOR UPDATE OF t SKIP LOCKED

-- name: skip_terms [sqlite]

-- name: skip_topups [postgresql]
FOR UPDATE OF p SKIP LOCKED

-- name: skip_topups [sqlite]

-- name: open
('due', 'sending', 'in_doubt')

-- name: available
COALESCE((SELECT {available_micro} FROM ledger_accounts a
    WHERE a.account_id = 'wallet:' || t.customer_id), 0)

-- name: shadowed
-- The credit of shadow top-ups counts as bought. Otherwise, shadow mode would buy the same gap again in each round.
COALESCE((SELECT CAST(SUM(p.credits_micro) AS BIGINT) FROM topups p WHERE p.customer_id = t.customer_id
    AND p.state = 'shadow' AND p.ended_ms IS NULL AND t.mode = 'shadow'), 0)

-- name: is_on
(SELECT COUNT(*) FROM topup_switch s WHERE s.stopped_ms IS NOT NULL) = 0

-- name: share_switch
-- The lock is on the table, because a switch that was never used does not have a row.
LOCK TABLE topup_switch IN ROW SHARE MODE

-- name: hold_switch
LOCK TABLE topup_switch IN EXCLUSIVE MODE

-- name: of_those
-- The condition for all wallets, or for one wallet.
(:only = '' OR t.customer_id = :only)

-- name: is_wanted
t.mode = 'live' AND t.blocked_ms IS NULL AND {available} <= t.threshold_micro AND {is_on}
    AND NOT {is_unused}

-- name: is_current
-- The terms still name the customer, price and currency of the top-up `p`, and allow its charge.
p.service = t.service AND p.service_customer = t.service_customer AND p.price_minor = t.price_minor
    AND p.currency = t.currency AND p.money_minor <= t.most_minor

-- name: wants
SELECT 1 FROM topup_terms t WHERE t.customer_id = :customer_id AND {is_wanted}

-- name: may_begin
-- The query compares the present level with the threshold, whether or not the level fell recently. Each top-up that was
-- begun counts towards the caps, with any outcome.
(t.mode = 'shadow' OR (t.mode = 'live' AND t.service IN :ready)) AND t.blocked_ms IS NULL AND {of_those}
    AND (t.wait_until_ms IS NULL OR t.wait_until_ms <= :now_ms) AND {is_on}
    AND {available} + {shadowed} <= t.threshold_micro
    AND NOT EXISTS (SELECT 1 FROM topups p WHERE p.customer_id = t.customer_id AND p.state IN {open})
    AND {begun} AND p.at_ms > :day_ago_ms) < t.max_day AND {begun} AND p.at_ms > :month_ago_ms) < t.max_month
    AND NOT {is_unused}

-- name: begun
-- The number of a wallet's top-ups. Shadow top-ups are counted separately.
(SELECT COUNT(*) FROM topups p WHERE p.customer_id = t.customer_id AND (p.state = 'shadow') = (t.mode = 'shadow')

-- name: any_terms
SELECT 1 FROM topup_terms LIMIT 1

-- name: candidates
SELECT t.customer_id FROM topup_terms t WHERE {may_begin} ORDER BY t.customer_id LIMIT :at_most {skip_terms}

-- name: with_due
SELECT t.customer_id FROM topup_terms t JOIN ledger_accounts a ON a.account_id = 'wallet:' || t.customer_id
WHERE t.customer_id IN :customers AND a.next_due_ms <= :now_ms

-- name: wanting
SELECT t.*, {available} + {shadowed} AS available_micro,
    (SELECT COALESCE(MAX(p.episode), 0) FROM topups p WHERE p.customer_id = t.customer_id) AS episodes
FROM topup_terms t WHERE t.customer_id IN :customers AND {may_begin} ORDER BY t.customer_id

-- name: begin
INSERT INTO topups (topup, customer_id, episode, credits_micro, money_minor, price_minor, currency, service,
    service_customer, max_day, max_month, at_ms, begun_ms, state, due_at_ms)
SELECT topup, customer_id, episode, credits_micro, money_minor, price_minor, currency, service, service_customer,
    max_day, max_month, at_ms, begun_ms, state, due_at_ms
FROM {rows :begun (topup text, customer_id text, episode integer, credits_micro bigint, money_minor bigint,
    price_minor bigint, currency text, service text, service_customer text, max_day integer, max_month integer,
    at_ms bigint, begun_ms bigint, state text, due_at_ms bigint)} r
WHERE 1 = 1 ON CONFLICT DO NOTHING RETURNING topup

-- name: end_shadows
-- If the wallet got real credit, or the shadow mode ended, the credit of shadow top-ups no longer counts.
UPDATE topups SET ended_ms = :now_ms WHERE state = 'shadow' AND ended_ms IS NULL AND customer_id IN (
    SELECT t.customer_id FROM topup_terms t WHERE t.mode <> 'shadow' OR {available} > t.threshold_micro)

-- name: loss
-- The span of lost history in which a call may have been made.
SELECT MIN(from_ms) AS from_ms, MAX(at_ms) AS at_ms FROM losses

-- name: any_due
SELECT DISTINCT p.service FROM topups p JOIN topup_terms t ON t.customer_id = p.customer_id
WHERE p.state IN {open} AND p.due_at_ms <= :now_ms AND {of_those}

-- name: arrived
-- True if a call of the top-up `p` may have charged the card.
EXISTS (SELECT 1 FROM topup_attempts x WHERE x.topup = p.topup AND {may_have_arrived})

-- name: may_have_arrived
(x.outcome IS NULL OR x.outcome <> 'not_sent')

-- name: unwanted
-- Top-ups that were begun and are no longer wanted. `arrived`: the charge may have been sent, so it must be looked up.
SELECT p.topup, {arrived} AS arrived, COALESCE(p.asked_ms, 0) AS asked_ms,
    (SELECT MAX(x.started_ms) FROM topup_attempts x WHERE x.topup = p.topup AND {may_have_arrived}) AS last_ms
FROM topups p JOIN topup_terms t ON t.customer_id = p.customer_id
WHERE p.service = :service AND p.state IN {open} AND p.state = 'due' AND {of_those}
    AND NOT ({is_wanted} AND {is_current})
ORDER BY p.topup LIMIT :at_most {skip_topups}

-- name: open_of
-- The open top-up of a wallet. The query waits for a claim that is not committed yet, and then reads the top-up's
-- state.
SELECT p.topup, p.state, {arrived} AS arrived FROM topups p
WHERE p.customer_id = :customer_id AND p.state IN {open} {for_update}

-- name: may_be_paid
-- The number of open top-ups, without those that were never sent.
SELECT COUNT(*) FROM topups p WHERE p.state IN {open} AND (p.state <> 'due' OR {arrived})

-- name: give_up
UPDATE topups SET state = 'given_up', ended_ms = :now_ms, evidence = 'the top-up was no longer needed', claim_owner = NULL
WHERE topup = :topup AND state = 'due'

-- name: doubt
UPDATE topups SET state = 'in_doubt', due_at_ms = :due_at_ms, claim_owner = NULL WHERE topup = :topup AND state = 'due'

-- name: is_proven
-- By all records, the charge was never sent, or a lookup has just shown that it does not exist.
((:lost = 0 AND NOT {arrived}) OR COALESCE(p.asked_ms, 0) >= :proven_ms)

-- name: claim
UPDATE topups SET state = 'sending', claim_owner = :claim_owner, due_at_ms = :lease_end_ms,
    attempts = topups.attempts + 1
FROM (
    SELECT p.topup FROM topups p JOIN topup_terms t ON t.customer_id = p.customer_id
    WHERE p.service = :service AND p.state IN {open} AND p.state = 'due' AND p.due_at_ms <= :now_ms
        AND {of_those} AND {is_wanted} AND {is_current} AND {is_proven}
    ORDER BY p.due_at_ms, p.topup LIMIT :at_most {skip_topups}) x
WHERE topups.topup = x.topup

-- name: begin_attempts
INSERT INTO topup_attempts (topup, attempt, started_ms, owner)
SELECT topup, attempts, :now_ms, :claim_owner FROM topups
WHERE service = :service AND state IN {open} AND due_at_ms = :lease_end_ms AND claim_owner = :claim_owner

-- name: claim_lookups
UPDATE topups SET state = 'in_doubt', claim_owner = :claim_owner, due_at_ms = :lease_end_ms,
    lookups = topups.lookups + 1
FROM (
    SELECT p.topup FROM topups p JOIN topup_terms t ON t.customer_id = p.customer_id
    WHERE p.service = :service AND p.state IN {open} AND p.due_at_ms <= :now_ms AND {of_those}
        AND (p.state <> 'due' OR NOT {is_proven})
    ORDER BY p.due_at_ms, p.topup LIMIT :at_most {skip_topups}) x
WHERE topups.topup = x.topup

-- name: claimed
SELECT p.*, c.first_ms, c.last_ms, c.others FROM topups p LEFT JOIN (
    SELECT x.topup, MIN(x.started_ms) AS first_ms, MAX(x.started_ms) AS last_ms,
        SUM(CASE WHEN x.attempt < q.attempts THEN 1 ELSE 0 END) AS others
    FROM topup_attempts x JOIN topups q ON q.topup = x.topup
    WHERE q.service = :service AND q.state IN {open} AND q.claim_owner = :claim_owner AND {may_have_arrived}
    GROUP BY x.topup) c ON c.topup = p.topup
WHERE p.service = :service AND p.state IN {open} AND p.due_at_ms = :lease_end_ms AND p.claim_owner = :claim_owner
ORDER BY p.topup

-- name: hold_terms
SELECT customer_id FROM topup_terms WHERE customer_id IN :customers ORDER BY customer_id {for_update}

-- name: finish_attempt
UPDATE topup_attempts SET finished_ms = :now_ms, outcome = :answer, detail = :said
WHERE topup = :topup AND attempt = :attempt AND outcome IS NULL

-- name: settle
UPDATE topups SET state = :state, due_at_ms = :due_at_ms, answer = :answer, evidence = :said,
    payment_id = :payment_id, ended_ms = CASE WHEN :ended = 1 THEN :now_ms ELSE ended_ms END, claim_owner = NULL,
    asked_ms = COALESCE(CAST(:asked_ms AS BIGINT), asked_ms)
WHERE topup = :topup AND {where} RETURNING topup

-- name: credited_from
-- The other top-up of the same service that this payment credited.
SELECT o.topup FROM topups p JOIN topups o ON o.service = p.service AND o.payment_id = :payment_id
    AND o.topup <> p.topup
WHERE p.topup = :topup

-- name: if_not_credited
-- A paid top-up is credited from any state, except if it is a shadow.
state NOT IN ('credited', 'shadow')

-- name: if_open
state IN {open}

-- name: if_claimed
state IN {open} AND claim_owner = :claim_owner

-- name: rearm
UPDATE topup_terms SET declines = 0, wait_until_ms = NULL, blocked_ms = NULL, blocked_reason = NULL
WHERE customer_id = :customer_id

-- name: note_decline
UPDATE topup_terms SET declines = declines + 1, wait_until_ms = CASE WHEN declines = 0 THEN :first_ms ELSE :then_ms END
WHERE customer_id = :customer_id RETURNING declines

-- name: block
UPDATE topup_terms SET blocked_ms = :now_ms, blocked_reason = :reason
WHERE customer_id = :customer_id AND blocked_ms IS NULL

-- Top-ups that ended, for webhook events.

-- name: ended
-- The ended top-ups, each with an organisation for which the wallet pays now.
SELECT p.topup, p.customer_id, p.credits_micro, p.money_minor, p.currency, p.service, p.state, p.evidence, p.payment_id,
    t.blocked_ms, (SELECT MIN(a.org_id) FROM assignments a WHERE a.customer_id = p.customer_id
        AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)) AS org_id
FROM topups p JOIN topup_terms t ON t.customer_id = p.customer_id
WHERE p.topup IN (SELECT topup FROM {rows :topups (topup text)} r)
    AND p.state IN ('credited', 'declined', 'needs_customer', 'given_up')
