-- Results of the last check of each kind.

-- name: keep
-- If two checks run at the same time, the later check counts.
INSERT INTO checks (check_name, at_ms, off, alerts) VALUES (:check_name, :at_ms, :off, :alerts)
ON CONFLICT (check_name) DO UPDATE SET at_ms = excluded.at_ms, off = excluded.off, alerts = excluded.alerts
WHERE excluded.at_ms >= checks.at_ms

-- The wallets with the most use, by the last check.

-- name: keep_spenders
INSERT INTO high_spenders (place, customer_id, used_micro, from_ms, at_ms)
SELECT r.place, r.customer_id, r.used_micro, r.from_ms, r.at_ms
FROM {rows :rows (place bigint, customer_id text, used_micro bigint, from_ms bigint, at_ms bigint)} r WHERE 1 = 1
ON CONFLICT (place) DO UPDATE SET customer_id = excluded.customer_id, used_micro = excluded.used_micro,
    from_ms = excluded.from_ms, at_ms = excluded.at_ms
WHERE excluded.at_ms >= high_spenders.at_ms

-- name: forget_spenders
DELETE FROM high_spenders WHERE at_ms <= :at_ms

-- Results of the last check of each kind.

-- name: last
SELECT check_name, at_ms, off, alerts FROM checks
