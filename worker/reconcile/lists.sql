-- Results of the last comparisons with providers.

-- name: columns
k.day_ms, k.org_id, k.provider, k.customer_id, k.feature, k.ours_qty, k.theirs_qty, k.verdict, k.at_ms

-- name: differing
-- By the index of differing lines. The condition on the verdict repeats that of the index.
SELECT {columns} FROM reconciliations k
WHERE k.verdict IN ('short', 'over') AND (:verdict = '' OR k.verdict = :verdict)
    AND (:provider = '' OR k.provider = :provider) AND (:org_id = '' OR k.org_id = :org_id)
ORDER BY k.day_ms DESC, k.org_id, k.provider, k.customer_id, k.feature LIMIT :at_most

-- name: of_days
SELECT {columns} FROM reconciliations k
WHERE k.day_ms >= :from_ms AND k.day_ms < :to_ms
    AND (:provider = '' OR k.provider = :provider) AND (:org_id = '' OR k.org_id = :org_id)
ORDER BY CASE WHEN k.verdict IN ('short', 'over') THEN 0 ELSE 1 END,
    k.day_ms DESC, k.org_id, k.provider, k.customer_id, k.feature LIMIT :at_most

-- name: page
-- The latest days first. `behind`: the condition for lines after the page before, or an always true condition.
SELECT {columns} FROM reconciliations k
WHERE {behind} AND (:provider = '' OR k.provider = :provider) AND (:org_id = '' OR k.org_id = :org_id)
    AND k.verdict IN :verdicts
ORDER BY k.day_ms DESC, k.org_id DESC, k.provider DESC, k.customer_id DESC, k.feature DESC LIMIT :at_most

-- name: from_the_start
1 = 1

-- name: from_there
(k.day_ms, k.org_id, k.provider, k.customer_id, k.feature)
    < (:after_day_ms, :after_org, :after_provider, :after_customer, :after_feature)

-- name: runs
-- The times of the last comparisons. Each time is looked up from the next later time, so that the lines between are not
-- read.
WITH RECURSIVE moments (at_ms, number) AS (
    SELECT MAX(k.at_ms), 1 FROM reconciliations k
    UNION ALL
    SELECT (SELECT MAX(k.at_ms) FROM reconciliations k WHERE k.at_ms < m.at_ms), m.number + 1 FROM moments m
    WHERE m.at_ms IS NOT NULL AND m.number < :at_most
)
SELECT m.at_ms,
    (SELECT COUNT(*) FROM (SELECT 1 FROM reconciliations k WHERE k.at_ms = m.at_ms LIMIT :counted) c) AS lines,
    (SELECT COUNT(*) FROM (SELECT 1 FROM reconciliations k WHERE k.at_ms = m.at_ms
        AND k.verdict IN ('short', 'over') LIMIT :counted) d) AS differing
FROM moments m WHERE m.at_ms IS NOT NULL ORDER BY m.at_ms DESC

-- name: told
-- The unacknowledged reports on differences of balances.
SELECT b.provider, b.customer_id, b.feature, b.org_id, b.told_qty, b.told_ms, b.scale, b.unsure_qty
FROM balance_marks b
WHERE (b.told_qty <> 0 OR b.unsure_qty <> 0) ORDER BY b.told_ms DESC, b.customer_id, b.feature LIMIT :at_most

-- Missing comparisons. One row for each provider.

-- name: needs_person
m.open_days > 0 AND m.said LIKE :needs_you

-- name: is_left_out
(m.open_days = 0 AND m.open_since_ms IS NOT NULL)

-- name: uncompared
-- A provider can be late only if it still bills an organisation, and was compared before.
SELECT m.provider, COALESCE(SUM(m.open_days), 0) AS open_days,
    MIN(CASE WHEN m.open_days > 0 THEN m.open_since_ms END) AS open_since_ms,
    MAX(CASE WHEN m.customer_id = '' THEN m.compared_ms END) AS compared_ms,
    MAX(CASE WHEN m.open_days > 0 THEN m.customer_id || ': ' || m.said ELSE '' END) AS said,
    SUM(CASE WHEN {needs_person} THEN 1 ELSE 0 END) AS for_person,
    MAX(CASE WHEN {needs_person} THEN m.customer_id || ': ' || m.said ELSE '' END) AS said_to_person,
    MAX(CASE WHEN m.customer_id = '' AND m.compared_ms < :late_ms AND EXISTS (SELECT 1 FROM assignments a
        WHERE a.provider = m.provider AND a.end_ms IS NULL) THEN 1 ELSE 0 END) AS is_late,
    SUM(CASE WHEN {is_left_out} THEN 1 ELSE 0 END) AS balances,
    MIN(CASE WHEN {is_left_out} THEN m.open_since_ms END) AS balances_since_ms,
    MAX(CASE WHEN {is_left_out} THEN m.customer_id || ': ' || m.said ELSE '' END) AS said_of_balance
FROM compared_marks m GROUP BY m.provider ORDER BY m.provider
