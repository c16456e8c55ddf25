-- The options of a blocked organisation.

-- name: sponsors
-- The customers who pay for an organisation's executions now, by the last row about each.
SELECT p.payer FROM payers p WHERE p.org_id = :org_id AND p.allowed AND p.since_ms <= :now_ms
    AND p.number = (SELECT MAX(q.number) FROM payers q WHERE q.payer = p.payer AND q.org_id = p.org_id)
ORDER BY p.payer LIMIT :at_most

-- name: asked
SELECT COUNT(*) FROM guard_overrides WHERE state = 'asked' AND metric = :metric AND reach = 'org' AND target = :org_id
