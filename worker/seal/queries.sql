-- The reads of a seal: its lock, new arrivals, usage in each window, unknown organisations.
--
-- Guarantee: samples are aggregated first and joined afterwards. Each join that could drop usage is an outer join (S6).

-- name: lock_shard
-- Rule S1: this is the seal's first statement. All other rows of these buckets are read later.
SELECT id, watermark_ms, cursor, in_flight, epoch, sweep_began_ms, sweep_next_ms FROM buckets
WHERE id BETWEEN :lo AND :hi ORDER BY id {for_update}

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: newest_arrival [postgresql]
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint

-- name: newest_arrival [sqlite]
SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'usage_samples'), 0) + 1

-- name: restart_cursor
UPDATE buckets SET cursor = 0, epoch = :epoch WHERE id BETWEEN :lo AND :hi

-- name: count_stopped
SELECT COUNT(*) FROM orgs WHERE stopped_at_ms IS NOT NULL AND bucket BETWEEN :lo AND :hi

-- name: these_samples
AND s.org_id IN {rows :only (org_id text)}

-- name: these_dirty
AND d.org_id IN {rows :only (org_id text)}

-- name: these_rows
AND org_id IN {rows :only (org_id text)}

-- name: going_samples
AND s.org_id NOT IN (SELECT org_id FROM orgs WHERE stopped_at_ms IS NOT NULL)

-- name: make_work [postgresql]
CREATE TEMP TABLE seal_work (org_id text COLLATE "C", window_ms bigint, memory_mb bigint, seconds bigint,
    samples bigint) ON COMMIT DROP

-- name: make_work [sqlite]
CREATE TEMP TABLE IF NOT EXISTS seal_work (org_id text, window_ms bigint, memory_mb bigint, seconds bigint,
    samples bigint);
DELETE FROM seal_work

-- name: add_up
INSERT INTO seal_work (org_id, window_ms, memory_mb, seconds, samples)
SELECT org_id, window_ms, memory_mb, SUM(seconds), COUNT(*)
FROM (SELECT s.org_id, {window} AS window_ms, s.memory_mb, {seconds} AS seconds
    FROM usage_samples s
    WHERE {which} AND s.problem IS NULL {scope} {apart}) used
GROUP BY {groups}

-- name: window
s.ts - s.ts % {window_length_ms}

-- name: groups
1, 2, 3

-- name: the_one_window
-- SQLite groups by sorting, and a tick usually has one fresh window. Without the window in the sort, the work is a
-- quarter less.
:watermark_ms

-- name: groups_of_one_window
1, 3

-- name: seconds [postgresql]
-- A valid sample has whole numbers of 64 bits, because an event may have 10^12 units. PostgreSQL adds these up faster
-- than numerics.
s.interval_s::bigint

-- name: seconds [sqlite]
s.interval_s

-- name: apart [postgresql]
-- OFFSET 0 keeps PostgreSQL from estimating the groups by the number of different times. Otherwise its hash table is
-- ten times too large and misses the cache for each sample (an eighth to a quarter of the scan).
OFFSET 0

-- name: apart [sqlite]

-- name: scan [postgresql]
-- Rule S2: the scan of arrivals and the next cursor are one statement, so they share one snapshot. A sample that the
-- snapshot cannot see yet is in flight, or at or above the cursor. The next scan reads it by `{later}`.
WITH moved AS (
    UPDATE buckets SET cursor = greatest(buckets.cursor, seen.cursor), in_flight = seen.in_flight FROM ({seen_now}) seen
    WHERE id BETWEEN :lo AND :hi
)
{add_up}

-- name: move_cursor [sqlite]
-- SQLite has one writer at a time, so the whole transaction is one snapshot. Each scan uses its own index.
UPDATE buckets SET cursor = COALESCE((SELECT MAX(arrival) + 1 FROM usage_samples), 0)
WHERE id BETWEEN :lo AND :hi AND cursor < COALESCE((SELECT MAX(arrival) + 1 FROM usage_samples), 0)

-- name: fresh
s.ts >= :watermark_ms AND s.ts < :horizon_ms

-- name: fresh_or_later
-- Windows at or above :watermark_ms are read whole. Below this watermark, only arrivals are read, to find the windows
-- that they make dirty.
(({fresh}) OR ({later} AND s.ts < :watermark_ms))

-- name: late [sqlite]
s.arrival >= :cursor AND +s.ts < :watermark_ms

