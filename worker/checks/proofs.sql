-- What verify found is kept.

-- name: add
INSERT INTO proofs (at_ms, took_ms, orgs, breaches, by_invariant, checked, open, newest_action, doubted, actor, reason)
VALUES (:at_ms, :took_ms, :orgs, :breaches, :by_invariant, :checked, :open, :newest_action, :doubted, :actor, :reason)
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
