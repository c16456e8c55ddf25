-- Watermarks, cursors, floors, halts and verdicts (invariants 4, 7 and 8), and the counts of checked rows.
--
-- Guarantee: the statements read only raw tables, and are separate from the worker's, so that one mistake cannot hide
-- in both. Each row is a breach: its kind in `what` (findings.py), the organisation, window and feature, and the
-- numbers for the text.

-- name: of_chosen
-- The findings of a statement for the chosen organisations.
SELECT found.* FROM ({finding}) found WHERE found.org_id IN {chosen}

-- name: chosen
(SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: proven_pushes
pushes

-- name: pushes_since
-- A continued run checks only the pushes from :since_ms on.
(SELECT * FROM pushes WHERE window_ms >= :since_ms)

-- name: proven_attempts
attempts

-- name: attempts_since
(SELECT * FROM attempts WHERE window_ms >= :since_ms)

-- name: proven_entries
ledger_entries

-- name: entries_since
(SELECT * FROM ledger_entries WHERE ts >= :since_ms)

-- name: no_window
-- Use these columns for a breach without a window and feature.
CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: placed
-- The organisation and the bucket of `p`.
JOIN orgs o ON o.org_id = p.org_id JOIN buckets b ON b.id = o.bucket

-- name: reached
COALESCE(o.held_watermark_ms, b.watermark_ms)

-- name: above
-- Invariant 4. Sealed and pending windows are below the watermark, which only grows.
SELECT 'push_above_watermark' AS what, p.org_id, p.window_ms, p.feature, p.key, {reached} AS watermark_ms
FROM {proven_pushes} p {placed} WHERE p.window_ms >= {reached}

-- name: pending_above
SELECT 'pending_above_watermark' AS what, p.org_id, p.window_ms, CAST(NULL AS TEXT) AS feature, p.memory_mb,
    {reached} AS watermark_ms
FROM pending_usage p {placed} WHERE p.window_ms >= {reached}

-- name: floor
SELECT 'floor_above_watermark' AS what, o.org_id, {no_window}, o.floor_ms, {reached} AS watermark_ms
FROM orgs o JOIN buckets b ON b.id = o.bucket WHERE o.floor_ms > {reached}

-- name: floored
-- Only pruning raises floors, and the audit log records the new floor. A floor above it closed windows, and their
-- unbilled samples may be lost.
SELECT 'floor_audit_mismatch' AS what, p.org_id, {no_window}, p.floor_ms, q.pruned_ms FROM orgs p CROSS JOIN (
    SELECT MAX(CAST({said_before} AS BIGINT)) AS pruned_ms FROM operator_actions a WHERE a.action = 'sample_prune'
) q WHERE p.floor_ms > COALESCE(q.pruned_ms, 0)

-- name: said_before [postgresql]
-- The values in a person's action `a`.
(CAST(a.details AS json) ->> 'before_ms')

-- name: said_before [sqlite]
json_extract(a.details, '$.before_ms')

-- name: folded_above
-- A push is folded only below the floor, because above it the next seal would bill its usage again. The month must be
-- one that a person chose.
SELECT 'fold_above_floor' AS what, f.org_id, f.day_ms AS window_ms, f.feature, f.pushes, o.floor_ms, q.folded_ms
FROM folded_pushes f LEFT JOIN orgs o ON o.org_id = f.org_id CROSS JOIN (
    SELECT MAX(CAST({said_before} AS BIGINT)) AS folded_ms FROM operator_actions a WHERE a.action = 'push_fold'
) q WHERE f.day_ms + 86400000 > COALESCE(o.floor_ms, 0) OR f.day_ms + 86400000 > COALESCE(q.folded_ms, 0)

-- name: refloored
SELECT 'floor_regression' AS what, s.org_id, s.ts - s.ts % {window_length_ms} AS window_ms, CAST(NULL AS TEXT) AS feature,
    q.sample_id, o.floor_ms
FROM late_quarantine q CROSS JOIN usage_samples s JOIN orgs o ON o.org_id = s.org_id
WHERE s.id = q.sample_id AND s.ts >= o.floor_ms

-- name: marks
-- Seals record watermarks and cursors. A recorded `recover` starts another epoch. Within an epoch, a bucket's watermark
-- and cursor are never behind the recorded ones.
FROM (
    SELECT b.id, b.watermark_ms, b.cursor, MAX(s.horizon_ms) AS horizon_ms, MAX(s.cursor) AS reached
    FROM buckets b JOIN (
        SELECT bucket_lo, bucket_hi, epoch, MAX(horizon_ms) AS horizon_ms, MAX(cursor) AS cursor
        FROM seals GROUP BY bucket_lo, bucket_hi, epoch
    ) s ON b.id BETWEEN s.bucket_lo AND s.bucket_hi AND s.epoch = b.epoch
    GROUP BY b.id, b.watermark_ms, b.cursor
) m LEFT JOIN orgs o ON o.bucket = m.id

-- name: watermark
SELECT 'watermark_regression' AS what, o.org_id, {no_window}, m.id AS bucket, m.horizon_ms AS had, m.watermark_ms AS has
{marks} WHERE m.horizon_ms > m.watermark_ms

-- name: ahead
-- Only a seal moves a watermark. Replays and sweeps write seals with horizon 0, and `recover` does not move it.
SELECT 'watermark_ahead' AS what, o.org_id, {no_window}, m.id AS bucket, m.reached AS had, m.watermark_ms AS has
FROM (
    SELECT b.id, b.watermark_ms, MAX(s.horizon_ms) AS reached FROM buckets b LEFT JOIN (
        SELECT bucket_lo, bucket_hi, MAX(horizon_ms) AS horizon_ms FROM seals GROUP BY bucket_lo, bucket_hi
    ) s ON b.id BETWEEN s.bucket_lo AND s.bucket_hi GROUP BY b.id, b.watermark_ms
) m LEFT JOIN orgs o ON o.bucket = m.id WHERE m.watermark_ms > COALESCE(m.reached, 0)

-- name: cursor
SELECT 'cursor_regression' AS what, o.org_id, {no_window}, m.id AS bucket, m.reached AS had, m.cursor AS has
{marks} WHERE m.reached > m.cursor

-- name: cursor_order
SELECT 'cursor_order' AS what, o.org_id, {no_window}, q.seal_id, q.bucket_lo, q.bucket_hi, q.before AS had,
    q.cursor AS has
FROM (
    SELECT seal_id, bucket_lo, bucket_hi, cursor,
        LAG(cursor) OVER (PARTITION BY bucket_lo, bucket_hi, epoch ORDER BY seal_id) AS before
    FROM seals
) q LEFT JOIN orgs o ON o.bucket BETWEEN q.bucket_lo AND q.bucket_hi WHERE q.cursor < q.before

-- name: beyond
SELECT 'cursor_ahead' AS what, o.org_id, {no_window}, b.id AS bucket, b.cursor AS has, n.newest
FROM buckets b CROSS JOIN (SELECT {newest} AS newest) n LEFT JOIN orgs o ON o.bucket = b.id WHERE b.cursor > n.newest

-- name: newest [postgresql]
-- The value of the database's own counter of arrivals.
pg_snapshot_xmax(pg_current_snapshot())::text::bigint

-- name: newest [sqlite]
COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'usage_samples'), 0) + 1