-- name: of_buckets
SELECT cursor, in_flight FROM buckets

-- name: seen_now [postgresql]
-- If the snapshot does not see a transaction, its number is in `in_flight`, or at or above the cursor. After a crash,
-- the server assigns numbers above the newest commit again. So the cursor is at most the number of this transaction.
SELECT least(pg_snapshot_xmax(s.now)::text::bigint, pg_current_xact_id()::text::bigint) AS cursor,
    ARRAY(SELECT one::text::bigint FROM pg_snapshot_xip(s.now) one) AS in_flight
FROM (SELECT pg_current_snapshot() AS now) s

-- name: seen_now [sqlite]
SELECT COALESCE((SELECT MAX(arrival) + 1 FROM usage_samples), 0) AS cursor, NULL AS in_flight

-- name: any_below_floor
-- Rule S4: a sample that arrives below the floor is never billed. The seal stores it in the quarantine of late samples.
SELECT 1 FROM seal_work w JOIN orgs o ON o.org_id = w.org_id
WHERE w.window_ms < :watermark_ms AND w.window_ms < o.floor_ms LIMIT 1

-- name: keep_below_floor
-- Cursor 0 means that arrivals are read again, because history was lost or their numbers begin again. In that case,
-- samples from before the last prune were billed and only wait to be deleted. Samples that came since are late.
INSERT INTO late_quarantine (sample_id, org_id, found_ms)
SELECT s.id, s.org_id, :now_ms FROM usage_samples s JOIN orgs o ON o.org_id = s.org_id
WHERE {later} AND s.problem IS NULL AND s.ts < o.floor_ms AND o.bucket BETWEEN :lo AND :hi
    AND (:cursor > 0 OR s.ingested_at > (
        SELECT COALESCE(MAX(x.at_ms), 0) FROM operator_actions x WHERE x.action = 'sample_prune'))
ON CONFLICT DO NOTHING

-- name: late_is_dirty
INSERT INTO dirty_windows (org_id, window_ms)
SELECT DISTINCT w.org_id, w.window_ms FROM seal_work w JOIN orgs o ON o.org_id = w.org_id
WHERE w.window_ms < :watermark_ms AND w.window_ms >= o.floor_ms AND o.bucket BETWEEN :lo AND :hi
ON CONFLICT DO NOTHING

-- name: stopped_is_dirty
-- The scan does not add up a stopped organisation's samples, but the cursor passes them. So their windows become dirty.
INSERT INTO dirty_windows (org_id, window_ms)
SELECT DISTINCT s.org_id, {window}
FROM usage_samples s JOIN orgs o ON o.org_id = s.org_id
WHERE {later} AND s.problem IS NULL AND s.ts < :watermark_ms AND s.ts >= o.floor_ms
    AND o.stopped_at_ms IS NOT NULL AND o.bucket BETWEEN :lo AND :hi
ON CONFLICT DO NOTHING

-- name: any_laggard
SELECT 1 FROM orgs WHERE held_watermark_ms < :scan_end_ms AND stopped_at_ms IS NULL AND bucket BETWEEN :lo AND :hi
UNION ALL SELECT 1 FROM buckets WHERE watermark_ms < :scan_end_ms AND id BETWEEN :lo AND :hi LIMIT 1

-- name: laggards_are_dirty
-- An organisation behind the watermark is not scanned with the others (13.5 times the cost, measured). Its windows
-- become dirty instead.
INSERT INTO dirty_windows (org_id, window_ms)
SELECT DISTINCT s.org_id, {window}
FROM (SELECT o.org_id, COALESCE(o.held_watermark_ms, b.watermark_ms) AS watermark_ms
      FROM orgs o JOIN buckets b ON b.id = o.bucket
      WHERE b.id BETWEEN :lo AND :hi AND o.stopped_at_ms IS NULL
        AND COALESCE(o.held_watermark_ms, b.watermark_ms) < :scan_end_ms) o
JOIN usage_samples s ON s.org_id = o.org_id AND s.ts >= o.watermark_ms AND s.ts < :scan_end_ms
WHERE s.problem IS NULL {scope}
ON CONFLICT DO NOTHING

-- name: drop_partial
DELETE FROM seal_work WHERE window_ms < :watermark_ms

