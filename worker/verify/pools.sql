-- Payers (invariant 10): the credit that pools allot and get back, and the wallets that pay for executions.
--
-- Guarantee: as in `ledger.sql`. An execution names its organisation. An allotment belongs to its customer's
-- organisation.

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: no_window
CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: owner
-- The organisation of a customer `q`.
(SELECT MAX(a.org_id) FROM assignments a WHERE a.customer_id = q.customer_id) AS org_id, {no_window}

-- name: allotted_otherwise
-- Credit of a pool's lot moves only between the pool and the member's wallet, dated at the allotment.
SELECT 'allotment_entry' AS what, {owner}, q.*
FROM (SELECT e.key, e.amount_micro, e.from_account, e.to_account, e.kind, e.ts, l.begins_ms, l.pool, l.customer_id
    FROM ledger_lots l JOIN ledger_entries e ON e.lot = l.lot OR e.key = l.lot WHERE l.pool IS NOT NULL) q
WHERE q.ts <> q.begins_ms
    OR CASE WHEN q.kind = 'grant' THEN q.from_account ELSE q.to_account END <> 'wallet:' || q.pool

-- name: allotted_unrecorded
-- Each allotment has an action and an existing pool, and each such action has an allotment.
SELECT 'allotment_audit_mismatch' AS what, {owner}, q.*
FROM (SELECT COALESCE(l.lot, x.lot) AS lot, l.pool, l.amount_micro, x.target AS said_pool, x.said,
        COALESCE(l.customer_id, x.customer_id) AS customer_id, x.customer_id AS said_customer
    FROM (SELECT * FROM ledger_lots WHERE pool IS NOT NULL) l
    FULL JOIN (SELECT {said_lot} AS lot, o.target, CAST({said_amount} AS BIGINT) AS said, {said_customer} AS customer_id
        FROM operator_actions o WHERE o.action = 'pool_allot') x ON x.lot = l.lot) q
WHERE q.pool IS NULL OR q.said_pool IS NULL OR q.pool <> q.said_pool OR q.amount_micro <> q.said
    OR q.customer_id <> q.said_customer OR NOT EXISTS (SELECT 1 FROM pools p WHERE p.pool = q.pool)

-- name: said_lot [postgresql]
(CAST(o.details AS json) ->> 'lot')

-- name: said_lot [sqlite]
json_extract(o.details, '$.lot')

-- name: said_amount [postgresql]
(CAST(o.details AS json) ->> 'amount_micro')

-- name: said_amount [sqlite]
json_extract(o.details, '$.amount_micro')

-- name: said_customer [postgresql]
(CAST(o.details AS json) ->> 'customer_id')

-- name: said_customer [sqlite]
json_extract(o.details, '$.customer_id')

-- name: returned_otherwise
-- The part of an ended allotment that did not come back was used. This part is at most all use before the allotment's
-- end. It is at least the use during the allotment that other lots cannot have paid. The check does not claim this if
-- late use or an open execution can still change the part.
SELECT 'allotment_return' AS what, {owner}, q.*
FROM (SELECT l.lot, l.customer_id, l.pool, l.amount_micro AS said, b.returned, b.taken,
        l.amount_micro - b.returned - b.taken AS gone,
        (SELECT COALESCE(SUM(u.used), 0) FROM {uses} u WHERE u.account_id = w.account_id AND u.ts < l.expires_ms
            AND u.used > 0) AS most,
        (SELECT COALESCE(SUM(u.used), 0) FROM {uses} u WHERE u.account_id = w.account_id AND u.ts < l.expires_ms
            AND u.ts >= l.begins_ms)
        + (SELECT COALESCE(SUM(u.used), 0) FROM {uses} u WHERE u.account_id = w.account_id AND u.ts < l.begins_ms
            AND u.used < 0)
        - (SELECT COALESCE(SUM(o.amount_micro), 0) FROM ledger_lots o WHERE o.customer_id = l.customer_id
            AND o.lot <> l.lot AND o.begins_ms < l.expires_ms) AS least
    FROM ledger_lots l JOIN ledger_accounts w ON w.account_id = 'wallet:' || l.customer_id
    JOIN (SELECT c.lot, COALESCE(SUM(CASE WHEN e.kind = 'expiry' THEN e.amount_micro END), 0) AS returned,
            COALESCE(SUM(CASE WHEN e.kind = 'grant' THEN -e.amount_micro END), 0) AS taken
        FROM ledger_lots c LEFT JOIN ledger_entries e ON e.lot = c.lot WHERE c.pool IS NOT NULL GROUP BY c.lot) b
        ON b.lot = l.lot
    WHERE l.pool IS NOT NULL AND w.lots_ended_ms >= l.expires_ms AND w.deferred_micro = 0
        AND (w.next_due_ms IS NULL OR w.next_due_ms <> 0)) q
