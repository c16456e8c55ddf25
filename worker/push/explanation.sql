-- The rows that explain one push.

-- name: in_window
s.org_id = :org_id AND s.ts >= :window_ms AND s.ts < :window_end_ms AND s.problem IS NULL

-- name: sizes
SELECT s.memory_mb, SUM(CASE WHEN w.sample_id IS NULL THEN s.interval_s ELSE 0 END) AS in_force
FROM usage_samples s LEFT JOIN withdrawals w ON w.sample_id = s.id WHERE {in_window} GROUP BY s.memory_mb

-- name: samples
SELECT s.id, s.ts, s.memory_mb, s.interval_s, w.sample_id IS NOT NULL AS withdrawn, t.event_type, s.sandbox_id, s.cell_id
FROM usage_samples s LEFT JOIN withdrawals w ON w.sample_id = s.id LEFT JOIN event_types t ON t.meter = s.memory_mb
WHERE {in_window} AND s.memory_mb IN :sizes ORDER BY s.ts, s.id LIMIT :at_most

-- name: of_push
window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND revision = :revision

-- name: attempts
SELECT attempt, started_ms, finished_ms, owner, outcome, detail FROM attempts WHERE {of_push} ORDER BY attempt

-- name: revisions
-- The total of a window is the sum of its revisions. A later revision sends the quantity of a voided revision again.
SELECT revision, key, state, sealed_qty, sent_qty, sealed_at_ms, settled_ms,
    SUM(CASE WHEN state = 'voided' THEN 0 ELSE sealed_qty END) OVER () AS sealed_in_all FROM pushes
WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature ORDER BY revision LIMIT :at_most

-- name: said
-- The void and the adoption of a push.
SELECT 'void' AS what, at_ms, evidence_kind AS kind, evidence, actor, reason FROM voids WHERE {of_push}
UNION ALL SELECT 'adoption', at_ms, kind, evidence, actor, reason FROM adoptions WHERE {of_push}

-- The effects of one push.

-- name: entries
SELECT key, kind, from_account, to_account, amount_micro, at_ms FROM ledger_entries WHERE key IN :names ORDER BY key

-- name: verdicts
-- The verdict in force when the push was settled (or sealed, if not settled), and later verdicts.
SELECT * FROM (SELECT projection_id, at_ms, is_halted, reason, balance_micro FROM projections
    WHERE org_id = :org_id AND at_ms <= :at_ms ORDER BY projection_id DESC LIMIT 1) before
UNION ALL
SELECT * FROM (SELECT projection_id, at_ms, is_halted, reason, balance_micro FROM projections
    WHERE org_id = :org_id AND at_ms > :at_ms ORDER BY projection_id LIMIT :at_most) after_it
ORDER BY projection_id

-- name: told
-- A halt has the time from which its organisation is halted. A later verdict may confirm the halt.
SELECT cell_id, halted_at, due_at_ms, acked_at_ms, attempts, last_error FROM halts
WHERE org_id = :org_id AND halted_at <= :to_ms AND halted_at >= COALESCE(
    (SELECT MAX(h.halted_at) FROM halts h WHERE h.org_id = :org_id AND h.halted_at <= :from_ms), :from_ms)
ORDER BY halted_at, cell_id LIMIT :at_most
