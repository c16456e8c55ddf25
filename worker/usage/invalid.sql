-- Items that got the answer `invalid`, counted by API key, code and hour.

-- name: of_hour
SELECT key_name, kind, code FROM invalid_items WHERE hour_ms = :hour_ms

-- name: of_day
SELECT COUNT(*) FROM invalid_items WHERE hour_ms >= :day_ms

-- name: keep
INSERT INTO invalid_items (hour_ms, key_name, kind, code, items, first_ms, last_ms, source, item_id)
SELECT :hour_ms, x.key_name, x.kind, x.code, x.items, x.first_ms, x.last_ms, x.source, x.item_id
FROM {rows :rows (key_name text, kind text, code text, items bigint, first_ms bigint, last_ms bigint, source text,
    item_id text)} x WHERE 1 = 1
ON CONFLICT (hour_ms, key_name, kind, code) DO UPDATE SET items = invalid_items.items + excluded.items,
    first_ms = CASE WHEN excluded.first_ms < invalid_items.first_ms THEN excluded.first_ms
        ELSE invalid_items.first_ms END,
    last_ms = CASE WHEN excluded.last_ms > invalid_items.last_ms THEN excluded.last_ms ELSE invalid_items.last_ms END,
    source = COALESCE(invalid_items.source, excluded.source),
    item_id = COALESCE(invalid_items.item_id, excluded.item_id)

-- name: forget
DELETE FROM invalid_items WHERE hour_ms < :before_ms

-- The list of items that got the answer `invalid`.

-- name: invalid
-- The example is that of the latest hour with an example.
SELECT i.key_name, i.kind, i.code, SUM(i.items) AS items, MIN(i.first_ms) AS first_ms, MAX(i.last_ms) AS last_ms,
    MAX(CASE WHEN i.place = 1 THEN i.source END) AS source, MAX(CASE WHEN i.place = 1 THEN i.item_id END) AS item_id
FROM (SELECT n.*, ROW_NUMBER() OVER (PARTITION BY n.key_name, n.kind, n.code
        ORDER BY CASE WHEN n.item_id IS NULL THEN 1 ELSE 0 END, n.hour_ms DESC) AS place
    FROM invalid_items n WHERE n.hour_ms >= :since_ms AND (:key = '' OR n.key_name = :key)) i
GROUP BY i.key_name, i.kind, i.code ORDER BY items DESC, i.key_name, i.kind, i.code LIMIT :at_most
