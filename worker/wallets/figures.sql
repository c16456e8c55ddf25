-- The figures of runs and settlements behind the metrics.

-- name: held
SELECT COUNT(*) FROM reservations WHERE state = 'held'

-- name: overdue
-- Whoever decides by their wallets lets them go first: these were met by nobody, not even the sweep.
SELECT COUNT(*) AS runs, MIN(expires_ms) AS since_ms FROM reservations WHERE state = 'held' AND expires_ms <= :now_ms

-- name: expired
SELECT COUNT(*) FROM reservations WHERE state = 'expired' AND ended_ms > :since_ms

-- name: waiting
-- Net is what is waiting, was reversed before its release, or was released.
SELECT CAST(COALESCE((SELECT SUM(net_micro) FROM settlements), 0)
    - COALESCE((SELECT SUM(amount_micro) FROM settlement_reversals WHERE NOT is_clawback), 0)
    - COALESCE((SELECT SUM(released_micro) FROM payouts), 0) AS BIGINT)

-- name: freezes
SELECT COUNT(*) AS freezes, MIN(from_ms) AS since_ms FROM settlement_freezes WHERE ended_ms IS NULL
