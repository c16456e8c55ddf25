-- Usage against sealed and pending quantities (invariants 1 and 9).
--
-- Guarantee: the statement reads only raw tables, and is separate from the seal. Withdrawn samples are excluded by
-- their ids. The mapping is resolved for each size and time of change. A push is void if `voids` has it.
--
-- A seal may have read the samples that arrived at or after its bucket's cursor, or not yet. On PostgreSQL, the same
-- applies to samples before the cursor, if their transactions were open when the seal read. So the sealed quantity must
-- be between the usage without these samples and the usage with them. Without such samples, both are equal. A dirty
-- window is not settled before the next tick, or before a person resumes its organisation. In such a window, the sealed
-- quantity is at most the sum of all samples, including withdrawn ones, unless a push was adopted.

-- name: usage
-- Each row is a breach: its kind in `what` (findings.py), numbers n1 to n5 and texts t1 and t2. One row counts the
-- examined rows.
WITH {placed},
{used},
{meaning},
{owed},
{waiting}
SELECT 'counted' AS what, '' AS org_id, 0 AS window_ms, '' AS feature, COALESCE(SUM(samples), 0) AS n1,
    COALESCE(SUM(new_samples), 0) AS n2, (SELECT COUNT(*) FROM (SELECT DISTINCT org_id, window_ms FROM used) w) AS n3,
    0 AS n4, 0 AS n5, '' AS t1, '' AS t2
FROM used
UNION ALL
SELECT 'unbilled_usage', q.org_id, q.window_ms, q.feature, CASE WHEN q.sealed > q.total THEN q.total ELSE q.total - q.fresh END,
    q.sealed, 0, 0, 0, '', ''
FROM owed q JOIN placed o ON o.org_id = q.org_id AND q.window_ms >= o.floor_ms AND q.window_ms < o.watermark_ms
WHERE (q.sealed > q.total OR q.sealed < q.total - q.fresh) AND {clean} AND EXISTS (
    SELECT 1 FROM assignments a WHERE {assigned} AND a.provider IN (SELECT provider FROM declared)
        AND a.customer_id <> '' AND a.provider NOT IN {unbilled})
UNION ALL
SELECT 'missing_samples', q.org_id, q.window_ms, q.feature, q.ever, q.sealed, 0, 0, 0, '', ''
FROM owed q JOIN placed o ON o.org_id = q.org_id AND q.window_ms >= o.floor_ms AND q.window_ms < o.watermark_ms
WHERE q.sealed > q.ever AND NOT {clean} AND NOT EXISTS (SELECT 1 FROM adoptions x
    WHERE x.org_id = q.org_id AND x.window_ms = q.window_ms AND x.feature = q.feature)
UNION ALL
SELECT 'pending_usage_sum', q.org_id, q.window_ms, '', q.memory_mb, q.seconds, q.samples, q.kept_seconds, q.kept_samples,
    q.wanted, q.kept
FROM waiting q
WHERE (q.kept_seconds > q.seconds OR q.kept_seconds < q.seconds - q.new_seconds OR q.kept_samples > q.samples
    OR q.kept_samples < q.samples - q.new_samples OR ({other_reason})) AND {clean}
UNION ALL
SELECT 'samples_without_org', u.org_id, MIN(u.window_ms), '', SUM(u.samples - u.new_samples), 0, 0, 0, 0, '', ''
FROM used u LEFT JOIN placed o ON o.org_id = u.org_id
WHERE o.org_id IS NULL AND u.window_ms < (SELECT watermark_ms FROM earliest)
GROUP BY u.org_id HAVING SUM(u.samples - u.new_samples) > 0

-- name: of_chosen
-- The rows of the statement for the chosen organisations.
SELECT found.* FROM ({finding}) found WHERE found.what = 'counted' OR found.org_id IN {chosen}

