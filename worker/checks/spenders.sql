-- Who spent most, as it was last looked at.

-- name: keep
INSERT INTO high_spenders (place, customer_id, used_micro, from_ms, at_ms)
SELECT r.place, r.customer_id, r.used_micro, r.from_ms, r.at_ms
FROM {rows :rows (place bigint, customer_id text, used_micro bigint, from_ms bigint, at_ms bigint)} r WHERE 1 = 1
ON CONFLICT (place) DO UPDATE SET customer_id = excluded.customer_id, used_micro = excluded.used_micro,
    from_ms = excluded.from_ms, at_ms = excluded.at_ms
WHERE excluded.at_ms >= high_spenders.at_ms
