-- Pushes, a page at a time, and their sums.

-- name: columns
key, window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, state, attempts, due_at_ms,
    sealed_at_ms, last_error

-- name: narrowed
(:state IN ('', 'open') OR {open_state} = :state) AND (:provider = '' OR provider = :provider)
    AND (:feature = '' OR feature = :feature) AND window_ms >= :from_ms AND window_ms < :to_ms AND {waits_for}

-- name: waits_for
(:why = '' OR {reason} = SUBSTR(CAST(:why AS TEXT), 1, 160))

-- name: reason
SUBSTR(COALESCE(last_error, :no_error), 1, 160)

-- name: needing_person
-- Pushes in doubt, then rejected pushes, the oldest window first, by the index on pushes that need a person.
SELECT {columns} FROM pushes WHERE state IN ('in_doubt', 'rejected') AND state <= :last_state AND {narrowed}
    AND (state, window_ms, org_id, feature, revision) > (:state_after, :window_ms, :org_id, :feature_after, :revision)
ORDER BY state, window_ms, org_id, feature, revision LIMIT :at_most

-- name: due_place
provider, due_at_ms, window_ms, org_id, feature, revision

-- name: open
-- Pushes that ticks send, by the index on open pushes. The pushes are sorted by provider and due time.
SELECT {columns} FROM pushes WHERE state IN {open_states} AND state NOT IN ('in_doubt', 'rejected') AND {narrowed}
    AND ({due_place}) > (:provider_after, :due_at_ms, :window_ms, :org_id, :feature_after, :revision) {due_to}
ORDER BY {due_place} LIMIT :at_most

-- name: due_to
AND ({due_place}) <= (:last_provider, :last_due_at_ms, :last_window_ms, :last_org_id, :last_feature, :last_revision)

-- name: open_last
-- The last push that the page may read.
SELECT {due_place}, COUNT(*) OVER () AS looked FROM (SELECT {due_place} FROM pushes WHERE state IN {open_states}
        AND ({due_place}) > (:provider_after, :due_at_ms, :window_ms, :org_id, :feature_after, :revision)
    ORDER BY {due_place} LIMIT :looked_at) looked
ORDER BY provider DESC, due_at_ms DESC, window_ms DESC, org_id DESC, feature DESC, revision DESC LIMIT 1

-- name: place
window_ms, org_id, feature, revision

-- name: downwards
window_ms DESC, org_id DESC, feature DESC, revision DESC

-- name: latest
SELECT {columns} FROM pushes WHERE {narrowed}
    AND ({place}) < (:window_ms, :org_id, :feature_after, :revision) {down_to}
ORDER BY {downwards} LIMIT :at_most

-- name: down_to
AND ({place}) >= (:last_window_ms, :last_org_id, :last_feature, :last_revision)

-- name: latest_last
SELECT {place}, COUNT(*) OVER () AS looked FROM (SELECT {place} FROM pushes WHERE window_ms >= :from_ms AND window_ms < :to_ms
        AND ({place}) < (:window_ms, :org_id, :feature_after, :revision)
    ORDER BY {downwards} LIMIT :looked_at) looked
ORDER BY window_ms, org_id, feature, revision LIMIT 1

-- name: of_org
-- The primary key begins with window and organisation, so each window takes one lookup, for any number of
-- organisations.
WITH RECURSIVE windows (at_ms) AS (
    SELECT CAST(:from_ms AS BIGINT)
    UNION ALL SELECT at_ms + {window_length_ms} FROM windows WHERE at_ms + {window_length_ms} < :to_ms
)
SELECT {columns} FROM windows w {then} pushes ON window_ms = w.at_ms AND org_id = :org
WHERE (:state <> 'open' OR state IN {open_states}) AND (:state IN ('', 'open') OR {open_state} = :state)
    AND (:provider = '' OR provider = :provider) AND (:feature = '' OR feature = :feature) AND {waits_for}
    AND ({place}) < (:window_ms, :org_id, :feature_after, :revision)
ORDER BY {downwards} LIMIT :at_most

-- name: then [postgresql]
JOIN

-- name: then [sqlite]
-- SQLite keeps the order of a cross join. Otherwise it may begin with all pushes.
CROSS JOIN

-- name: first_window
SELECT MIN(window_ms) FROM pushes

-- name: sums
SELECT provider, {open_state} AS state, feature, COUNT(*) AS pushes, CAST(SUM(sent_qty) AS BIGINT) AS quantity,
    MIN(sealed_at_ms) AS oldest_ms
FROM pushes WHERE state IN {open_states} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3

-- name: customer_sums
SELECT provider, customer_id, feature, {open_state} AS state, COUNT(*) AS pushes,
    CAST(SUM(sent_qty) AS BIGINT) AS quantity FROM pushes
WHERE state IN {open_states} AND (:org = '' OR org_id = :org) AND {narrowed} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4

-- name: one_that_waits
SELECT 1 FROM pushes WHERE state IN {open_states} AND {waits_for} LIMIT 1

-- name: wait_sums
-- The last errors of all open pushes. Pushes that need a person come first.
SELECT * FROM (SELECT provider, {open_state} AS state, {reason} AS error, COUNT(*) AS pushes,
        MIN(window_ms) AS oldest_ms, MIN(CASE WHEN state IN ('due', 'queued') THEN due_at_ms END) AS next_ms
    FROM pushes WHERE state IN {open_states} GROUP BY 1, 2, 3) sums
ORDER BY CASE state WHEN 'in_doubt' THEN 1 WHEN 'rejected' THEN 2 ELSE 3 END, 4 DESC, 1, 2, 3 LIMIT :at_most
