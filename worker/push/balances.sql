-- The figures that a customer's balance is compared with, and the differences that were told.

-- name: accounted
-- A push is of the balance's present cycle if it was settled in it. What was sent just before the cycle began, or was
-- billed by hand, may be drawn from it or not. What may have arrived is open until it is settled. Of what was to be given
-- back, was sent, and voided by a person, a part may have been: Autumn gives back no more than was drawn, and not each
-- time with an event. A charge saw one of the costs from `first` to `last`: it was made between two moments, and so was
-- each change of a cost. `fresh` is what counts in the cycle since the last comparison.
{with_changes}
SELECT p.customer_id, p.pool, p.feature, p.org_id, p.first, p.last, p.credit_cost, SUM(p.attempts) AS attempts,
    SUM(CASE WHEN p.open = 1 THEN 1 ELSE 0 END) AS open,
    CAST(SUM(CASE WHEN p.open = 1 AND p.sent_qty > 0 THEN p.sent_qty ELSE 0 END) AS BIGINT) AS open_above,
    CAST(SUM(CASE WHEN p.open = 1 AND p.sent_qty < 0 THEN p.sent_qty ELSE 0 END) AS BIGINT) AS open_below,
    CAST(SUM(p.accepted) AS BIGINT) AS accepted,
    CAST(SUM(CASE WHEN p.at_ms >= p.since_ms THEN p.accepted ELSE 0 END) AS BIGINT) AS ours,
    CAST(SUM(CASE WHEN p.sure = 1 THEN p.accepted WHEN p.at_ms >= p.since_ms - :apart_ms AND p.accepted < 0
        THEN p.accepted ELSE 0 END + CASE WHEN p.at_ms >= p.since_ms - :apart_ms THEN p.cut ELSE 0 END) AS BIGINT) AS least,
    CAST(SUM(CASE WHEN p.sure = 1 THEN p.accepted WHEN p.at_ms >= p.since_ms - :apart_ms AND p.accepted > 0
        THEN p.accepted ELSE 0 END) AS BIGINT) AS most,
    CAST(SUM(CASE WHEN p.since_mark = 1 AND p.accepted > 0 THEN p.accepted ELSE 0 END) AS BIGINT) AS hand_above,
    CAST(SUM(CASE WHEN p.since_mark = 1 AND p.accepted < 0 THEN p.accepted WHEN p.since_mark = 1 THEN p.cut ELSE 0 END)
        AS BIGINT) AS hand_below,
    CAST(SUM(CASE WHEN p.fresh = 1 AND p.accepted > 0 THEN p.accepted ELSE 0 END) AS BIGINT) AS fresh_above,
    CAST(SUM(CASE WHEN p.fresh = 1 AND p.accepted < 0 THEN p.accepted ELSE 0 END) AS BIGINT) AS fresh_below,
    MAX(CASE WHEN p.state = 'accepted' THEN p.at_ms ELSE 0 END) AS newest_ms
FROM (
    SELECT p.customer_id, w.pool, p.feature, p.org_id, p.state, p.attempts, p.sent_qty, p.credit_cost, w.since_ms,
        {costs_seen},
        CASE WHEN COALESCE(p.settled_ms, p.sealed_at_ms) >= w.since_ms - :apart_ms
            AND COALESCE(p.settled_ms, p.sealed_at_ms) >= w.mark_ms - :apart_ms THEN 1 ELSE 0 END AS fresh,
        CASE WHEN (p.by_hand OR p.state = 'voided') AND COALESCE(p.settled_ms, p.sealed_at_ms) >= w.mark_ms - :apart_ms
            THEN 1 ELSE 0 END AS since_mark,
        CASE WHEN p.state = 'voided' AND p.sent_qty < 0 AND p.attempts > 0 AND EXISTS (SELECT 1 FROM voids x
            WHERE {is_of_push} AND x.evidence_kind = 'operator') THEN p.sent_qty ELSE 0 END AS cut,
        COALESCE(p.settled_ms, p.sealed_at_ms) AS at_ms,
        CASE WHEN p.state = 'accepted' THEN p.sent_qty ELSE 0 END AS accepted,
        CASE WHEN p.state IN ('queued', 'in_doubt') OR p.state = 'due' AND p.attempts > 0 THEN 1 ELSE 0 END AS open,
        CASE WHEN NOT p.by_hand AND COALESCE({first_sent}, (SELECT MIN(x.at_ms) FROM adoptions x
            WHERE {is_of_push} AND x.kind = 'drawn'), p.window_ms) >= w.since_ms + :apart_ms
            OR w.since_ms = 0 AND NOT p.by_hand THEN 1 ELSE 0 END AS sure
    FROM {rows :pairs (customer_id text, feature text, pool text, since_ms bigint, mark_ms bigint)} w
    JOIN pushes p ON p.customer_id = w.customer_id AND p.feature = w.feature
    WHERE p.provider = :provider
) p GROUP BY p.customer_id, p.pool, p.feature, p.org_id, p.first, p.last, p.credit_cost

