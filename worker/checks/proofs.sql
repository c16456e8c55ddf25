-- The stored results of `verify`.

-- name: in_turn
-- Two runs are stored one after the other, so that their numbers are in the order of storing.
INSERT INTO invariants (invariant, held_by, broken_by) VALUES (1, NULL, NULL)
ON CONFLICT (invariant) DO UPDATE SET held_by = invariants.held_by

-- name: add
INSERT INTO proofs (at_ms, took_ms, orgs, breaches, by_invariant, checked, open, newest_action, doubted, actor, reason,
    follows, from_ms, proven_to_ms, arrival)
VALUES (:at_ms, :took_ms, :orgs, :breaches, :by_invariant, :checked, :open, :newest_action, :doubted, :actor, :reason,
    :follows, :from_ms, :proven_to_ms, :arrival)
RETURNING number

-- name: stand
-- An invariant stays as it is if a run did not examine it. A run that did not see another run's breach cannot show that
-- the invariant holds.
INSERT INTO invariants (invariant, held_by, broken_by)
SELECT x.invariant, x.held_by, x.broken_by FROM
    {rows :found (invariant integer, held_by bigint, broken_by bigint)} x WHERE 1 = 1 ORDER BY x.invariant
ON CONFLICT (invariant) DO UPDATE SET
    held_by = CASE WHEN COALESCE(invariants.broken_by, 0) <= :saw_run THEN COALESCE(excluded.held_by, invariants.held_by)
        ELSE invariants.held_by END,
    broken_by = COALESCE(excluded.broken_by, invariants.broken_by)

-- name: to_continue
-- The newest run without a breach, full or continued, if a full run is recent enough. After a breach or a loss of
-- history, a full run that saw the breach or the loss must come first. A run that began before this full run may be
-- stored after it. A run with a time in the future is left out, because it cannot show later rows.
SELECT p.number, p.at_ms, p.proven_to_ms, p.arrival FROM proofs p
WHERE {held} AND p.at_ms <= :now_ms AND p.number > {broken_last}
    AND NOT EXISTS (SELECT 1 FROM invariants i WHERE i.broken_by > COALESCE(i.held_by, 0))
    AND p.at_ms > COALESCE((SELECT MAX(l.at_ms) FROM losses l), 0) + :apart_ms
    AND EXISTS (SELECT 1 FROM proofs w WHERE w.orgs IS NULL AND w.doubted IS NULL AND w.breaches = 0
        AND w.follows IS NULL AND w.number <= p.number AND w.at_ms > :whole_after_ms AND w.at_ms <= :now_ms
        AND w.number > {broken_last})
ORDER BY p.number DESC LIMIT 1

-- name: broken_last
COALESCE((SELECT MAX(b.number) FROM proofs b WHERE b.breaches > 0), 0)

-- name: held
p.orgs IS NULL AND p.doubted IS NULL AND p.breaches = 0 AND p.proven_to_ms IS NOT NULL

-- The results of runs of `verify`.

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
-- The times of the last full run without a breach, and of the last run that continued another run. A run with a time in
-- the future is left out.
SELECT MAX(CASE WHEN follows IS NULL THEN at_ms END) AS whole_ms,
    MAX(CASE WHEN follows IS NOT NULL THEN at_ms END) AS continued_ms
FROM proofs WHERE orgs IS NULL AND doubted IS NULL AND breaches = 0 AND at_ms <= :now_ms

-- Actions that resumed organisations, for the stop after a breach.

-- name: resumed_since
SELECT target FROM operator_actions WHERE action = 'org_resume' AND action_id > :action
