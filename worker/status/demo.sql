-- The state of the demo's fleet.

-- name: fleet
SELECT o.org_id, a.plan,
    (SELECT COUNT(*) FROM sandboxes s WHERE s.org_id = o.org_id AND s.state = 'running') AS running,
    COALESCE((SELECT SUM(quantity) FROM ledger_entries e WHERE e.from_account = a.account_id), 0) AS billed_s,
    a.balance_micro, o.is_halted, o.halted_at
FROM orgs o JOIN ledger_accounts a ON a.account_id = 'wallet:' || o.org_id ORDER BY 1

-- name: revised_pushes
SELECT key, sealed_qty, state FROM pushes WHERE revision > 0

-- name: used
SELECT SUM(interval_s) FROM usage_samples

-- name: billed
SELECT SUM(quantity) FROM ledger_entries WHERE kind = 'usage'
