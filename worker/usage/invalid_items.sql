-- What was answered `invalid`, counted by key, code and hour.

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
