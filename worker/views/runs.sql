-- Runs, a page at a time.

-- name: seen
-- A run that is over is expired, whether anything has looked at it since or not.
CASE WHEN state = 'held' AND expires_ms <= :now_ms THEN 'expired' ELSE state END

-- name: columns
reservation, org_id, customer_id, project, subject, action, amount_micro, drawn_micro, {seen} AS state, accepted_ms,
    expires_ms, ended_ms, ended_by, hold, settled_by

-- name: narrowed
(:org_id = '' OR org_id = :org_id) AND (:payer = '' OR customer_id = :payer) AND (:project = '' OR project = :project)
    AND accepted_ms <= :accepted_by_ms

-- name: held
-- By the index on what is held: what ends first.
SELECT {columns} FROM reservations WHERE state = 'held' AND {narrowed} AND {of_phase}
    AND (expires_ms, reservation) > (:at_ms, :key) ORDER BY expires_ms, reservation LIMIT :at_most

-- name: of_org
-- By the index on organisation and time.
SELECT {columns} FROM reservations WHERE org_id = :org_id AND (:state = '' OR {seen} = :state) AND {narrowed}
    AND {of_phase} AND (accepted_ms, reservation) < (:at_ms, :key)
ORDER BY accepted_ms DESC, reservation DESC LIMIT :at_most

-- name: latest
-- By the index on time, the newest first.
SELECT {columns} FROM reservations WHERE (:state = '' OR {seen} = :state) AND {narrowed} AND {of_phase}
    AND (accepted_ms, reservation) < (:at_ms, :key) {down_to}
ORDER BY accepted_ms DESC, reservation DESC LIMIT :at_most

-- name: down_to
AND (accepted_ms, reservation) >= (:last_ms, :last_key)

-- name: latest_last
SELECT accepted_ms, reservation, COUNT(*) OVER () AS looked FROM (SELECT accepted_ms, reservation FROM reservations
    WHERE (accepted_ms, reservation) < (:at_ms, :key) ORDER BY accepted_ms DESC, reservation DESC LIMIT :looked_at) looked
ORDER BY accepted_ms, reservation LIMIT 1

-- name: any_phase
1 = 1

-- name: no_phase
1 = 0

-- name: waiting
-- Queued: accepted, and nothing drawn yet.
state = 'held' AND expires_ms > :now_ms AND drawn_micro = 0

-- name: drawing
state = 'held' AND expires_ms > :now_ms AND drawn_micro > 0

-- name: over
-- Expired, and nothing has looked at it since: the next look at its wallet frees what it held.
state = 'held' AND expires_ms <= :now_ms

-- name: figures
-- Of what is held, by its index alone: how many were looked through; and of those that are chosen.
SELECT COUNT(*) AS looked, SUM(is_chosen) AS runs, SUM(CASE WHEN expires_ms <= :now_ms THEN is_chosen ELSE 0 END) AS over,
    SUM(CASE WHEN expires_ms > :now_ms AND drawn_micro = 0 THEN is_chosen ELSE 0 END) AS waiting,
    CAST(SUM(CASE WHEN expires_ms > :now_ms AND amount_micro > drawn_micro THEN is_chosen * (amount_micro - drawn_micro)
        ELSE 0 END) AS BIGINT) AS held_micro,
    MIN(CASE WHEN is_chosen = 1 THEN accepted_ms END) AS oldest_ms
FROM (SELECT expires_ms, drawn_micro, amount_micro, accepted_ms,
        CASE WHEN {narrowed} AND {of_phase} THEN 1 ELSE 0 END AS is_chosen
    FROM reservations WHERE state = 'held' ORDER BY expires_ms LIMIT :at_most) held

-- name: holders
-- Who holds most of what ends last.
SELECT customer_id, COUNT(*) AS runs, CAST(SUM(amount_micro - drawn_micro) AS BIGINT) AS held_micro,
    MAX(expires_ms) AS until_ms
FROM (SELECT customer_id, amount_micro, drawn_micro, expires_ms FROM reservations WHERE state = 'held'
    AND expires_ms > :now_ms ORDER BY expires_ms LIMIT :at_most) held
WHERE amount_micro > drawn_micro GROUP BY customer_id ORDER BY 3 DESC, 1 LIMIT :named
