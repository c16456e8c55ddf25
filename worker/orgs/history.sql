-- What hangs on one organisation.

-- name: pushes
-- A push lies at its window and organisation: one look for each window, however many organisations there are.
WITH RECURSIVE windows (window_ms) AS (
    SELECT CAST(:from_ms AS BIGINT)
    UNION ALL SELECT window_ms + {window_length_ms} FROM windows WHERE window_ms + {window_length_ms} < :to_ms
)
SELECT q.key, q.window_ms, q.feature, q.revision, q.provider, q.sealed_qty, q.sent_qty, q.state, q.attempts, q.last_error
FROM windows w {then} pushes q ON q.window_ms = w.window_ms AND q.org_id = :org_id
ORDER BY q.window_ms DESC, q.feature, q.revision DESC LIMIT :at_most

-- name: then [postgresql]
JOIN

-- name: then [sqlite]
-- Of a cross join SQLite keeps the order; else it might begin with all pushes there ever were.
CROSS JOIN

-- name: halts
SELECT cell_id, halted_at, due_at_ms, acked_at_ms, attempts, last_error FROM halts WHERE org_id = :org_id
ORDER BY halted_at DESC, cell_id LIMIT :at_most

-- name: assignments
SELECT start_ms, end_ms, provider, customer_id, actor, reason FROM assignments WHERE org_id = :org_id
ORDER BY start_ms DESC LIMIT :at_most