-- name: chosen
(SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: of_orgs
o.org_id IN {chosen}

-- name: of_samples
s.org_id IN {chosen}

-- name: of_pushes
p.org_id IN {chosen}

-- name: every_org
-- Instead of the three above, for all organisations.
1 = 1

-- name: proven_samples
usage_samples

-- name: samples_since
-- A continued run checks only the samples from :since_ms on.
(SELECT * FROM usage_samples WHERE ts >= :since_ms)

-- name: proven_pushes
pushes

-- name: pushes_since
(SELECT * FROM pushes WHERE window_ms >= :since_ms)

-- name: proven_pending
pending_usage

-- name: pending_since
(SELECT * FROM pending_usage WHERE window_ms >= :since_ms)

-- name: placed
-- Each organisation with its watermark and cursor. For an unknown organisation, use the lowest watermark and the lowest
-- cursor of all buckets.
placed AS (
    SELECT o.org_id, o.floor_ms, o.registered, b.cursor, b.in_flight,
        COALESCE(o.held_watermark_ms, b.watermark_ms) AS watermark_ms
    FROM orgs o JOIN buckets b ON b.id = o.bucket WHERE {of_orgs}
),
declared AS (SELECT provider FROM provider_states WHERE terms IS NOT NULL),
earliest AS (SELECT MIN(cursor) AS cursor, {in_flight} AS in_flight, MIN(watermark_ms) AS watermark_ms FROM buckets)

-- name: used
-- Samples in force for each (organisation, window, memory size). `new_…` counts only those that arrived at or after the
-- cursor, or were in flight. SQLite keeps the order of a CROSS JOIN, so it reads the few withdrawals, and looks up
-- their samples by id.
used AS MATERIALIZED (
    SELECT org_id, window_ms, memory_mb, SUM(seconds) AS seconds, SUM(samples) AS samples,
        SUM(new_seconds) AS new_seconds, SUM(new_samples) AS new_samples, SUM(taken) AS taken
    FROM (
        SELECT s.org_id, {window} AS window_ms, s.memory_mb, s.interval_s AS seconds, 1 AS samples,
            0 AS new_seconds, 0 AS new_samples, 0 AS taken
        FROM {proven_samples} s WHERE s.problem IS NULL AND {of_samples}
        UNION ALL
        SELECT s.org_id, {window}, s.memory_mb, 0, 0, s.interval_s, 1, 0
        FROM {proven_samples} s LEFT JOIN placed o ON o.org_id = s.org_id
        WHERE (s.arrival >= (SELECT cursor FROM earliest) OR {in_flight_somewhere})
            AND (s.arrival >= COALESCE(o.cursor, 0) OR {in_flight_there}) AND s.problem IS NULL AND {of_samples}
        UNION ALL
        SELECT s.org_id, {window}, s.memory_mb, -s.interval_s, -1,
            CASE WHEN s.arrival >= COALESCE(o.cursor, e.cursor) OR {in_flight_there} THEN -s.interval_s ELSE 0 END,
            CASE WHEN s.arrival >= COALESCE(o.cursor, e.cursor) OR {in_flight_there} THEN -1 ELSE 0 END, s.interval_s
        FROM withdrawals w CROSS JOIN {proven_samples} s CROSS JOIN earliest e LEFT JOIN placed o ON o.org_id = s.org_id
        WHERE s.id = w.sample_id AND s.problem IS NULL AND {of_samples}
    ) observed GROUP BY org_id, window_ms, memory_mb
)

-- name: window
s.ts - s.ts % {window_length_ms}

-- name: in_flight [postgresql]
-- Transactions that a seal could not see because they were open. SQLite does not need them, because it has one writer
-- at a time.
ARRAY(SELECT DISTINCT unnest(in_flight) FROM buckets)

-- name: in_flight [sqlite]
''

-- name: in_flight_somewhere [postgresql]
s.arrival = ANY (CAST((SELECT in_flight FROM earliest) AS bigint[]))

-- name: in_flight_somewhere [sqlite]
1 = 0

-- name: in_flight_there [postgresql]
s.arrival = ANY (COALESCE(o.in_flight, (SELECT in_flight FROM earliest)))

-- name: in_flight_there [sqlite]
1 = 0

-- name: meaning
-- The feature of each size between two changes of the mapping (rule S5). For each selector, the row with the latest
-- start is in force. A row without a feature ends the selector. An exact size takes precedence over tiers. Among tiers
-- that include the size, the smallest takes precedence, and the open top comes last. A meter has only its own rows, and
-- each row applies until the next.
of_sizes AS MATERIALIZED (SELECT * FROM mappings WHERE memory_mb IS NULL OR memory_mb <= {most_memory_mb}),
spans AS (
    SELECT start_ms, LEAD(start_ms) OVER (ORDER BY start_ms) AS end_ms FROM (SELECT DISTINCT start_ms FROM of_sizes) t
),
live AS MATERIALIZED (
    SELECT t.start_ms, m.mapping_id, m.kind, m.memory_mb
    FROM spans t JOIN of_sizes m ON m.start_ms <= t.start_ms
    WHERE m.feature IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM of_sizes n WHERE n.kind = m.kind AND COALESCE(n.memory_mb, -1) = COALESCE(m.memory_mb, -1)
            AND n.start_ms <= t.start_ms
            AND (n.start_ms > m.start_ms OR (n.start_ms = m.start_ms AND n.mapping_id > m.mapping_id)))
),
chosen AS (
    SELECT z.memory_mb, t.start_ms, t.end_ms, (
        SELECT l.mapping_id FROM live l WHERE l.start_ms = t.start_ms AND ((l.kind = 'exact'
            AND l.memory_mb = z.memory_mb) OR (l.kind = 'up_to' AND COALESCE(l.memory_mb, z.memory_mb) >= z.memory_mb))
        ORDER BY CASE WHEN l.kind = 'exact' THEN 0 WHEN l.memory_mb IS NOT NULL THEN 1 ELSE 2 END, l.memory_mb LIMIT 1
    ) AS mapping_id
    FROM (SELECT DISTINCT memory_mb FROM used WHERE memory_mb <= {most_memory_mb}) z CROSS JOIN spans t
),
of_meters AS (
    SELECT m.memory_mb, m.start_ms, LEAD(m.start_ms) OVER (PARTITION BY m.memory_mb ORDER BY m.start_ms) AS end_ms,
        m.feature
    FROM mappings m JOIN (
        SELECT memory_mb, start_ms, MAX(mapping_id) AS mapping_id FROM mappings
        WHERE memory_mb > {most_memory_mb} GROUP BY memory_mb, start_ms) l ON l.mapping_id = m.mapping_id
),
meaning AS MATERIALIZED (
    SELECT c.memory_mb, c.start_ms, COALESCE(c.end_ms, 9000000000000000) AS end_ms, m.feature,
        CASE WHEN m.unit = 'mb_s' THEN c.memory_mb ELSE 1 END AS factor
    FROM chosen c JOIN mappings m ON m.mapping_id = c.mapping_id
    UNION ALL
    SELECT memory_mb, start_ms, COALESCE(end_ms, 9000000000000000), feature, 1 FROM of_meters WHERE feature IS NOT NULL
)

