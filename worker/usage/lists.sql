-- An organisation's usage and its sealed part.

-- name: usage
-- `grouping`: the group. `label`: its value in a sample. `of_event`: the join for a value that only the event has.
-- `shown`: the rows besides those with usage. `of_page`: the condition for the rows of a page. The index of pushes is
-- by window and organisation, so the query reads the index once for each window.
WITH RECURSIVE windows (window_ms) AS (
    SELECT CAST(:from_ms AS BIGINT)
    UNION ALL SELECT window_ms + {window_length_ms} FROM windows WHERE window_ms + {window_length_ms} < :to_ms
),
segments AS MATERIALIZED (
    SELECT lo, hi, start_ms, end_ms, feature, unit
    FROM {rows :segments (lo bigint, hi bigint, start_ms bigint, end_ms bigint, feature text, unit text)} r
),
taken AS (
    SELECT s.ts - s.ts % {window_length_ms} AS window_ms, {label} AS label, s.memory_mb, SUM(s.interval_s) AS seconds
    FROM usage_samples s LEFT JOIN withdrawals w ON w.sample_id = s.id {of_event}
    WHERE s.org_id = :org_id AND s.ts >= :samples_from_ms AND s.ts < :to_ms AND s.problem IS NULL
        AND w.sample_id IS NULL
    GROUP BY 1, 2, 3
),
lines AS (
    SELECT u.window_ms, u.label, COALESCE(g.feature, '') AS feature,
        CASE WHEN g.unit = 'mb_s' THEN u.memory_mb ELSE 1 END * u.seconds AS used, 0 AS sealed,
        CASE WHEN g.feature IS NULL AND u.memory_mb > {most_memory_mb} THEN 1 ELSE 0 END AS of_events
    FROM taken u LEFT JOIN segments g ON {in_segment} AND u.window_ms >= g.start_ms AND u.window_ms < g.end_ms
    UNION ALL
    SELECT q.window_ms, '', q.feature, CASE WHEN q.window_ms < :floor_ms THEN q.sealed_qty ELSE 0 END, q.sealed_qty, 0
    FROM windows w {then} pushes q ON q.window_ms = w.window_ms AND q.org_id = :org_id AND q.state <> 'voided'
    UNION ALL
    SELECT f.day_ms, '', f.feature, f.sealed_qty, f.sealed_qty, 0 FROM folded_pushes f
    WHERE f.org_id = :org_id AND f.day_ms >= :from_ms AND f.day_ms < :to_ms AND f.state <> 'voided'
)
SELECT {grouping} AS what, feature, of_events, SUM(used) AS used, SUM(sealed) AS sealed FROM lines
WHERE (used <> 0 OR {shown}) {of_page} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 LIMIT :at_most

-- name: cut_days
-- The folded days that the ends of a range cut. Such days have only sums.
SELECT 1 FROM folded_pushes WHERE org_id = :org_id AND day_ms IN :days LIMIT 1

-- name: later_rows
-- The rows after the last row of the previous page, in the order of the report.
AND ({grouping} > :what OR ({grouping} = :what AND (feature > :feature OR (feature = :feature AND of_events > :of_events))))

-- name: shares
-- Usage by sandbox and project. The withdrawn samples are read once, and events only for samples that have an event.
WITH segments AS MATERIALIZED (
    SELECT lo, hi, start_ms, end_ms, feature, unit
    FROM {rows :segments (lo bigint, hi bigint, start_ms bigint, end_ms bigint, feature text, unit text)} r
),
taken AS MATERIALIZED (
    SELECT s.ts - s.ts % {window_length_ms} AS window_ms, COALESCE(s.sandbox_id, '') AS sandbox,
        COALESCE(e.project, '') AS project, s.memory_mb, SUM(s.interval_s) AS seconds
    FROM usage_samples s
    LEFT JOIN usage_events e ON e.sample_id = CASE WHEN s.memory_mb > {most_memory_mb} THEN s.id END
    WHERE s.org_id = :org_id AND s.ts >= :from_ms AND s.ts < :to_ms AND s.problem IS NULL AND s.id NOT IN (
        SELECT w.sample_id FROM withdrawals w WHERE w.org_id = :org_id AND w.ts >= :from_ms AND w.ts < :to_ms)
    GROUP BY 1, 2, 3, 4
)
SELECT u.sandbox, u.project, COALESCE(g.feature, '') AS feature,
    CASE WHEN g.feature IS NULL AND u.memory_mb > {most_memory_mb} THEN 1 ELSE 0 END AS of_events,
    SUM(CASE WHEN g.unit = 'mb_s' THEN u.memory_mb ELSE 1 END * u.seconds) AS used
FROM taken u LEFT JOIN segments g ON {in_segment} AND u.window_ms >= g.start_ms AND u.window_ms < g.end_ms
GROUP BY 1, 2, 3, 4 LIMIT :at_most

-- name: then [postgresql]
-- Join from the windows to their rows. SQLite keeps the order of a cross join. With another join, SQLite may read all
-- pushes first.
JOIN

-- name: then [sqlite]
CROSS JOIN

-- name: by_label
label

-- name: by_day
window_ms - window_ms % 86400000

-- name: no_label
CAST('' AS TEXT)

-- name: its_sandbox
COALESCE(s.sandbox_id, '')

-- name: its_project
COALESCE(e.project, '')

-- name: its_subject
COALESCE(e.subject, '')

-- name: with_event
LEFT JOIN usage_events e ON e.sample_id = s.id

-- name: all_sealed
sealed <> 0

-- name: nothing_more
-- Pushes do not have a sandbox, project or subject.
1 = 0

-- name: carried
-- The carries of an organisation. They are few, because each feature has at most one carry for each former or present
-- biller.
SELECT provider, customer_id, feature, carry_qty AS quantity FROM carries WHERE org_id = :org_id AND carry_qty <> 0
ORDER BY 1, 2, 3 LIMIT :at_most

-- Samples as they are stored.

-- name: list
SELECT s.id AS sample_id, s.org_id, s.sandbox_id,
    CASE WHEN w.sample_id IS NULL THEN NULL ELSE 'withdrawn' END AS reason,
    s.ts, s.memory_mb, s.interval_s, s.ingested_at AS came_ms, t.event_type
FROM usage_samples s LEFT JOIN withdrawals w ON w.sample_id = s.id LEFT JOIN event_types t ON t.meter = s.memory_mb
WHERE s.org_id = :org_id AND s.ts >= :from_ms AND s.ts < :to_ms AND s.problem IS NULL
ORDER BY s.ts, s.id LIMIT :at_most
