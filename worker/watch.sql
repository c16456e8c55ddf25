-- The watch: organisations with new usage, those whose turn it is, and the halted ones that are asked about again.

-- name: wake
-- Whoever uses nothing is not looked at, until it uses something again; `later` is what has arrived since the watch
-- looked last.
UPDATE orgs SET watch_due_ms = :now_ms WHERE watch_due_ms IS NULL AND NOT is_halted AND bucket BETWEEN :lo AND :hi
    AND billing_provider NOT IN {unbilled}
    AND org_id IN (SELECT s.org_id FROM usage_samples s WHERE {later} AND s.problem IS NULL)

-- name: arrivals_sealed
SELECT cursor, in_flight FROM buckets WHERE id BETWEEN :lo AND :hi

-- name: billed
FROM orgs o JOIN assignments a ON a.org_id = o.org_id AND a.provider = :provider AND a.customer_id <> ''
    AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)

-- name: due
SELECT o.org_id, o.is_halted, o.balance_micro, o.balance_read_ms, o.unseen_micro, o.projection_due_ms,
    o.override_halted {billed}
WHERE o.watch_due_ms <= :now_ms AND NOT o.is_halted AND o.bucket BETWEEN :lo AND :hi
ORDER BY o.watch_due_ms LIMIT :at_most {skip_locked}

-- name: skip_locked [postgresql]
FOR UPDATE OF o SKIP LOCKED

-- name: skip_locked [sqlite]

-- name: looked
UPDATE orgs SET watch_due_ms = :watch_due_ms, runs_out_ms = :runs_out_ms WHERE org_id = :org_id AND NOT is_halted

-- name: halted
-- A person's halt and override are no matter of credit: there is nothing to ask.
SELECT o.org_id {billed} WHERE o.is_halted AND NOT o.operator_halt AND o.override_halted IS NULL
    AND o.projection_due_ms IS NULL AND o.bucket BETWEEN :lo AND :hi
ORDER BY COALESCE(o.balance_read_ms, 0) LIMIT :at_most