-- name: meant
-- The feature of the size of usage `u` in its window.
m.memory_mb = u.memory_mb AND u.window_ms >= m.start_ms AND u.window_ms < m.end_ms

-- name: owed
owed AS (
    SELECT org_id, window_ms, feature, {sums}
    FROM (
        SELECT u.org_id, u.window_ms, m.feature, u.seconds * m.factor AS total, u.new_seconds * m.factor AS fresh,
            0 AS sealed, (u.seconds + u.taken) * m.factor AS ever
        FROM used u JOIN meaning m ON {meant}
        UNION ALL
        SELECT p.org_id, p.window_ms, p.feature, 0, 0, p.sealed_qty, 0
        FROM {proven_pushes} p LEFT JOIN voids v ON v.window_ms = p.window_ms AND v.org_id = p.org_id
            AND v.feature = p.feature AND v.revision = p.revision
        WHERE v.org_id IS NULL AND {of_pushes}
    ) sides GROUP BY org_id, window_ms, feature
)

-- name: sums [postgresql]
SUM(total) AS total, SUM(fresh) AS fresh, SUM(sealed) AS sealed, SUM(ever) AS ever

-- name: sums [sqlite]
-- SQLite's SUM fails on an overflow, which one bad organisation can cause. Parts of the sum do not overflow.
(SUM(total / 1000000) * 1000000 + SUM(total % 1000000)) AS total,
(SUM(fresh / 1000000) * 1000000 + SUM(fresh % 1000000)) AS fresh,
(SUM(sealed / 1000000) * 1000000 + SUM(sealed % 1000000)) AS sealed,
(SUM(ever / 1000000) * 1000000 + SUM(ever % 1000000)) AS ever

-- name: waiting
waiting AS (
    SELECT org_id, window_ms, memory_mb, MAX(wanted) AS wanted, MAX(kept) AS kept, SUM(seconds) AS seconds,
        SUM(new_seconds) AS new_seconds, SUM(samples) AS samples, SUM(new_samples) AS new_samples,
        SUM(kept_seconds) AS kept_seconds, SUM(kept_samples) AS kept_samples
    FROM (
        SELECT u.org_id, u.window_ms, u.memory_mb, CASE
                WHEN a.org_id IS NOT NULL AND m.memory_mb IS NULL THEN 'no_mapping'
                WHEN a.customer_id = '' THEN 'no_customer' WHEN a.org_id IS NOT NULL THEN 'no_provider'
                WHEN o.registered THEN 'no_assignment'
                ELSE 'unknown_org' END AS wanted, '' AS kept,
            u.seconds, u.new_seconds, u.samples, u.new_samples, 0 AS kept_seconds, 0 AS kept_samples
        FROM used u JOIN placed o ON o.org_id = u.org_id AND u.window_ms >= o.floor_ms AND u.window_ms < o.watermark_ms
        LEFT JOIN assignments a ON a.org_id = u.org_id AND a.start_ms <= u.window_ms
            AND (a.end_ms IS NULL OR u.window_ms < a.end_ms)
        LEFT JOIN meaning m ON {meant}
        WHERE a.org_id IS NULL OR (a.provider NOT IN {unbilled}
            AND (m.memory_mb IS NULL OR a.customer_id = '' OR a.provider NOT IN (SELECT provider FROM declared)))
        UNION ALL
        SELECT p.org_id, p.window_ms, p.memory_mb, '', p.reason, 0, 0, 0, 0, p.seconds, p.samples
        FROM {proven_pending} p LEFT JOIN placed o ON o.org_id = p.org_id
        WHERE (o.org_id IS NULL OR p.window_ms < o.watermark_ms) AND {of_pushes}
    ) sides GROUP BY org_id, window_ms, memory_mb
)

-- name: assigned
-- The assignment in force in the window of `q`.
a.org_id = q.org_id AND a.start_ms <= q.window_ms AND (a.end_ms IS NULL OR q.window_ms < a.end_ms)

-- name: clean
NOT EXISTS (SELECT 1 FROM dirty_windows d WHERE d.org_id = q.org_id AND d.window_ms = q.window_ms)

-- name: other_reason
-- The reason may be old. If an unknown organisation is registered later, its pending usage keeps the reason.
q.wanted <> '' AND q.kept <> '' AND q.kept <> q.wanted AND NOT (q.kept = 'unknown_org' AND q.wanted = 'no_assignment')
