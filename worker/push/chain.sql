-- What stands behind one push.

-- name: entries
SELECT key, kind, from_account, to_account, amount_micro, at_ms FROM ledger_entries WHERE key IN :names ORDER BY key

-- name: verdicts
-- The one in force when the push was settled (or sealed, while it is not), and those that came next.
SELECT * FROM (SELECT projection_id, at_ms, is_halted, reason, balance_micro FROM projections
    WHERE org_id = :org_id AND at_ms <= :at_ms ORDER BY projection_id DESC LIMIT 1) before
UNION ALL
SELECT * FROM (SELECT projection_id, at_ms, is_halted, reason, balance_micro FROM projections
    WHERE org_id = :org_id AND at_ms > :at_ms ORDER BY projection_id LIMIT :at_most) after_it
ORDER BY projection_id

-- name: told
-- A halt bears the moment since when its organisation is halted, which a later verdict may confirm.
SELECT cell_id, halted_at, due_at_ms, acked_at_ms, attempts, last_error FROM halts
WHERE org_id = :org_id AND halted_at <= :to_ms AND halted_at >= COALESCE(
    (SELECT MAX(h.halted_at) FROM halts h WHERE h.org_id = :org_id AND h.halted_at <= :from_ms), :from_ms)
ORDER BY halted_at, cell_id LIMIT :at_most
