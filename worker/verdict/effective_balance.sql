-- The parts of the effective balance: unsealed usage, and pushes that the provider's balance possibly lacks so far.
--
-- Guarantee: the statements only read. Usage is mapped as in the seal (the same segments). Only windows that are billed
-- to the present provider and customer count.

-- name: last_seals
-- The newest committed seals. There may be several, because a seal may be committed after another seal that began
-- later.
SELECT seal_id FROM seals ORDER BY seal_id DESC LIMIT 64

-- name: picked
-- The organisations to compute.
picked AS MATERIALIZED (
    SELECT o.org_id, o.floor_ms, a.customer_id, COALESCE(o.held_watermark_ms, b.watermark_ms, 0) AS sealed_to,
        CASE WHEN COALESCE(o.held_watermark_ms, b.watermark_ms, 0) < :lately_ms
            THEN COALESCE(o.held_watermark_ms, b.watermark_ms, 0) ELSE :lately_ms END AS from_ms
    FROM {billed_now} a {each_then} orgs o ON o.org_id = a.org_id AND o.org_id IN :org_ids
    LEFT JOIN buckets b ON b.id = o.bucket
)

-- name: from_dirty
FROM picked p {each_then} dirty_windows d ON d.org_id = p.org_id AND d.window_ms >= p.floor_ms
    AND d.window_ms < p.sealed_to

-- name: billed
-- The customer of each organisation, by which pushes are found.
billed AS MATERIALIZED (
    SELECT a.org_id, a.customer_id FROM {billed_now} a
)

-- name: unsealed
-- `owed`: usage that is owed and not sealed. It is whole windows at or above the watermark, and the difference in dirty
-- windows below the watermark. `lately` and `just_now`: recent use, sealed or not, for the rate of use. `unsampled`:
-- the use of running sandboxes since their last sample, if they send one every minute or more often. This use counts
-- from the arrival of the sample, for at most two intervals, because a sample may be late. After three intervals, or if
-- a halt came since, the use is 0. A sandbox that began recently and has not sent a sample counts with its size since
-- then. `a_minute`: the use of all running sandboxes in a minute, if hosts report their size.
WITH {picked},
segments (lo, hi, start_ms, end_ms, feature, unit) AS (SELECT lo, hi, start_ms, end_ms, feature, unit
    FROM {rows :segments (lo bigint, hi bigint, start_ms bigint, end_ms bigint, feature text, unit text)} r),
