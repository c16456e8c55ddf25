-- What the last check of each kind found.

-- name: keep
-- Of two at once the later one counts.
INSERT INTO checks (check_name, at_ms, off, alerts) VALUES (:check_name, :at_ms, :off, :alerts)
ON CONFLICT (check_name) DO UPDATE SET at_ms = excluded.at_ms, off = excluded.off, alerts = excluded.alerts
WHERE excluded.at_ms >= checks.at_ms
