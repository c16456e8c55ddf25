-- What verify found is kept.

-- name: add
INSERT INTO proofs (at_ms, took_ms, orgs, breaches, by_invariant, checked, open, newest_action, doubted, actor, reason,
    follows, from_ms, proven_to_ms, arrival)
VALUES (:at_ms, :took_ms, :orgs, :breaches, :by_invariant, :checked, :open, :newest_action, :doubted, :actor, :reason,
    :follows, :from_ms, :proven_to_ms, :arrival)
RETURNING number

-- name: stand
-- Of two runs at once the later one counts; what a run says nothing of stays.
INSERT INTO invariants (invariant, held_by, broken_by)
SELECT x.invariant, x.held_by, x.broken_by FROM
    {rows :found (invariant integer, held_by bigint, broken_by bigint)} x WHERE 1 = 1 ORDER BY x.invariant
ON CONFLICT (invariant) DO UPDATE SET
    held_by = CASE WHEN excluded.held_by > COALESCE(invariants.held_by, 0) THEN excluded.held_by
        ELSE invariants.held_by END,
    broken_by = CASE WHEN excluded.broken_by > COALESCE(invariants.broken_by, 0) THEN excluded.broken_by
        ELSE invariants.broken_by END

-- name: to_continue
-- The newest run that held, whole or continued, while a whole one is young enough. After a breach, or a loss of history,
-- a whole one is to come first: also where a run that had begun before is kept after it. One that a clock of the future
-- dated tells of nothing since.
SELECT p.number, p.at_ms, p.proven_to_ms, p.arrival FROM proofs p
WHERE {held} AND p.at_ms <= :now_ms AND p.number > COALESCE((SELECT MAX(b.number) FROM proofs b WHERE b.breaches > 0), 0)
    AND p.at_ms > COALESCE((SELECT MAX(l.at_ms) FROM losses l), 0) + :apart_ms
    AND EXISTS (SELECT 1 FROM proofs w WHERE w.orgs IS NULL AND w.doubted IS NULL AND w.breaches = 0
        AND w.follows IS NULL AND w.number <= p.number AND w.at_ms > :whole_after_ms AND w.at_ms <= :now_ms
        AND w.number > COALESCE((SELECT MAX(b.number) FROM proofs b WHERE b.breaches > 0), 0))
ORDER BY p.number DESC LIMIT 1

-- name: held
p.orgs IS NULL AND p.doubted IS NULL AND p.breaches = 0 AND p.proven_to_ms IS NOT NULL
