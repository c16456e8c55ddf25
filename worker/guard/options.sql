-- The ways out of a block.

-- name: sponsors
-- The customers that pay for an organisation's executions now, by the newest row of each.
SELECT p.payer FROM payers p WHERE p.org_id = :org_id AND p.allowed AND p.since_ms <= :now_ms
    AND p.number = (SELECT MAX(q.number) FROM payers q WHERE q.payer = p.payer AND q.org_id = p.org_id)
ORDER BY p.payer LIMIT :at_most

-- name: asked
SELECT COUNT(*) FROM guard_overrides WHERE state = 'asked' AND metric = :metric AND reach = 'org' AND target = :org_id
    AND (ends_ms IS NULL OR ends_ms > :now_ms)