-- name: swept_ahead
-- A sweep reaches at most the watermark, and began before now. A day more allows for clocks.
SELECT 'sweep_ahead' AS what, o.org_id, {no_window}, b.id AS bucket, b.sweep_next_ms, b.sweep_began_ms, b.watermark_ms
FROM buckets b LEFT JOIN orgs o ON o.bucket = b.id
WHERE b.sweep_next_ms > b.watermark_ms OR b.sweep_began_ms > CAST(:now_ms AS BIGINT) + 86400000

-- name: stopped_unrecorded
-- An organisation is stopped if, and only if, the last stop or resume in the audit log is a stop.
SELECT CASE WHEN o.stopped_at_ms IS NULL THEN 'resume_audit_mismatch' ELSE 'stop_audit_mismatch' END AS what, o.org_id, {no_window},
    o.stopped_at_ms, q.action, q.at_ms
FROM orgs o LEFT JOIN (
    SELECT a.target, a.action, a.at_ms, ROW_NUMBER() OVER (PARTITION BY a.target ORDER BY a.action_id DESC) AS back
    FROM operator_actions a WHERE a.action IN ('org_stop', 'org_resume')
) q ON q.target = o.org_id AND q.back = 1
WHERE (o.stopped_at_ms IS NOT NULL) <> (COALESCE(q.action, '') = 'org_stop')

-- name: no_halt
-- Invariant 7. If a sandbox of a halted organisation is not stopped, there is a halt for its cell.
SELECT DISTINCT 'missing_halt' AS what, o.org_id, {no_window}, s.cell_id, o.halted_at
FROM orgs o JOIN sandboxes s ON s.org_id = o.org_id AND s.state <> 'stopped'
LEFT JOIN halts h ON h.org_id = s.org_id AND h.cell_id = s.cell_id AND h.halted_at = o.halted_at
WHERE o.is_halted AND (h.org_id IS NULL OR (h.due_at_ms IS NULL AND h.acked_at_ms IS NULL))

-- name: halt_waits
-- Drawdown retries a halt within a minute. The limit of a day allows for clocks.
SELECT 'halt_wait' AS what, h.org_id, {no_window}, h.cell_id, h.due_at_ms, CAST(:now_ms AS BIGINT) AS moment_ms
FROM halts h WHERE h.due_at_ms > CAST(:now_ms AS BIGINT) + 86400000

-- name: half_halted
SELECT 'halt_time' AS what, o.org_id, {no_window}, o.is_halted, o.halted_at FROM orgs o
WHERE o.is_halted <> (o.halted_at IS NOT NULL)

