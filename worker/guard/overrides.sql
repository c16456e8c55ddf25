-- Limit overrides, which replace a plan's limit.

-- name: add
INSERT INTO guard_overrides (metric, reach, target, period, amount, ends_ms, state, at_ms, actor, reason, decided_ms,
    decided_by, decided_reason)
VALUES (:metric, :reach, :target, :period, :amount, :ends_ms, :state, :at_ms, :actor, :reason, :decided_ms, :decided_by,
    :decided_reason)
RETURNING number

-- name: columns
number, metric, reach, target, period, amount, ends_ms, state, at_ms, actor, reason, decided_ms, decided_by,
    decided_reason

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: same
-- The limit override in force that the same actor made or requested with the same terms. If the call requests a limit
-- override (`asked`), a waiting limit override counts, too. A limit override that is replaced by a newer limit override
-- in force does not count.
SELECT {columns} FROM guard_overrides o WHERE metric = :metric AND reach = :reach AND target = :target
    AND period = :period AND COALESCE(amount, -1) = COALESCE(CAST(:amount AS BIGINT), -1)
    AND COALESCE(ends_ms, -1) = COALESCE(CAST(:ends_ms AS BIGINT), -1) AND actor = :actor
    AND (state = 'in_force' OR (state = 'asked' AND :asked = 1)) AND NOT EXISTS (SELECT 1 {newer})
ORDER BY number LIMIT 1

-- name: newer
-- The limit overrides in force with the metric, target and period of `o`, and a higher number. The highest decides.
FROM guard_overrides n WHERE n.state = 'in_force' AND n.metric = o.metric AND n.reach = o.reach AND n.target = o.target
    AND n.period = o.period AND n.number > o.number AND (n.ends_ms IS NULL OR n.ends_ms > :now_ms)

-- name: replaced_by
SELECT (SELECT MAX(n.number) {newer}) FROM guard_overrides o WHERE o.number = :number

-- name: asked_for
-- The limit overrides that wait for a decision. After its end, a limit override cannot be approved, and does not count.
SELECT COUNT(*) FROM guard_overrides WHERE state = 'asked' AND metric = :metric AND reach = :reach AND target = :target
    AND (ends_ms IS NULL OR ends_ms > :now_ms)

-- name: read
SELECT {columns} FROM guard_overrides WHERE number = :number {for_update}

-- name: is_there
SELECT 1 FROM guard_overrides WHERE number = :number

-- name: decide
UPDATE guard_overrides SET state = :state, decided_ms = :decided_ms, decided_by = :decided_by,
    decided_reason = :decided_reason
WHERE number = :number

-- name: list
-- Without `everything`, the result has only limit overrides before their end that are requested or in force.
-- With `everything`, a caller shows a limit override past its end as over.
SELECT {columns} FROM guard_overrides
WHERE (:everything = 1 OR (state IN ('asked', 'in_force') AND (ends_ms IS NULL OR ends_ms > :now_ms)))
    AND (:metric = '' OR metric = :metric) AND (:org_id = '' OR (reach = 'org' AND target = :org_id)) AND (CAST(:before_ms AS BIGINT) IS NULL OR ends_ms <= :before_ms)
    AND (:state = '' OR state = :state) AND (:after = 0 OR (COALESCE(ends_ms, 9223372036854775807), number) > (
        SELECT COALESCE(x.ends_ms, 9223372036854775807), x.number FROM guard_overrides x WHERE x.number = :after))
ORDER BY CASE WHEN state = 'asked' THEN 0 ELSE 1 END, COALESCE(ends_ms, 9223372036854775807), number LIMIT :at_most
