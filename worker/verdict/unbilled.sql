-- Usage that was taken and that no wallet here was charged for yet.

-- name: used_by
-- The organisations billed as a customer now that may have some: most have none, and are not looked at further. It is
-- that above the watermark, in dirty windows below it, and in pushes that are not settled. `samples`: of each, as far as
-- they are counted.
SELECT a.provider, a.org_id, COALESCE(o.held_watermark_ms, b.watermark_ms, 0) AS sealed_to,
    CASE WHEN {has_open} THEN 1 ELSE 0 END AS has_open,
    (SELECT COUNT(*) FROM (SELECT 1 FROM usage_samples s WHERE {is_unsealed} LIMIT :many) m) AS samples
FROM assignments a JOIN orgs o ON o.org_id = a.org_id
    LEFT JOIN buckets b ON b.id = o.bucket
WHERE a.customer_id = :customer_id AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)
    AND a.provider NOT IN {unbilled} AND {may_have_used}
ORDER BY a.provider, a.org_id