used AS (
    SELECT p.org_id, s.ts - s.ts % {window_length_ms} AS window_ms, s.memory_mb,
        SUM(CASE WHEN s.ts >= p.sealed_to THEN s.interval_s ELSE 0 END) AS seconds,
        SUM(CASE WHEN s.ts > :lately_ms THEN s.interval_s ELSE 0 END) AS lately,
        SUM(CASE WHEN s.ts > :just_now_ms THEN s.interval_s ELSE 0 END) AS just_now
    FROM picked p {look_up} usage_samples s {looked_up_by} s.org_id = p.org_id AND s.ts >= p.from_ms
        AND s.ts >= p.floor_ms {end_look_s}
    WHERE s.problem IS NULL GROUP BY 1, 2, 3
    UNION ALL
    SELECT p.org_id, w.ts - w.ts % {window_length_ms}, w.memory_mb, -SUM(w.interval_s), 0, 0
    FROM picked p {look_up} withdrawals w {looked_up_by} w.org_id = p.org_id AND w.ts >= p.sealed_to {end_look_w}
    GROUP BY 1, 2, 3
    UNION ALL
    SELECT d.org_id, d.window_ms, s.memory_mb, SUM(s.interval_s), 0, 0
    {from_dirty} {look_up} usage_samples s {looked_up_by} s.org_id = d.org_id AND s.ts >= d.window_ms
        AND s.ts < d.window_ms + {window_length_ms} AND s.problem IS NULL {end_look_s} GROUP BY 1, 2, 3
    UNION ALL
    SELECT d.org_id, d.window_ms, w.memory_mb, -SUM(w.interval_s), 0, 0
    {from_dirty} {look_up} withdrawals w {looked_up_by} w.org_id = d.org_id AND w.ts >= d.window_ms
        AND w.ts < d.window_ms + {window_length_ms} {end_look_w} GROUP BY 1, 2, 3
),
-- Most organisations do not have recent use, so the query does not look up their sandboxes.
busy AS MATERIALIZED (
    SELECT u.org_id, COALESCE((SELECT j.at_ms FROM projections j WHERE j.org_id = u.org_id
        ORDER BY j.projection_id DESC LIMIT 1), 0) AS changed_ms
    FROM (SELECT DISTINCT org_id FROM used WHERE lately > 0) u
),
-- Sandboxes that began within minutes. PostgreSQL reads them by these organisations or by the index on recent starts,
-- SQLite by organisation. A larger `memory_mb` is the number of a meter.
begun AS MATERIALIZED (
    SELECT b.org_id, b.sandbox_id, b.memory_mb, b.since_ms FROM sandboxes b
    WHERE b.state = 'running' AND b.since_ms > :begun_ms AND b.since_ms <= :ahead_ms
        AND b.memory_mb BETWEEN 0 AND {most_memory_mb} AND b.org_id IN (SELECT p.org_id FROM picked p)
),
beginning AS MATERIALIZED (
    SELECT p.org_id, COALESCE((SELECT MAX(k.at_ms) FROM (SELECT j.at_ms, j.is_halted FROM projections j
        WHERE j.org_id = p.org_id ORDER BY j.projection_id DESC LIMIT :changes) k WHERE k.is_halted), 0) AS halted_ms
    FROM picked p WHERE p.org_id IN (SELECT org_id FROM begun)
),
newest AS MATERIALIZED (
    SELECT s.org_id, s.sandbox_id, MAX(s.ts) AS ts
    FROM beginning p {look_up} usage_samples s {looked_up_by} s.org_id = p.org_id AND s.ts > :lately_ms {end_look_s}
    WHERE s.problem IS NULL GROUP BY 1, 2
),
fresh AS MATERIALIZED (
    SELECT b.org_id, b.sandbox_id, b.memory_mb, b.since_ms
    FROM begun b JOIN beginning p ON p.org_id = b.org_id AND b.since_ms > p.halted_ms
    LEFT JOIN newest n ON n.org_id = b.org_id AND n.sandbox_id = b.sandbox_id
    WHERE n.ts IS NULL OR n.ts < b.since_ms
),
telling AS (
    SELECT s.org_id, s.memory_mb, s.sandbox_id, MAX(s.ingested_at) AS told_ms, MAX(s.interval_s) AS every_s,
        MAX(CASE WHEN b.memory_mb = s.memory_mb THEN 60 ELSE 0 END) AS a_minute
    FROM busy p {look_up} usage_samples s {looked_up_by} s.org_id = p.org_id AND s.ts > :lately_ms
        AND s.ts > p.changed_ms {end_look_s}
    {each_then} sandboxes b ON b.sandbox_id = s.sandbox_id AND b.org_id = s.org_id AND b.state = 'running'
    WHERE s.problem IS NULL AND b.sandbox_id NOT IN (SELECT sandbox_id FROM fresh) GROUP BY 1, 2, 3
),
going AS (
    SELECT t.org_id, t.memory_mb, CASE WHEN t.told_ms + 3000 * t.every_s < :now_ms OR t.told_ms > :now_ms THEN 0
            WHEN t.told_ms + 2000 * t.every_s < :now_ms THEN 2 * t.every_s ELSE (:now_ms - t.told_ms) / 1000 END
            AS seconds,
        CASE WHEN t.told_ms + 3000 * t.every_s < :now_ms OR t.told_ms > :now_ms THEN 0 ELSE t.a_minute END AS a_minute
    FROM telling t WHERE t.every_s <= 60
    UNION ALL
    SELECT f.org_id, f.memory_mb, CASE WHEN f.since_ms > :now_ms THEN 0
            WHEN f.since_ms + 1000 * :unsampled_s < :now_ms THEN :unsampled_s ELSE (:now_ms - f.since_ms) / 1000 END, 60
    FROM fresh f
),
both_sides AS MATERIALIZED (
    SELECT u.org_id, u.window_ms, g.feature, CASE WHEN g.unit = 'mb_s' THEN u.memory_mb ELSE 1 END * u.seconds AS owed,
        CASE WHEN g.unit = 'mb_s' THEN u.memory_mb ELSE 1 END * u.lately AS lately,
        CASE WHEN g.unit = 'mb_s' THEN u.memory_mb ELSE 1 END * u.just_now AS just_now, 0 AS unsampled,
        0 AS a_minute
    FROM used u JOIN segments g ON {in_segment} AND u.window_ms >= g.start_ms
        AND u.window_ms < g.end_ms
    UNION ALL
    SELECT u.org_id, g.window_ms, g.feature, 0, 0, 0, CASE WHEN g.unit = 'mb_s' THEN u.memory_mb ELSE 1 END * u.seconds,
        CASE WHEN g.unit = 'mb_s' THEN u.memory_mb ELSE 1 END * u.a_minute
    FROM going u JOIN (SELECT s.*, :now_ms - :now_ms % {window_length_ms} AS window_ms FROM segments s) g
        ON {in_segment} AND g.window_ms >= g.start_ms AND g.window_ms < g.end_ms
    UNION ALL
    SELECT d.org_id, d.window_ms, q.feature, -q.sealed_qty, 0, 0, 0, 0
    {from_dirty} {look_up} pushes q {looked_up_by} q.org_id = d.org_id AND q.window_ms = d.window_ms
        AND q.state <> 'voided' {end_look_q}
)
SELECT q.org_id, q.window_ms, q.feature, SUM(q.owed) AS owed, SUM(q.lately) AS lately, SUM(q.just_now) AS just_now,
    SUM(q.unsampled) AS unsampled, SUM(q.a_minute) AS a_minute
