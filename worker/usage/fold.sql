-- Settled pushes of the embedded ledger, folded into sums of a UTC day.

-- name: day
p.window_ms - p.window_ms % 86400000

-- name: going
-- Whole days below the floor. An organisation with a push here that is open keeps all of its.
p.provider = 'embedded' AND p.window_ms >= :from_ms AND p.window_ms < :to_ms AND p.state NOT IN {open_states}
    AND EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = p.org_id AND o.floor_ms >= {day} + 86400000)
    AND p.org_id NOT IN (SELECT q.org_id FROM pushes q WHERE q.state IN {open_states} AND q.provider = 'embedded'
        AND q.window_ms < :before_ms)

-- name: first_push
SELECT MIN(p.window_ms) FROM pushes p WHERE p.window_ms < :before_ms

-- name: count_going
SELECT COUNT(*) AS pushes, COALESCE(SUM(p.attempts), 0) AS attempts FROM pushes p WHERE {going}

-- name: count_kept
-- Pushes of before that stay, and whose.
SELECT COUNT(*) AS pushes, COUNT(DISTINCT p.org_id) AS orgs FROM pushes p
WHERE p.provider = 'embedded' AND p.window_ms < :before_ms

-- name: into_sums
INSERT INTO folded_pushes (day_ms, org_id, provider, customer_id, feature, state, pushes, attempts, sealed_qty, sent_qty,
    folded_ms)
SELECT {day}, p.org_id, p.provider, p.customer_id, p.feature, p.state, COUNT(*), SUM(p.attempts),
    CAST(SUM(p.sealed_qty) AS BIGINT), CAST(SUM(p.sent_qty) AS BIGINT), :now_ms

-- name: and_add
GROUP BY 1, 2, 3, 4, 5, 6
ON CONFLICT (day_ms, org_id, provider, customer_id, feature, state) DO UPDATE SET
    pushes = folded_pushes.pushes + excluded.pushes, attempts = folded_pushes.attempts + excluded.attempts,
    sealed_qty = folded_pushes.sealed_qty + excluded.sealed_qty, sent_qty = folded_pushes.sent_qty + excluded.sent_qty,
    folded_ms = excluded.folded_ms

-- name: fold [postgresql]
-- One statement: what it takes away is what it adds up, whoever writes beside it.
WITH gone AS (DELETE FROM pushes p WHERE {going} RETURNING p.*),
tries AS (DELETE FROM attempts x USING gone p WHERE {is_of_push}),
kept AS ({into_sums} FROM gone p {and_add})
SELECT COUNT(*) FROM gone

-- name: fold [sqlite]
-- It has one writer at a time. Pushes go last, for the others are found by them.
{into_sums} FROM pushes p WHERE {going} {and_add};
DELETE FROM attempts AS x WHERE x.window_ms >= :from_ms AND x.window_ms < :to_ms
    AND EXISTS (SELECT 1 FROM pushes p WHERE {is_of_push} AND {going});
DELETE FROM pushes AS p WHERE {going};
SELECT changes()