-- name: scan_dirty
INSERT INTO seal_work (org_id, window_ms, memory_mb, seconds, samples)
SELECT d.org_id, d.window_ms, s.memory_mb, SUM(s.interval_s), COUNT(*)
FROM {dirty_windows_read} {look_up} usage_samples s {looked_up_by} {in_dirty_window} AND s.problem IS NULL {end_look_s}
WHERE {is_dirty}
GROUP BY 1, 2, 3

-- name: withdrawn
INSERT INTO seal_work (org_id, window_ms, memory_mb, seconds, samples)
SELECT s.org_id, {window}, s.memory_mb, -SUM(s.interval_s), -COUNT(*)
FROM withdrawals s WHERE {fresh} {scope}
GROUP BY 1, 2, 3

-- name: withdrawn_dirty
INSERT INTO seal_work (org_id, window_ms, memory_mb, seconds, samples)
SELECT d.org_id, d.window_ms, s.memory_mb, -SUM(s.interval_s), -COUNT(*)
FROM {dirty_windows_read} {look_up} withdrawals s {looked_up_by} {in_dirty_window} {end_look_s}
WHERE {is_dirty}
GROUP BY 1, 2, 3

-- name: in_dirty_window
s.org_id = d.org_id AND s.ts >= d.window_ms AND s.ts < d.window_ms + {window_length_ms}

-- name: strangers
-- Organisations with samples but without a row, or with a row that another program inserted without a bucket.
SELECT DISTINCT w.org_id FROM seal_work w LEFT JOIN orgs o ON o.org_id = w.org_id WHERE o.bucket IS NULL

-- name: strangers_behind
-- If a bucket is behind the watermark, its cursor may have passed a sample of an unknown organisation while the window
-- was open. The search for laggards does not find an organisation without a row.
SELECT DISTINCT s.org_id FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id
WHERE s.ts >= (SELECT MIN(watermark_ms) FROM buckets WHERE id BETWEEN :lo AND :hi) AND s.ts < :scan_end_ms
    AND s.problem IS NULL AND o.bucket IS NULL {scope}

-- name: strangers_by_arrival
SELECT DISTINCT s.org_id FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id
WHERE {later} AND s.problem IS NULL AND o.bucket IS NULL

-- name: unknown_tables [postgresql]
-- Tables that were filled and never analysed, or were empty at their analysis. For these, the planner expects one row
-- of `bucket BETWEEN 0 AND 255`. Then the planner compares each group with each organisation (5 s instead of 0.1 s for
-- 20,000 of each). It also reads all samples and pushes.
SELECT t.name FROM (VALUES ('orgs', 'bucket'), ('assignments', 'start_ms'), ('usage_samples', 'ts'),
    ('pushes', 'window_ms')) t(name, attribute)
WHERE pg_relation_size(t.name::regclass) > 0 AND NOT EXISTS (SELECT 1 FROM pg_stats s
    WHERE s.schemaname = current_schema() AND s.tablename = t.name AND s.attname = t.attribute)

-- name: analyze_orgs
ANALYZE orgs

-- name: analyze_assignments
ANALYZE assignments

-- name: analyze_usage_samples
ANALYZE usage_samples

-- name: analyze_pushes
ANALYZE pushes

-- name: analyze_work [postgresql]
-- Without statistics the planner expects a tiny work table and looks up each row by index.
SET LOCAL default_statistics_target = 10;
ANALYZE seal_work

-- name: swept
SELECT MIN(sweep_next_ms) AS next_ms, MIN(sweep_began_ms) AS began_ms, MIN(watermark_ms) AS watermark_ms FROM buckets
WHERE id BETWEEN :lo AND :hi

-- name: move_sweep
UPDATE buckets SET sweep_next_ms = :next_ms, sweep_began_ms = :began_ms WHERE id BETWEEN :lo AND :hi

-- name: give_bucket
-- One statement gives all of them a bucket, because a host may name any number of unknown organisations.
INSERT INTO orgs (org_id, bucket, registered)
SELECT r.org_id, r.bucket, false FROM {rows :strangers (org_id text, bucket bigint)} r WHERE 1 = 1 ORDER BY r.org_id
ON CONFLICT (org_id) DO UPDATE SET bucket = excluded.bucket

-- name: unassigned
SELECT org_id FROM orgs o WHERE bucket BETWEEN :lo AND :hi
    AND NOT EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = o.org_id)

-- name: assign
INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason)
VALUES (:org_id, :start_ms, :provider, :customer_id, :now_ms, :actor, :reason)