WHERE q.gone > q.most OR q.gone < CASE WHEN q.least < q.said - q.taken THEN q.least ELSE q.said - q.taken END

-- name: uses
(SELECT from_account AS account_id, ts, amount_micro AS used FROM ledger_entries WHERE kind IN ('usage', 'execution', 'tier')
    UNION ALL SELECT to_account, ts, -amount_micro FROM ledger_entries
    WHERE kind = 'grant' AND amount_micro < 0 AND lot IS NULL)

-- name: pool_never_due
-- If a pool does not know when an allotment comes back, its balance would stay too low. An allotment comes back twelve
-- minutes after its end.
SELECT 'pool_due_time' AS what, {owner}, q.*
FROM (SELECT l.lot, l.customer_id, l.pool, l.expires_ms, p.next_due_ms FROM ledger_lots l
    LEFT JOIN ledger_accounts w ON w.account_id = 'wallet:' || l.customer_id
    LEFT JOIN ledger_accounts p ON p.account_id = 'wallet:' || l.pool
    WHERE l.pool IS NOT NULL AND (w.lots_ended_ms IS NULL OR w.lots_ended_ms < l.expires_ms)
        AND (p.next_due_ms IS NULL OR p.next_due_ms > l.expires_ms + 720000)) q

-- name: payer_unallowed
-- An execution is paid from its organisation's own wallet, or from that of a payer who allowed it at that time.
SELECT 'payer_permission' AS what, r.org_id, {no_window}, r.reservation, r.customer_id, r.accepted_ms
FROM reservations r LEFT JOIN payers p
    ON p.payer = r.customer_id AND p.org_id = r.org_id AND p.number = r.payer_number
WHERE CASE WHEN r.payer_number IS NULL
    THEN {is_of_others} OR (r.customer_id <> r.org_id AND NOT EXISTS (SELECT 1 FROM assignments a
        WHERE a.org_id = r.org_id AND a.customer_id = r.customer_id))
    ELSE p.number IS NULL OR NOT p.allowed OR p.since_ms > r.accepted_ms OR EXISTS (SELECT 1 FROM payers n
        WHERE n.payer = p.payer AND n.org_id = p.org_id AND n.number > p.number AND n.since_ms < r.accepted_ms) END

-- name: is_of_others
-- The wallet of an execution was, for at least a day, that of a pool or of another organisation's customer. The day
-- allows for clocks.
(r.hold = 'wallet' AND (EXISTS (SELECT 1 FROM pools x WHERE x.pool = r.customer_id AND x.at_ms < r.accepted_ms - 86400000)
    OR EXISTS (SELECT 1 FROM assignments a WHERE a.customer_id = r.customer_id AND a.org_id <> r.org_id
        AND (a.provider = 'embedded' OR a.provider IN (SELECT s.provider FROM provider_states s
            WHERE s.terms LIKE '%balance_in_ledger__ true%'))
        AND a.at_ms < r.accepted_ms - 86400000 AND a.start_ms <= r.accepted_ms - 86400000
        AND (a.end_ms IS NULL OR r.accepted_ms < a.end_ms))))

-- name: pool_billed
-- A pool only allots credit, and an organisation must not be billed as a pool.
SELECT 'billed_pool' AS what, a.org_id, {no_window}, a.provider, a.customer_id, a.start_ms
FROM assignments a JOIN pools p ON p.pool = a.customer_id
WHERE a.provider = 'embedded' OR a.provider IN (SELECT s.provider FROM provider_states s
    WHERE s.terms LIKE '%balance_in_ledger__ true%')

-- name: payer_limit
-- The reserved amounts and costs of executions under a payer's limit add up to at most that limit.
SELECT 'payer_limit' AS what, p.org_id, {no_window}, p.payer, p.number, p.limit_micro, q.accepted
FROM payers p JOIN (SELECT customer_id, org_id, payer_number,
        SUM(CASE WHEN state = 'held' AND amount_micro > drawn_micro THEN amount_micro ELSE drawn_micro END) AS accepted
    FROM reservations WHERE payer_number IS NOT NULL GROUP BY customer_id, org_id, payer_number) q
    ON q.customer_id = p.payer AND q.org_id = p.org_id AND q.payer_number = p.number
WHERE q.accepted > p.limit_micro