-- name: with_changes
WITH changes (feature, confirmed_ms, at_ms) AS MATERIALIZED (SELECT feature, confirmed_ms, at_ms
    FROM {rows :changes (feature text, confirmed_ms bigint, at_ms bigint)} r)

-- name: costs_seen
-- How many changes of its feature's cost a charge came after for sure, and how many it may have come after. The moments
-- of the changes allow for clocks that are apart.
(SELECT COUNT(*) FROM changes c WHERE c.feature = p.feature
    AND c.at_ms <= COALESCE({first_sent}, p.settled_ms, p.sealed_at_ms)) AS first,
(SELECT COUNT(*) FROM changes c WHERE c.feature = p.feature
    AND c.confirmed_ms <= COALESCE(p.settled_ms, p.sealed_at_ms)) AS last

-- name: first_sent
-- When a push was sent first. One that was adopted at another quantity was sent as the push that it stands for.
COALESCE(p.first_attempt_ms, (SELECT MIN(s.first_attempt_ms) FROM pushes s WHERE s.window_ms = p.window_ms
    AND s.org_id = p.org_id AND s.feature = p.feature AND s.revision < p.revision
    AND COALESCE(s.wire_key, s.key) = p.wire_key))

-- name: unsure
-- What is in a balance or beside it, push by push: as `accounted` has it in sums, from a mark on, or (0) from none; and
-- what was charged while its cost changed. Those that a person decided come last of what is uncertain.
{with_changes}
SELECT p.feature, p.sent_qty, p.first, p.last, p.credit_cost, p.is_unsure, p.is_unsure * p.decided AS decided FROM (
    SELECT p.feature, p.sent_qty, p.credit_cost, {costs_seen}, CASE WHEN {is_unsure} THEN 1 ELSE 0 END AS is_unsure,
        CASE WHEN p.by_hand THEN 1 ELSE 0 END AS decided,
        COALESCE(p.settled_ms, p.sealed_at_ms) AS at_ms
    FROM pushes p
    WHERE p.provider = :provider AND p.customer_id = :customer_id AND p.feature IN :features AND p.state = 'accepted'
        AND p.sent_qty <> 0
) p WHERE p.is_unsure = 1 OR p.first < p.last AND p.at_ms >= :mark_ms - :apart_ms AND p.at_ms >= :since_ms - :apart_ms
ORDER BY CASE WHEN p.is_unsure = 1 AND p.decided = 1 THEN 1 WHEN p.is_unsure = 1 OR p.credit_cost IS NULL THEN 0 ELSE 2 END
LIMIT :at_most

-- name: is_unsure
(:mark_ms > 0 AND p.by_hand AND COALESCE(p.settled_ms, p.sealed_at_ms) >= :mark_ms - :apart_ms
    OR :mark_ms = 0 AND COALESCE(p.settled_ms, p.sealed_at_ms) >= :since_ms - :apart_ms
        AND (p.by_hand OR :since_ms > 0 AND COALESCE({first_sent}, (SELECT MIN(x.at_ms) FROM adoptions x
            WHERE {is_of_push} AND x.kind = 'drawn'), p.window_ms) < :since_ms + :apart_ms))

-- name: marks
-- That of the present cycle, or of the one that ended as the present one began.
SELECT m.customer_id, m.feature, m.since_ms, m.apart_qty, m.at_ms, m.scale, m.accepted_qty, m.used_qty, m.left_qty,
    m.cycle_left_qty, m.ends_ms
FROM {rows :pairs (customer_id text, feature text, since_ms bigint)} w
JOIN balance_marks m ON m.provider = :provider AND m.customer_id = w.customer_id AND m.feature = w.feature
    AND (m.since_ms = w.since_ms OR m.ends_ms = w.since_ms)