-- name: bill_by
UPDATE orgs SET registered = true, billing_provider = :provider, projection_due_ms = :now_ms,
    refresh_requests = refresh_requests + 1 WHERE org_id = :org_id

-- name: pending_of_assigned
pending_usage WHERE window_ms >= :start_ms AND org_id IN {rows :assigned (org_id text)}

-- name: stop_org
UPDATE orgs SET stopped_at_ms = :now_ms, stopped_reason = :reason, held_watermark_ms = COALESCE(
    held_watermark_ms, (SELECT watermark_ms FROM buckets b WHERE b.id = orgs.bucket))
WHERE org_id = :org_id AND stopped_at_ms IS NULL

-- name: resume_org
UPDATE orgs SET stopped_at_ms = NULL, stopped_reason = NULL WHERE org_id = :org_id

-- The owed quantities, and their consequences: pushes, carries, pending usage, watermarks.

-- name: segments
-- The mapping is one parameter. PostgreSQL expects a function to return 100 rows, so LIMIT states the number.
(SELECT lo, hi, start_ms, end_ms, feature, unit
    FROM {rows :segments (lo bigint, hi bigint, start_ms bigint, end_ms bigint, feature text, unit text)} g
    LIMIT :number_of_segments)

-- name: mapped_exact
-- If each segment is one size, the segments are the mapping.
SELECT lo, start_ms, end_ms, feature, unit FROM {segments} g

-- name: mapped_tiers
SELECT u.memory_mb, g.start_ms, g.end_ms, g.feature, g.unit
FROM (SELECT DISTINCT memory_mb FROM seal_work) u JOIN {segments} g ON {in_segment}

-- name: above_floor
-- PostgreSQL assumes that two of three rows fail a comparison of columns. After three comparisons it expects hundreds
-- of rows instead of 40,000, and looks up each by index. It does not assume this of an expression that is compared with
-- a constant.
CASE WHEN w.window_ms < o.floor_ms THEN 1 ELSE 0 END <> 1

-- name: of_the_window
-- The feature of a size in a window.
m.memory_mb = w.memory_mb AND w.window_ms >= m.start_ms AND w.window_ms < m.end_ms

-- name: assigned_then
a.org_id = w.org_id AND a.start_ms <= w.window_ms AND (a.end_ms IS NULL OR w.window_ms < a.end_ms)

-- name: any_provider
(a.provider)

-- name: these_providers
:providers

-- name: below_watermark
-- A replay leaves out the windows that the next tick will seal as fresh.
AND w.window_ms < COALESCE(o.held_watermark_ms, (SELECT b.watermark_ms FROM buckets b WHERE b.id = o.bucket))

-- name: below_watermark_of_biller
{below_watermark} AND a.provider = :biller

-- name: these_pushes
AND p.org_id IN {rows :only (org_id text)}

-- name: going_pushes
AND p.org_id NOT IN (SELECT org_id FROM orgs WHERE stopped_at_ms IS NOT NULL)

-- name: none_dirty
-- The work table has only a range's samples.
AND 1 = 0

-- name: owed
-- The central rule: owed = used - pushes not voided, for each (organisation, window, feature).
WITH mapped (memory_mb, start_ms, end_ms, feature, unit) AS ({mapped}),
prior AS (
    SELECT p.org_id, p.window_ms, p.feature, p.state, p.sealed_qty, p.sent_qty, p.revision
    FROM pushes p JOIN orgs o ON o.org_id = p.org_id AND o.bucket BETWEEN :lo AND :hi
    WHERE p.window_ms >= :watermark_ms AND p.window_ms < :horizon_ms {prior_scope}
    UNION ALL
    SELECT p.org_id, p.window_ms, p.feature, p.state, p.sealed_qty, p.sent_qty, p.revision
    FROM {dirty_windows_read} {look_up} pushes p {looked_up_by} p.org_id = d.org_id AND p.window_ms = d.window_ms
        {end_look_p}
    WHERE {is_dirty}
),
owed AS (
    SELECT window_ms, org_id, feature, CAST(SUM(quantity) AS BIGINT) AS quantity, MAX(revision) + 1 AS revision
    FROM (
        SELECT w.window_ms, w.org_id, m.feature, -1 AS revision,
            CASE WHEN m.unit = 'mb_s' THEN w.seconds * w.memory_mb ELSE w.seconds END AS quantity,
            0 AS is_open, 0 AS is_moved
        FROM seal_work w LEFT JOIN mapped m ON {of_the_window}
        WHERE COALESCE(m.feature, '') <> '' -- so written that PostgreSQL does not underrate the join a hundredfold
        UNION ALL
        SELECT window_ms, org_id, feature, revision, CASE WHEN state = 'voided' THEN 0 ELSE -sealed_qty END,
            CASE WHEN sent_qty > 0 AND state IN {open_states} THEN 1 ELSE 0 END,
            CASE WHEN sent_qty <> sealed_qty AND state <> 'voided' THEN 1 ELSE 0 END FROM prior
    ) both_sides
    GROUP BY window_ms, org_id, feature
    HAVING SUM(quantity) > 0 OR {gives_back}
),
billed AS (
    SELECT w.window_ms, w.org_id, w.feature, w.revision, w.quantity, a.provider, a.customer_id,
        CASE WHEN {is_shadow} THEN 1 ELSE 0 END AS shadow
    FROM owed w
    JOIN orgs o ON o.org_id = w.org_id AND o.bucket BETWEEN :lo AND :hi AND o.stopped_at_ms IS NULL
        AND {above_floor}
    LEFT JOIN assignments a ON {assigned_then}
    WHERE COALESCE(a.provider, 'none') NOT IN {unbilled} AND a.customer_id <> ''
        AND a.provider IN {of_providers} {only_below}
)

