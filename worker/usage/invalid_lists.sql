-- What was answered `invalid`.

-- name: invalid
-- The example is the latest hour's that has one.
SELECT i.key_name, i.kind, i.code, SUM(i.items) AS items, MIN(i.first_ms) AS first_ms, MAX(i.last_ms) AS last_ms,
    MAX(CASE WHEN i.place = 1 THEN i.source END) AS source, MAX(CASE WHEN i.place = 1 THEN i.item_id END) AS item_id
FROM (SELECT n.*, ROW_NUMBER() OVER (PARTITION BY n.key_name, n.kind, n.code
        ORDER BY CASE WHEN n.item_id IS NULL THEN 1 ELSE 0 END, n.hour_ms DESC) AS place
    FROM invalid_items n WHERE n.hour_ms >= :since_ms AND (:key = '' OR n.key_name = :key)) i
GROUP BY i.key_name, i.kind, i.code ORDER BY items DESC, i.key_name, i.kind, i.code LIMIT :at_most