-- name: disturbed
-- Balances beside which, between a comparison and the begin of the next cycle, something else than a plain charge came
-- to count or ceased to.
SELECT DISTINCT w.customer_id, w.pool
FROM {rows :pairs (customer_id text, feature text, pool text, since_ms bigint, mark_ms bigint)} w
JOIN pushes p ON p.customer_id = w.customer_id AND p.feature = w.feature
WHERE p.provider = :provider AND (
    p.state = 'accepted' AND COALESCE(p.settled_ms, p.sealed_at_ms) >= w.mark_ms
        AND COALESCE(p.settled_ms, p.sealed_at_ms) < w.since_ms + :apart_ms
        AND (p.by_hand OR p.sent_qty < 0 OR p.first_attempt_ms IS NULL)
    OR p.state IN ('due', 'queued', 'in_doubt') AND p.first_attempt_ms < w.since_ms + :apart_ms
    OR p.state = 'voided' AND p.first_attempt_ms < w.since_ms + :apart_ms
        AND EXISTS (SELECT 1 FROM voids x WHERE {is_of_push} AND x.at_ms >= w.mark_ms))

-- name: remember
INSERT INTO balance_marks (customer_id, feature, since_ms, apart_qty, org_id, told_qty, told_ms, scale, unsure_qty,
    accepted_qty, used_qty, left_qty, cycle_left_qty, ends_ms, provider, at_ms)
SELECT customer_id, feature, since_ms, apart_qty, org_id, told_qty, told_ms, scale, unsure_qty, accepted_qty, used_qty,
    left_qty, cycle_left_qty, ends_ms, :provider, :at_ms
FROM {rows :marks (customer_id text, feature text, since_ms bigint, apart_qty bigint, org_id text, told_qty bigint,
    told_ms bigint, scale bigint, unsure_qty bigint, accepted_qty bigint, used_qty bigint, left_qty bigint,
    cycle_left_qty bigint, ends_ms bigint)} r WHERE 1 = 1
ON CONFLICT (provider, customer_id, feature) DO UPDATE SET since_ms = excluded.since_ms,
    apart_qty = excluded.apart_qty, at_ms = excluded.at_ms, org_id = excluded.org_id,
    told_qty = CASE WHEN ABS(balance_marks.told_qty * 1.0 * excluded.scale / balance_marks.scale) + ABS(excluded.told_qty)
        > 9e18 THEN excluded.told_qty
        ELSE balance_marks.told_qty * (excluded.scale / balance_marks.scale) + excluded.told_qty END,
    unsure_qty = CASE WHEN balance_marks.unsure_qty * 1.0 * excluded.scale / balance_marks.scale + excluded.unsure_qty > 9e18
        THEN excluded.unsure_qty
        ELSE balance_marks.unsure_qty * (excluded.scale / balance_marks.scale) + excluded.unsure_qty END,
    scale = excluded.scale, accepted_qty = excluded.accepted_qty, used_qty = excluded.used_qty,
    left_qty = excluded.left_qty, cycle_left_qty = excluded.cycle_left_qty, ends_ms = excluded.ends_ms,
    told_ms = COALESCE(excluded.told_ms, balance_marks.told_ms)

-- name: taken_back
-- What was taken back of a push, since it was settled, because a balance did not show it: its usage is billed anew.
SELECT p.key, MIN(q.key) AS adopted FROM {rows :keys (key text)} w JOIN pushes p ON p.key = w.key
JOIN adoptions x ON x.window_ms = p.window_ms AND x.org_id = p.org_id AND x.feature = p.feature AND x.kind = 'drawn'
JOIN pushes q ON q.window_ms = x.window_ms AND q.org_id = x.org_id AND q.feature = x.feature
    AND q.revision = x.revision
WHERE q.sent_qty = -p.sent_qty AND q.sealed_at_ms >= p.settled_ms GROUP BY p.key

-- name: own_up_to_lost
-- Only where a comparison since has found at least as much of it: else the balance says that they were drawn.
UPDATE balance_marks SET apart_qty = balance_marks.apart_qty + v.sent_qty
FROM {rows :lost (provider text, customer_id text, feature text, sent_qty bigint, settled_ms bigint,
    scale bigint)} v
WHERE balance_marks.provider = v.provider AND balance_marks.customer_id = v.customer_id
    AND balance_marks.feature = v.feature AND balance_marks.at_ms >= v.settled_ms
    AND balance_marks.since_ms <= v.settled_ms AND balance_marks.scale = v.scale
    AND (v.sent_qty > 0 AND balance_marks.apart_qty <= -v.sent_qty
        OR v.sent_qty < 0 AND balance_marks.apart_qty >= -v.sent_qty)
