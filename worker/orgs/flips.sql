-- The state of organisations before a flip.

-- name: latest_assignment
SELECT a.provider, a.customer_id, a.start_ms, o.is_halted FROM assignments a
JOIN orgs o ON o.org_id = a.org_id WHERE a.org_id = :org_id ORDER BY a.start_ms DESC LIMIT 1

-- name: latest_provider
SELECT provider FROM assignments WHERE org_id = :org_id ORDER BY start_ms DESC LIMIT 1

-- name: open_pushes
SELECT state, COUNT(*) AS pushes FROM pushes WHERE state IN {open_states} AND org_id = :org_id GROUP BY state
