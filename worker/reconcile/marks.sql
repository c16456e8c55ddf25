-- How far what was accepted has been compared, by provider and customer; the provider itself has no customer.

-- name: provider_mark
SELECT compared_ms FROM compared_marks WHERE provider = :provider AND customer_id = ''

-- name: keep
-- A mark never moves back: what lies below it was compared once.
INSERT INTO compared_marks (provider, customer_id, compared_ms, open_days, open_since_ms, said, at_ms)
SELECT :provider, m.customer_id, m.compared_ms, m.open_days, m.open_since_ms, m.said, :now_ms
FROM {rows :marks (customer_id text, compared_ms bigint, open_days bigint, open_since_ms bigint, said text)} m WHERE 1 = 1
ON CONFLICT (provider, customer_id) DO UPDATE SET open_days = excluded.open_days,
    open_since_ms = excluded.open_since_ms, said = excluded.said, at_ms = excluded.at_ms,
    compared_ms = CASE WHEN excluded.compared_ms > compared_marks.compared_ms THEN excluded.compared_ms
        ELSE compared_marks.compared_ms END

-- name: close_others
-- Of the other customers nothing is left to be compared.
UPDATE compared_marks SET open_days = 0, open_since_ms = NULL, said = ''
WHERE provider = :provider AND customer_id <> '' AND open_days > 0 AND at_ms < :now_ms
    AND customer_id NOT IN (SELECT customer_id FROM {rows :marks (customer_id text)} m)