-- name: is_shadow
-- Usage in shadow is sealed and never sent. The cheap first condition excludes most windows, because few are before the
-- cut-over of a provider.
w.window_ms < :shadow_until_ms AND w.window_ms < {live_from}

-- name: live_from [sqlite]
-- A JSON object by provider, because SQLite would parse rows again for each push (a twelfth of a seal in shadow,
-- measured). Names of providers have only a-z, 0-9 and _.
json_extract(:live_from, '$.' || a.provider)

-- name: live_from [postgresql]
CAST(CAST(:live_from AS jsonb) ->> a.provider AS bigint)

-- name: seal
INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key,
    sealed_at_ms, seal_id, state, due_at_ms)
{owed}
SELECT window_ms, org_id, feature, revision, provider, customer_id, quantity, sent_qty,
    'usage:' || org_id || ':' || window_ms || ':' || feature
        || CASE WHEN revision > 0 THEN ':r' || revision ELSE '' END,
    :now_ms, :seal_id, CASE WHEN shadow = 1 AND sent_qty <> 0 THEN 'shadow'
        WHEN sent_qty = 0 AND NOT ({lost}) THEN 'carried' {otherwise} END, :now_ms
FROM ({sent}) sized WHERE quantity <> 0 OR sent_qty <> 0

-- name: gives_back
-- A give-back waits until all other pushes of the window are settled, because they may never be charged. The give-back
-- becomes a push only then, so that it is not sent, looked up or reconciled before.
SUM(quantity) < 0 AND MAX(is_open) = 0

-- name: gives_back_units
-- If whole units moved between windows (S10), a give-back waits for all open pushes of the feature. After a void, a
-- positive or negative number of whole units may be left without usage to bill. The window then sends the difference.
(SUM(quantity) < 0 OR MAX(revision) >= 0 AND EXISTS (SELECT 1 FROM carries k WHERE k.org_id = both_sides.org_id
    AND k.feature = both_sides.feature AND k.carry_qty <> 0)) AND MAX(is_open) = 0
    AND (SUM(quantity) < 0 AND MAX(is_moved) = 0 OR (org_id, feature) NOT IN (
        SELECT q.org_id, q.feature FROM pushes q WHERE q.state IN {open_states} AND q.sent_qty > 0))

-- name: sort_groups [postgresql]
-- Pushes are inserted fastest in the order of the primary key, which grouping by sorting gives (a fifth less work). The
-- planner expects few groups and would group by hash.
SET LOCAL enable_hashagg = off

-- name: hash_groups [postgresql]
SET LOCAL enable_hashagg TO DEFAULT

-- name: not_lost
1 = 0

-- name: lost_then
-- In windows of a lost history (R1), the provider may already know a push. So Drawdown looks the push up before its
-- first send. If the provider does not have a lookup, a person decides once. Drawdown looks up carried quantities as
-- well, because the lost history may have sent a whole unit for their window.
window_ms < :lost_until_ms AND shadow = 0 AND provider NOT IN :not_asked AND NOT {is_decided}

