-- Lists of pushes, and their sums.

-- name: chosen
state IN :states AND (:org_id = '' OR org_id = :org_id) AND (:provider = '' OR provider = :provider)
    AND (:feature = '' OR feature = :feature) AND window_ms >= :from_ms AND window_ms < :to_ms

-- name: list
SELECT key, provider, customer_id, sent_qty, state, attempts, due_at_ms, last_error FROM pushes
WHERE {chosen} ORDER BY window_ms, org_id, feature, revision LIMIT :at_most

-- name: sums
SELECT provider, customer_id, feature, state, COUNT(*) AS pushes, CAST(SUM(sent_qty) AS BIGINT) AS quantity FROM pushes
WHERE {chosen} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
