-- The state of organisations before a flip.

-- name: latest_assignment
-- `since_ms`: the time since which the provider and the customer are the same.
SELECT a.provider, a.customer_id, o.is_halted, (SELECT MIN(s.start_ms) FROM assignments s WHERE s.org_id = a.org_id
    AND s.start_ms > COALESCE((SELECT MAX(d.start_ms) FROM assignments d WHERE d.org_id = a.org_id
        AND (d.provider <> a.provider OR d.customer_id <> a.customer_id)), -1)) AS since_ms
FROM assignments a JOIN orgs o ON o.org_id = a.org_id WHERE a.org_id = :org_id ORDER BY a.start_ms DESC LIMIT 1

-- name: latest_provider
SELECT provider FROM assignments WHERE org_id = :org_id ORDER BY start_ms DESC LIMIT 1

-- name: open_pushes
SELECT state, COUNT(*) AS pushes FROM pushes WHERE state IN {open_states} AND org_id = :org_id GROUP BY state