-- name: is_decided
-- If a person has voided such a push of the window, the next push does not need the same decision.
EXISTS (SELECT 1 FROM voids v JOIN pushes q ON q.window_ms = v.window_ms AND q.org_id = v.org_id
    AND q.feature = v.feature AND q.revision = v.revision WHERE v.window_ms = sized.window_ms
    AND v.org_id = sized.org_id AND v.feature = sized.feature AND v.evidence_kind = 'operator'
    AND q.seal_id > :last_lost_seal)

-- name: due
ELSE 'due'

-- name: asked_for_first
WHEN {lost_then} THEN 'queued'
WHEN window_ms < :lost_until_ms AND provider IN :untold AND NOT {is_decided} THEN 'in_doubt' ELSE 'due'

-- name: sent_whole
SELECT billed.*, quantity AS sent_qty FROM billed

-- name: sent_carried
-- Rule S10. Running totals of (carry + sealed), rounded down to whole units. If the provider does not accept negatives,
-- the totals never fall. Quantities in shadow are never sent, so they do not add to the carry of others.
SELECT r.*, CASE WHEN r.unit IS NULL THEN r.quantity ELSE r.unit * (r.units
    - COALESCE(LAG(r.units) OVER (PARTITION BY r.org_id, r.provider, r.customer_id, r.feature, r.shadow
        ORDER BY r.window_ms), 0)) END AS sent_qty
FROM (
    SELECT c.*, CASE WHEN c.negatives = 1 THEN c.floored ELSE
        MAX(CASE WHEN c.floored > 0 THEN c.floored ELSE 0 END)
            OVER (PARTITION BY c.org_id, c.provider, c.customer_id, c.feature, c.shadow
                ORDER BY c.window_ms) END AS units
    FROM (
        SELECT t.*, (t.total - ((t.total % t.unit) + t.unit) % t.unit) / t.unit AS floored
        FROM (
            SELECT l.*, CASE WHEN l.shadow = 0 THEN COALESCE(f.unit, p.unit) END AS unit, p.negatives,
                COALESCE(k.carry_qty, 0) + CAST(SUM(l.quantity) OVER (PARTITION BY l.org_id, l.provider,
                l.customer_id, l.feature, l.shadow ORDER BY l.window_ms) AS BIGINT) AS total
            FROM billed l
            LEFT JOIN {terms} p ON p.provider = l.provider AND p.feature = ''
            LEFT JOIN {terms} f ON f.provider = l.provider AND f.feature = l.feature
            LEFT JOIN carries k ON k.org_id = l.org_id AND k.provider = l.provider
                AND k.customer_id = l.customer_id AND k.feature = l.feature
        ) t
    ) c
) r

-- name: terms
(SELECT provider, feature, unit, negatives
    FROM {rows :terms (provider text, feature text, unit bigint, negatives bigint)} t LIMIT :number_of_terms)

-- name: carry
INSERT INTO carries (org_id, provider, customer_id, feature, carry_qty)
SELECT org_id, provider, customer_id, feature, CAST(SUM(sealed_qty - sent_qty) AS BIGINT) FROM pushes
WHERE seal_id = :seal_id AND window_ms >= 0 GROUP BY 1, 2, 3, 4 HAVING SUM(sealed_qty - sent_qty) <> 0
ON CONFLICT (org_id, provider, customer_id, feature)
DO UPDATE SET carry_qty = carries.carry_qty + excluded.carry_qty

-- name: forget_pending
DELETE FROM pending_usage WHERE window_ms >= :watermark_ms AND window_ms < :horizon_ms
    AND EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = pending_usage.org_id AND o.bucket BETWEEN :lo AND :hi)
    {pending_scope};
DELETE FROM pending_usage WHERE (window_ms, org_id) IN (
    SELECT d.window_ms, d.org_id FROM {dirty_windows_read} WHERE {is_dirty})

-- name: pend
-- Rule S6: usage without a feature or an assignment becomes pending, with the reason.
INSERT INTO pending_usage (window_ms, org_id, memory_mb, reason, seconds, samples)
WITH mapped (memory_mb, start_ms, end_ms, feature, unit) AS ({mapped})
SELECT w.window_ms, w.org_id, w.memory_mb,
    CASE WHEN m.memory_mb IS NULL AND a.org_id IS NOT NULL THEN 'no_mapping'
        WHEN a.customer_id = '' THEN 'no_customer' WHEN a.org_id IS NOT NULL THEN 'no_provider'
        WHEN o.registered THEN 'no_assignment' ELSE 'unknown_org' END,
    CAST(SUM(w.seconds) AS BIGINT), CAST(SUM(w.samples) AS BIGINT)
