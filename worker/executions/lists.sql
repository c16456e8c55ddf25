-- Lists of executions, an execution with its charges, and the reserved credit.

-- name: seen
-- An execution past its end is shown as expired, even before a transaction expires it.
CASE WHEN state = 'held' AND expires_ms <= :now_ms THEN 'expired' ELSE state END

-- name: columns
reservation, org_id, customer_id, project, subject, action, estimate, amount_micro, drawn_micro, {seen} AS state, overage,
    accepted_ms, expires_ms, ended_ms, ended_by, ended_reason, fingerprint, actor, reason, supplier, settled_by,
    payer_number, hold, {named_sandboxes}

-- name: narrowed
(:org = '' OR org_id = :org) AND (:payer = '' OR customer_id = :payer) AND (:project = '' OR project = :project)
    AND (:subject = '' OR subject = :subject) AND (:action = '' OR action = :action) AND accepted_ms <= :accepted_by_ms

-- name: list
SELECT {columns} FROM reservations WHERE {among} AND {behind} {no_further} AND {narrowed} AND {condition}
ORDER BY {order} LIMIT :at_most

-- name: far
-- The last row of the index that a page may read. If the index has fewer rows, the result is empty.
SELECT {time} AS at_ms, reservation FROM reservations WHERE {among} AND {behind} ORDER BY {order} LIMIT 1 OFFSET :passed

-- name: any
1 = 1

-- name: of_org
-- This uses the index on organisation and time.
org_id = :org

-- name: going_on
-- This uses the index on held reservations, as `over` does.
state = 'held' AND expires_ms > :now_ms

-- name: over
-- The execution is past its end, and a transaction has not expired it yet. The next change of its wallet releases the
-- reserved credit.
state = 'held' AND expires_ms <= :now_ms

-- name: waiting
-- The execution is accepted and not charged yet, such as a queued execution.
state = 'held' AND expires_ms > :now_ms AND drawn_micro = 0

-- name: drawing
state = 'held' AND expires_ms > :now_ms AND drawn_micro > 0

-- name: in_states
{seen} IN :states

-- name: ends
expires_ms

-- name: accepted
accepted_ms

-- name: rising
{time}, reservation

-- name: falling
{time} DESC, reservation DESC

-- name: rising_from
({time}, reservation) > (:at_ms, :key)

-- name: falling_from
({time}, reservation) < (:at_ms, :key)

-- name: rising_to
AND ({time}, reservation) <= (:far_ms, :far_key)

-- name: falling_to
AND ({time}, reservation) >= (:far_ms, :far_key)

-- name: org
SELECT org_id FROM reservations WHERE reservation = :reservation

-- name: one
SELECT {columns} FROM reservations WHERE reservation = :reservation

-- name: entries
-- The charges of an execution. If a wallet does not pay, the rows are its usage, which samples bill.
SELECT key, at_ms, amount_micro, feature, quantity, actor, reason FROM ledger_entries
WHERE reservation = :reservation
UNION ALL SELECT 'run:' || reservation || ':' || number || ':' || feature, at_ms, amount_micro, feature, quantity,
    actor, reason
FROM run_usage WHERE reservation = :reservation
ORDER BY at_ms, key LIMIT :at_most

-- name: figures
-- The number of held reservations that were read by their index, and the figures of the chosen reservations. A
-- reservation past its end does not count as reserved credit, but counts in `over`.
SELECT COUNT(*) AS looked, SUM(CASE WHEN expires_ms > :now_ms THEN is_chosen ELSE 0 END) AS runs,
    SUM(CASE WHEN expires_ms <= :now_ms THEN is_chosen ELSE 0 END) AS over,
    SUM(CASE WHEN expires_ms > :now_ms AND drawn_micro = 0 THEN is_chosen ELSE 0 END) AS waiting,
    CAST(SUM(CASE WHEN expires_ms > :now_ms AND amount_micro > drawn_micro THEN is_chosen * (amount_micro - drawn_micro)
        ELSE 0 END) AS BIGINT) AS held_micro,
    MIN(CASE WHEN is_chosen = 1 AND expires_ms > :now_ms THEN accepted_ms END) AS oldest_ms
FROM (SELECT expires_ms, drawn_micro, amount_micro, accepted_ms,
        CASE WHEN {narrowed} AND {condition} THEN 1 ELSE 0 END AS is_chosen
    FROM reservations WHERE state = 'held' ORDER BY expires_ms LIMIT :at_most) held

-- name: holders
-- The customers with the most reserved credit, among the reservations that end first.
SELECT customer_id, COUNT(*) AS runs, CAST(SUM(amount_micro - drawn_micro) AS BIGINT) AS held_micro,
    MAX(expires_ms) AS until_ms
FROM (SELECT customer_id, amount_micro, drawn_micro, expires_ms FROM reservations WHERE state = 'held'
    AND expires_ms > :now_ms ORDER BY expires_ms LIMIT :at_most) held
WHERE amount_micro > drawn_micro GROUP BY customer_id ORDER BY 3 DESC, 1 LIMIT :named
