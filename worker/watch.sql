-- The watch: organisations with new usage, due organisations, and halted organisations that are read again.

-- name: wake
-- The watch does not estimate an organisation without usage until it has new usage. `later`: the arrivals since the
-- watch's last read.
UPDATE orgs SET watch_due_ms = :now_ms WHERE watch_due_ms IS NULL AND NOT is_halted AND bucket BETWEEN :lo AND :hi
    AND billing_provider NOT IN {unbilled}
    AND org_id IN (SELECT s.org_id FROM usage_samples s WHERE {later} AND s.problem IS NULL)

-- name: begun
-- Sandboxes that just began to run, as their hosts report, by organisation. One index finds them.
SELECT b.org_id, COUNT(*) AS sandboxes, MAX(b.since_ms) AS since_ms FROM sandboxes b
WHERE b.state = 'running' AND b.since_ms > :from_ms AND b.since_ms <= :to_ms AND b.memory_mb IS NOT NULL
GROUP BY b.org_id

-- name: wake_begun [postgresql]
-- First lock the rows in the order of their ids (see `mark_for_projection`).
UPDATE orgs SET watch_due_ms = :now_ms
FROM (SELECT o.org_id FROM orgs o WHERE {is_to_wake} ORDER BY o.org_id FOR NO KEY UPDATE) held
WHERE orgs.org_id = held.org_id RETURNING orgs.org_id

-- name: wake_begun [sqlite]
UPDATE orgs AS o SET watch_due_ms = :now_ms WHERE {is_to_wake} RETURNING org_id

-- name: is_to_wake
o.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} r) AND NOT o.is_halted AND o.bucket BETWEEN :lo AND :hi
    AND o.billing_provider NOT IN {unbilled} AND (o.watch_due_ms IS NULL OR o.watch_due_ms > :now_ms)

-- name: arrivals_sealed
SELECT cursor, in_flight FROM buckets WHERE id BETWEEN :lo AND :hi

-- name: billed
FROM orgs o JOIN assignments a ON a.org_id = o.org_id AND a.provider = :provider AND a.customer_id <> ''
    AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)

-- name: due
SELECT o.org_id, o.is_halted, o.balance_micro, o.balance_read_ms, o.unconfirmed_micro, o.projection_due_ms,
    o.override_halted {billed}
WHERE o.watch_due_ms <= :now_ms AND NOT o.is_halted AND o.bucket BETWEEN :lo AND :hi
ORDER BY o.watch_due_ms LIMIT :at_most {skip_locked}

-- name: skip_locked [postgresql]
FOR UPDATE OF o SKIP LOCKED

-- name: skip_locked [sqlite]

-- name: looked
UPDATE orgs SET watch_due_ms = :watch_due_ms, runs_out_ms = :runs_out_ms WHERE org_id = :org_id AND NOT is_halted

-- name: halted
-- A halt or org override by a person does not depend on credit, so the watch does not read these organisations.
SELECT o.org_id {billed} WHERE o.is_halted AND NOT o.operator_halt AND o.override_halted IS NULL
    AND o.projection_due_ms IS NULL AND o.bucket BETWEEN :lo AND :hi
ORDER BY COALESCE(o.balance_read_ms, 0) LIMIT :at_most