-- name: halted_never
-- A halt that a cell acknowledged needs a projection that halts. The check needs a projection from before the halt, or
-- it cannot prove a breach.
SELECT 'halt_without_verdict' AS what, h.org_id, {no_window}, h.cell_id, h.halted_at
FROM halts h JOIN (
    SELECT x.org_id, x.cell_id, x.halted_at, MAX(j.projection_id) AS projection_id
    FROM halts x JOIN projections j ON j.org_id = x.org_id AND j.at_ms <= x.halted_at
    GROUP BY x.org_id, x.cell_id, x.halted_at
) q ON q.org_id = h.org_id AND q.cell_id = h.cell_id AND q.halted_at = h.halted_at
JOIN projections j ON j.projection_id = q.projection_id
WHERE h.acked_at_ms IS NOT NULL AND NOT j.is_halted AND NOT EXISTS (
    SELECT 1 FROM projections e WHERE e.org_id = h.org_id AND e.at_ms = h.halted_at AND e.is_halted)

-- name: read_waits
-- A requested read is due within minutes. The limit of two days allows for clocks.
SELECT 'read_wait' AS what, o.org_id, {no_window}, o.projection_due_ms, CAST(:now_ms AS BIGINT) AS moment_ms
FROM orgs o WHERE o.projection_due_ms > CAST(:now_ms AS BIGINT) + 2 * CAST(86400000 AS BIGINT)

-- name: verdict_regressed
-- Invariant 8. An older read never overwrites a newer one, and a projection is written only if the verdict changes.
SELECT CASE WHEN q.read_ms < q.before_ms THEN 'verdict_regressed' ELSE 'duplicate_projection' END AS what, q.org_id, {no_window},
    q.projection_id, q.read_ms, q.before_ms
FROM (
    SELECT org_id, projection_id, read_ms,
        LAG(read_ms) OVER w AS before_ms,
        is_halted = LAG(is_halted) OVER w
            AND COALESCE(max_concurrent_sandboxes, -1) = COALESCE(LAG(max_concurrent_sandboxes) OVER w, -1)
            AND COALESCE(reason, '') = COALESCE(LAG(reason) OVER w, '') AS repeats
    FROM projections WINDOW w AS (PARTITION BY org_id ORDER BY projection_id)
) q WHERE q.read_ms < q.before_ms OR q.repeats

-- name: verdict
-- If an estimate was wrong, or an organisation is no longer billed, only `projections` has the reason of the resume.
SELECT CASE WHEN j.is_halted <> o.is_halted THEN 'verdict_state'
        WHEN o.projection_read_ms IS NULL OR o.projection_read_ms < j.read_ms THEN 'projection_time'
        ELSE 'verdict_reason' END AS what, o.org_id, {no_window}, o.is_halted, j.is_halted AS said,
    o.projection_read_ms, j.read_ms, o.halt_reason, j.reason, o.max_concurrent_sandboxes AS most,
    j.max_concurrent_sandboxes AS said_most
FROM orgs o JOIN (SELECT org_id, MAX(projection_id) AS projection_id FROM projections GROUP BY org_id) q
    ON q.org_id = o.org_id JOIN projections j ON j.projection_id = q.projection_id
WHERE j.is_halted <> o.is_halted OR o.projection_read_ms IS NULL OR o.projection_read_ms < j.read_ms
    OR COALESCE(o.max_concurrent_sandboxes, -1) <> COALESCE(j.max_concurrent_sandboxes, -1)
    OR (COALESCE(o.halt_reason, '') <> COALESCE(j.reason, '')
        AND COALESCE(j.reason, '') NOT IN ('estimate_wrong', 'exempt'))

-- name: verdict_unrecorded
SELECT 'verdict_without_projection' AS what, o.org_id, {no_window}, o.is_halted, o.halt_reason FROM orgs o
WHERE (o.is_halted OR o.halt_reason IS NOT NULL) AND NOT EXISTS (SELECT 1 FROM projections j WHERE j.org_id = o.org_id)

-- name: pushes
SELECT COUNT(*) FROM {proven_pushes} WHERE {which}

-- name: attempts
SELECT COUNT(*) FROM {proven_attempts} WHERE {which}

-- name: entries
SELECT COUNT(*) FROM {proven_entries}

-- name: settlements
SELECT COUNT(*) FROM settlements

-- name: actions
SELECT COUNT(*) FROM operator_actions

-- name: projections
SELECT COUNT(*) FROM projections WHERE {which}

-- name: dirty_windows
SELECT COUNT(*) FROM dirty_windows WHERE {which}

-- name: stopped_orgs
SELECT COUNT(*) FROM orgs WHERE stopped_at_ms IS NOT NULL AND {which}

-- name: which
-- The chosen organisations.
org_id IN {chosen}

-- name: every_org
-- Instead of `which`, for all organisations.
1 = 1

-- name: in_parts [postgresql]
-- Drawdown fetches rows in parts, but fetches all of them. So PostgreSQL must plan for all rows.
SET LOCAL cursor_tuple_fraction = 1

-- name: in_parts [sqlite]
