-- Counters are made the sums of their uses.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: this
org_id = :org_id AND metric = :metric AND period = :period AND start_ms = :start_ms

-- name: no [postgresql]
FALSE

-- name: no [sqlite]
0

-- name: make
INSERT INTO guard_counters (org_id, metric, period, start_ms, used, uses, warned)
VALUES (:org_id, :metric, :period, :start_ms, 0, 0, {no}) ON CONFLICT DO NOTHING

-- name: counter
SELECT used, uses FROM guard_counters WHERE {this} {for_update}

-- name: sum
SELECT COALESCE(SUM(amount), 0) AS amount, COUNT(*) AS uses FROM guard_uses
WHERE org_id = :org_id AND metric = :metric AND at_ms >= :start_ms AND at_ms < :end_ms

-- name: correct
UPDATE guard_counters SET used = :after, uses = :uses WHERE {this}

-- name: add
INSERT INTO guard_corrections (org_id, metric, period, start_ms, "before", "after", at_ms, actor, reason)
VALUES (:org_id, :metric, :period, :start_ms, :before, :after, :at_ms, :actor, :reason)