FROM seal_work w
JOIN orgs o ON o.org_id = w.org_id AND o.bucket BETWEEN :lo AND :hi AND o.stopped_at_ms IS NULL
    AND {above_floor}
LEFT JOIN assignments a ON {assigned_then}
LEFT JOIN mapped m ON {of_the_window}
WHERE a.org_id IS NULL OR (a.provider NOT IN {unbilled} AND (m.memory_mb IS NULL
    OR (m.feature <> '' AND (a.customer_id = '' OR a.provider NOT IN {of_providers}))))
GROUP BY 1, 2, 3, 4 HAVING SUM(w.samples) <> 0

-- name: forget_dirty
DELETE FROM dirty_windows WHERE window_ms < :horizon_ms AND EXISTS (SELECT 1 FROM orgs o
    WHERE o.org_id = dirty_windows.org_id AND o.bucket BETWEEN :lo AND :hi AND o.stopped_at_ms IS NULL) {pending_scope}
    AND NOT ((org_id, window_ms) IN ({less_may_be_owed}) AND {something_is_open})

-- name: less_may_be_owed
-- Windows with a withdrawal, an adoption or a void.
SELECT w.org_id, w.window_ms FROM seal_work w WHERE w.samples < 0
UNION ALL SELECT d.org_id, d.window_ms FROM {dirty_windows_read}
    JOIN adoptions x ON x.window_ms = d.window_ms AND x.org_id = d.org_id WHERE {is_dirty}
UNION ALL SELECT d.org_id, d.window_ms FROM {dirty_windows_read}
    JOIN voids v ON v.window_ms = d.window_ms AND v.org_id = d.org_id WHERE {is_dirty}

-- name: any_dirty
SELECT 1 FROM {dirty_windows_read} WHERE {is_dirty} LIMIT 1

-- name: hold_what_is_open
-- This locks open pushes. Two statements read the quantity to give back and the windows that stay dirty, and both must
-- see the same state.
SELECT 1 FROM ({less_may_be_owed}) l JOIN pushes p ON p.org_id = l.org_id {open_of}
WHERE p.sent_qty > 0 AND p.state IN {open_states} ORDER BY p.window_ms, p.org_id, p.feature, p.revision
FOR NO KEY UPDATE OF p

-- name: open_of_the_window
AND p.window_ms = l.window_ms

-- name: open_of_the_org

-- name: of_the_window_is_open
-- An earlier push is not settled. A push that gives back waits for it, and its window stays dirty.
(SELECT COUNT(*) FROM pushes p WHERE p.window_ms = dirty_windows.window_ms AND p.org_id = dirty_windows.org_id
    AND p.sent_qty > 0 AND p.state IN {open_states} AND p.seal_id < :seal_id) > 0

-- name: of_the_org_is_open
org_id IN (SELECT p.org_id FROM pushes p WHERE p.sent_qty > 0 AND p.state IN {open_states} AND p.seal_id < :seal_id)

-- name: advance
UPDATE buckets SET watermark_ms = :horizon_ms WHERE id BETWEEN :lo AND :hi AND watermark_ms < :horizon_ms

-- name: catch_up
-- An organisation behind its bucket moves to the horizon, or has caught up with its bucket.
UPDATE orgs SET held_watermark_ms = CASE
    WHEN :horizon_ms >= (SELECT b.watermark_ms FROM buckets b WHERE b.id = orgs.bucket) THEN NULL
    WHEN :horizon_ms > held_watermark_ms THEN :horizon_ms ELSE held_watermark_ms END
WHERE bucket BETWEEN :lo AND :hi AND held_watermark_ms IS NOT NULL AND stopped_at_ms IS NULL {pending_scope}

-- name: carrying
SELECT DISTINCT provider FROM carries WHERE carry_qty <> 0

-- name: last_loss
SELECT MAX(until_ms) AS until_ms, MAX(seal_id) AS last_seal FROM losses

-- name: oldest_cursor
SELECT MIN(cursor) FROM buckets WHERE id BETWEEN :lo AND :hi

-- name: begin_seal
INSERT INTO seals (at_ms, bucket_lo, bucket_hi, horizon_ms, cursor, epoch)
VALUES (:now_ms, :lo, :hi, :reached_ms, :oldest_cursor, :epoch) RETURNING seal_id
