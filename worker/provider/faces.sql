-- The facts for dry runs of changes of providers.

-- name: billed_here
assignments WHERE provider = :provider AND start_ms <= :now_ms AND (end_ms IS NULL OR :now_ms < end_ms)

-- name: count_billed
SELECT COUNT(DISTINCT org_id) FROM {billed_here}

-- name: billed
SELECT DISTINCT org_id FROM {billed_here} ORDER BY org_id LIMIT :at_most

-- name: waiting
SELECT feature, window_ms, CAST(SUM(sent_qty) AS BIGINT) AS quantity FROM pushes
WHERE provider = :provider AND state = 'due' GROUP BY feature, window_ms

-- name: of_feature
SELECT window_ms, CAST(SUM(sealed_qty) AS BIGINT) AS quantity, COUNT(DISTINCT org_id) AS orgs FROM pushes
WHERE provider = :provider AND feature = :feature AND window_ms >= :from_ms AND state <> 'voided' GROUP BY window_ms

-- name: unread
-- The number of unread organisations among those that the provider bills now.
SELECT COUNT(DISTINCT o.org_id) FROM assignments a JOIN orgs o ON o.org_id = a.org_id
WHERE a.provider = :provider AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)
    AND COALESCE(o.projection_read_ms, 0) < :unread_ms
