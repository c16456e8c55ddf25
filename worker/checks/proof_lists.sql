-- What runs of verify found.

-- name: standing
-- The runs by which each invariant last held, and was last broken.
SELECT i.invariant, i.held_by, h.at_ms AS held_ms, h.checked, i.broken_by, b.at_ms AS broken_ms, b.by_invariant
FROM invariants i LEFT JOIN proofs h ON h.number = i.held_by LEFT JOIN proofs b ON b.number = i.broken_by
ORDER BY i.invariant

-- name: runs
SELECT number, at_ms, took_ms, orgs, breaches, by_invariant, checked, open, newest_action, doubted, actor, reason, follows,
    from_ms
FROM proofs WHERE :before = 0 OR number < :before ORDER BY number DESC LIMIT :at_most

-- name: last
-- When the last run was that looked at all of it and found nothing wrong, and the last one that continued from it. One
-- that a clock of the future dated tells of nothing since.
SELECT MAX(CASE WHEN follows IS NULL THEN at_ms END) AS whole_ms,
    MAX(CASE WHEN follows IS NOT NULL THEN at_ms END) AS continued_ms
FROM proofs WHERE orgs IS NULL AND doubted IS NULL AND breaches = 0 AND at_ms <= :now_ms
