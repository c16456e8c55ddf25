-- The dependents of each provider.

-- name: orgs
SELECT a.provider, COUNT(*) AS orgs, SUM(CASE WHEN a.customer_id = '' THEN 1 ELSE 0 END) AS without_customer
FROM assignments a WHERE a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms) GROUP BY a.provider

-- name: open_pushes
SELECT provider, COUNT(*) AS pushes FROM pushes WHERE state IN {open_states} GROUP BY provider

-- name: customers
SELECT customer_id FROM assignments WHERE provider = :provider AND customer_id <> ''
    AND (end_ms IS NULL OR :now_ms < end_ms) ORDER BY 1 LIMIT :at_most

-- name: in_use
SELECT DISTINCT provider FROM assignments WHERE end_ms IS NULL AND provider NOT IN {unbilled} ORDER BY 1