FROM both_sides q {each_then} picked p ON p.org_id = q.org_id
{look_up} assignments a {looked_up_by} a.org_id = q.org_id AND a.start_ms <= q.window_ms
    AND (a.end_ms IS NULL OR q.window_ms < a.end_ms) AND a.provider = :provider AND a.customer_id = p.customer_id
    {end_look_a}
GROUP BY 1, 2, 3

-- name: unseen_pushes
-- The condition repeats that of the index on open pushes word for word. Otherwise SQLite reads all pushes. Recent sends
-- are materialized, because SQLite would otherwise read all attempts in the order of DISTINCT. They are limited to
-- these organisations, so that the query does not look up the pushes of all others.
WITH {billed},
sent AS MATERIALIZED (
    SELECT t.window_ms, t.org_id, t.feature, t.revision FROM attempts t WHERE t.started_ms >= :since_ms
        AND t.org_id IN (SELECT org_id FROM billed)
)
SELECT q.org_id, q.window_ms, q.feature, q.sent_qty, q.state, q.first_attempt_ms, q.settled_ms
FROM pushes q JOIN billed p ON p.org_id = q.org_id AND p.customer_id = q.customer_id
WHERE q.provider = :provider AND q.state IN {open_states}
UNION ALL
SELECT q.org_id, q.window_ms, q.feature, q.sent_qty, q.state, q.first_attempt_ms, q.settled_ms
FROM (SELECT DISTINCT s.window_ms, s.org_id, s.feature, s.revision FROM sent s) t
{look_up} pushes q {looked_up_by} q.window_ms = t.window_ms AND q.org_id = t.org_id AND q.feature = t.feature
    AND q.revision = t.revision {end_look_q}
JOIN billed p ON p.org_id = q.org_id AND p.customer_id = q.customer_id
WHERE q.provider = :provider AND q.state = 'accepted'

-- name: end_look_a [postgresql]
OFFSET 0) a

-- name: end_look_a [sqlite]

-- name: end_look_q [postgresql]
OFFSET 0) q

-- name: end_look_q [sqlite]

-- Usage that is not charged to a wallet here yet.

-- name: used_by
-- The organisations that are billed as a customer now and may have such usage. Such usage is above the watermark, in
-- dirty windows below the watermark, or in open pushes. Most organisations do not have such usage. `samples`: the
-- number of unsealed samples, at most `many`.
SELECT a.provider, a.org_id, COALESCE(o.held_watermark_ms, b.watermark_ms, 0) AS sealed_to,
    CASE WHEN {has_open} THEN 1 ELSE 0 END AS has_open,
    (SELECT COUNT(*) FROM (SELECT 1 FROM usage_samples s WHERE {is_unsealed} LIMIT :many) m) AS samples
FROM assignments a JOIN orgs o ON o.org_id = a.org_id
    LEFT JOIN buckets b ON b.id = o.bucket
WHERE a.customer_id = :customer_id AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)
    AND a.provider NOT IN {unbilled} AND {may_have_used}
ORDER BY a.provider, a.org_id

-- The credit of one organisation.

-- name: biller
SELECT provider FROM assignments WHERE org_id = :org_id AND customer_id <> '' AND start_ms <= :now_ms
    AND (end_ms IS NULL OR :now_ms < end_ms)

-- name: verdicts
-- The last changes of the verdict, newest first.
SELECT at_ms, read_ms, is_halted, reason, max_concurrent_sandboxes, balance_micro, unaccepted_micro, unsealed_micro,
    held_micro
FROM projections WHERE org_id = :org_id ORDER BY projection_id DESC LIMIT 10

-- name: holders
-- The executions, also of other organisations, that reserve credit of the organisation's present wallet. If the
-- provider keeps the balance (`elsewhere`), the query returns only the organisation's own executions.
SELECT r.reservation, r.amount_micro - r.drawn_micro AS left_micro, r.expires_ms
FROM reservations r JOIN assignments a ON a.customer_id = r.customer_id
WHERE a.org_id = :org_id AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)
    AND CASE WHEN :elsewhere THEN r.hold = 'local' AND r.org_id = :org_id ELSE r.hold = 'wallet' END
    AND r.state = 'held' AND r.expires_ms > :now_ms AND r.drawn_micro < r.amount_micro
ORDER BY 2 DESC, 1 LIMIT :at_most
