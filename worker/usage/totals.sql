-- Usage across organisations, in sums.

-- name: totals
-- `by_…`: the column to group by, or a constant instead. `of_…`: filters. `later`: the condition for the rows of a
-- later page.
WITH segments AS MATERIALIZED (
    SELECT lo, hi, start_ms, end_ms, feature, unit
    FROM {rows :segments (lo bigint, hi bigint, start_ms bigint, end_ms bigint, feature text, unit text)} r
),
zones AS MATERIALIZED (
    SELECT from_ms, to_ms, offset_ms FROM {rows :zones (from_ms bigint, to_ms bigint, offset_ms bigint)} r
),
named AS MATERIALIZED (SELECT feature, unit FROM {rows :units (feature text, unit text)} r),
taken AS (
    SELECT s.org_id, s.ts - s.ts % {window_length_ms} AS window_ms, {its_project} AS project, {its_subject} AS subject,
        s.memory_mb, SUM(s.interval_s) AS seconds
    FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id
    LEFT JOIN withdrawals w ON w.sample_id = s.id {of_event}
    WHERE s.ts >= :from_ms AND s.ts < :to_ms AND s.ts >= COALESCE(o.floor_ms, 0) AND s.problem IS NULL
        AND w.sample_id IS NULL AND s.org_id IS NOT NULL {of_org}
    GROUP BY 1, 2, 3, 4, 5
),
lines AS (
    SELECT u.org_id, u.window_ms, u.project, u.subject, COALESCE(g.feature, '') AS feature,
        CASE WHEN g.feature IS NULL AND u.memory_mb > {most_memory_mb} THEN 'units' ELSE 's' END AS plain_unit,
        CASE WHEN g.unit = 'mb_s' THEN u.memory_mb ELSE 1 END * u.seconds AS used
    FROM taken u LEFT JOIN segments g ON {in_segment} AND u.window_ms >= g.start_ms AND u.window_ms < g.end_ms
    UNION ALL
    SELECT q.org_id, q.window_ms, '', '', q.feature, 's', q.sealed_qty FROM pushes q JOIN orgs o ON o.org_id = q.org_id
    WHERE q.window_ms >= :from_ms AND q.window_ms < :to_ms AND q.window_ms < o.floor_ms AND q.state <> 'voided'
        {of_org_pushes}
    UNION ALL
    SELECT f.org_id, f.day_ms, '', '', f.feature, 's', f.sealed_qty FROM folded_pushes f
    WHERE f.day_ms >= :from_ms AND f.day_ms < :to_ms AND f.state <> 'voided' {of_org_sums}
)
SELECT * FROM (
    SELECT {by_org} AS org_id, {by_feature} AS feature, COALESCE(n.unit, l.plain_unit) AS unit,
        {by_project} AS project, {by_subject} AS subject, {by_period} AS local_ms, {by_offset} AS offset_ms,
        SUM(l.used) AS used
    FROM lines l JOIN zones z ON l.window_ms >= z.from_ms AND l.window_ms < z.to_ms
    LEFT JOIN named n ON n.feature = l.feature
    WHERE l.used <> 0 {of_feature} {of_project} {of_subject}
    GROUP BY 1, 2, 3, 4, 5, 6, 7
) t {later}
ORDER BY org_id, feature, unit, project, subject, local_ms, offset_ms LIMIT :at_most

-- name: after_place
WHERE (org_id, feature, unit, project, subject, local_ms, offset_ms) > (:after_org_id, :after_feature, :after_unit,
    :after_project, :after_subject, :after_local_ms, :after_offset_ms)

-- name: with_event
LEFT JOIN usage_events e ON e.sample_id = s.id

-- name: no_label
CAST('' AS TEXT)

-- name: project_of
COALESCE(e.project, '')

-- name: subject_of
COALESCE(e.subject, '')

-- name: its_org
l.org_id

-- name: its_feature
l.feature

-- name: said_project
l.project

-- name: said_subject
l.subject

-- name: no_period
CAST(0 AS BIGINT)

-- name: its_day
l.window_ms + z.offset_ms - (l.window_ms + z.offset_ms) % 86400000

-- name: its_hour
l.window_ms + z.offset_ms - (l.window_ms + z.offset_ms) % 3600000

-- name: its_offset
z.offset_ms

-- name: one_org
AND s.org_id = :org_id

-- name: one_org_pushes
AND q.org_id = :org_id

-- name: one_org_sums
AND f.org_id = :org_id

-- name: one_feature
AND l.feature = :feature

-- name: one_project
AND l.project = :project

-- name: one_subject
AND l.subject = :subject

-- name: folded
SELECT 1 FROM folded_pushes f WHERE f.day_ms >= :begin_ms AND f.day_ms < :end_ms AND {which} {of_org} LIMIT 1

-- name: these_days
f.day_ms IN :days

-- name: any_day
f.state <> 'voided'
