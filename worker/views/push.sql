-- The rows that explain one push.

-- name: samples
SELECT s.id, s.ts, s.memory_mb, s.interval_s, w.sample_id IS NOT NULL AS withdrawn, t.event_type
FROM usage_samples s LEFT JOIN withdrawals w ON w.sample_id = s.id LEFT JOIN event_types t ON t.meter = s.memory_mb
WHERE s.org_id = :org_id AND s.ts >= :window_ms AND s.ts < :window_end_ms AND s.problem IS NULL ORDER BY s.ts, s.id

-- name: of_push
window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND revision = :revision

-- name: attempts
SELECT attempt, started_ms, finished_ms, owner, outcome, detail FROM attempts WHERE {of_push} ORDER BY attempt

-- name: sealed
SELECT COALESCE(SUM(sealed_qty), 0) FROM pushes
WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND state <> 'voided'

-- name: void
SELECT at_ms, evidence_kind, evidence, actor, reason FROM voids WHERE {of_push}
