-- What the guard counts, and what plans allow of it.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: hold
-- Nobody else sets the metric, or a limit of it, until this transaction is over: its first row stands for all.
SELECT 1 FROM guard_metrics WHERE metric = :metric AND number = 1 {for_update}

-- name: metric
SELECT metric, number, price_micro, per_units, payer, phase, warn_ppm, fails_open, counts FROM guard_metrics
WHERE metric = :metric AND (number = :number OR CAST(:number AS INTEGER) IS NULL) ORDER BY number DESC LIMIT 1

-- name: add_metric
INSERT INTO guard_metrics (metric, number, price_micro, per_units, payer, phase, warn_ppm, fails_open, counts,
    at_ms, actor, reason)
VALUES (:metric, :number, :price_micro, :per_units, :payer, :phase, :warn_ppm, :fails_open, :counts,
    :at_ms, :actor, :reason)
ON CONFLICT DO NOTHING RETURNING number

-- name: last_limit
SELECT number, ended, amount, phase FROM guard_limits
WHERE metric = :metric AND "plan" = :plan AND period = :period ORDER BY number DESC LIMIT 1

-- name: add_limit
INSERT INTO guard_limits (metric, "plan", period, number, ended, amount, phase, at_ms, actor, reason)
VALUES (:metric, :plan, :period, :number, :ended, :amount, :phase, :at_ms, :actor, :reason)
