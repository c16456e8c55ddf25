-- The reads of a seal: its lock, new arrivals, usage in each window, unknown organisations.
--
-- Guarantee: samples are aggregated first and joined after. Every join that could drop usage is an outer one (S6).

-- name: lock_shard
-- Rule S1: this is the seal's first statement; whatever is read about these buckets is read later.
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
-- SQLite groups by sorting, and a tick has one fresh window as a rule: not sorting by it is a quarter less work.
:watermark_ms

-- name: groups_of_one_window
1, 3

-- name: seconds [postgresql]
-- A sample without a problem has whole numbers, of 64 bits: an event may have a million million units. PostgreSQL adds
-- them up with less work than numerics.
s.interval_s::bigint

-- name: seconds [sqlite]
s.interval_s

-- name: apart [postgresql]
-- Keeps PostgreSQL from counting the groups by how many moments differ: it would make a hash table ten times too large,
-- and miss the cache for each sample (an eighth to a quarter of the scan, the more samples there are).
OFFSET 0

-- name: apart [sqlite]

-- name: scan [postgresql]
-- Rule S2: the scan of arrivals and the next cursor are one statement, so they share one snapshot. Whatever that
-- snapshot cannot see yet is in flight, or at or above the cursor, and is scanned next time; `{later}` is that.
WITH moved AS (
    UPDATE buckets SET cursor = greatest(buckets.cursor, seen.cursor), in_flight = seen.in_flight FROM ({seen_now}) seen
    WHERE id BETWEEN :lo AND :hi
)
{add_up}

-- name: move_cursor [sqlite]
-- SQLite: one writer at a time, so the whole transaction is one snapshot; each scan uses its own index.
UPDATE buckets SET cursor = COALESCE((SELECT MAX(arrival) + 1 FROM usage_samples), 0)
WHERE id BETWEEN :lo AND :hi AND cursor < COALESCE((SELECT MAX(arrival) + 1 FROM usage_samples), 0)

-- name: fresh
s.ts >= :watermark_ms AND s.ts < :horizon_ms

-- name: fresh_or_later
-- Windows at or above :watermark_ms are read whole. Below it only arrivals are, to learn which windows they make dirty.
(({fresh}) OR ({later} AND s.ts < :watermark_ms))

-- name: late [sqlite]
s.arrival >= :cursor AND +s.ts < :watermark_ms

-- name: of_buckets
SELECT cursor, in_flight FROM buckets

-- name: seen_now [postgresql]
-- What was not visible when this was read has a number in the list, or one at or above the cursor. The cursor is never
-- above the reader's own number: a server that dies forgets the numbers of those that wrote nothing, and gives those
-- above the newest commit again.
SELECT least(pg_snapshot_xmax(s.now)::text::bigint, pg_current_xact_id()::text::bigint) AS cursor,
    ARRAY(SELECT one::text::bigint FROM pg_snapshot_xip(s.now) one) AS in_flight
FROM (SELECT pg_current_snapshot() AS now) s

-- name: seen_now [sqlite]
SELECT COALESCE((SELECT MAX(arrival) + 1 FROM usage_samples), 0) AS cursor, NULL AS in_flight

-- name: any_below_floor
-- Rule S4: what arrived below the floor is too late for good, and stays countable.
SELECT 1 FROM seal_work w JOIN orgs o ON o.org_id = w.org_id
WHERE w.window_ms < :watermark_ms AND w.window_ms < o.floor_ms LIMIT 1

-- name: keep_below_floor
-- Where arrivals are read anew (cursor 0: history was lost, or their numbers begin again), what was below the floor when
-- somebody pruned last was billed before, and only waits to be deleted: of those, what came since is late.
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
-- A stopped organisation's samples are left out of the scan that adds up, but not out of what has arrived.
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
-- Whoever is behind the watermark is not scanned with the others (13.5 times the cost, measured): its windows become
-- dirty ones.
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
-- A sample of an organisation nobody has named yet, or that another program inserted without a bucket.
SELECT DISTINCT w.org_id FROM seal_work w LEFT JOIN orgs o ON o.org_id = w.org_id WHERE o.bucket IS NULL

-- name: strangers_behind
-- A bucket behind the watermark: its cursor may have passed a stranger's sample while the sample's window was still
-- open, and an organisation without a row is no laggard that could be found below.
SELECT DISTINCT s.org_id FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id
WHERE s.ts >= (SELECT MIN(watermark_ms) FROM buckets WHERE id BETWEEN :lo AND :hi) AND s.ts < :scan_end_ms
    AND s.problem IS NULL AND o.bucket IS NULL {scope}

-- name: strangers_by_arrival
SELECT DISTINCT s.org_id FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id
WHERE {later} AND s.problem IS NULL AND o.bucket IS NULL

-- name: unknown_tables [postgresql]
-- A table that was filled and never analysed: the planner takes `bucket BETWEEN 0 AND 255` for one row, and compares
-- every group with every organisation (5 s for 20,000 of each, where it takes a tenth of one); of samples and pushes it
-- reads all there ever were. So it is, too, where they were last looked at while they were empty.
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
-- Without statistics the planner takes the work table for a tiny one and looks each row up by index.
SET LOCAL default_statistics_target = 10;
ANALYZE seal_work

-- name: swept
SELECT MIN(sweep_next_ms) AS next_ms, MIN(sweep_began_ms) AS began_ms, MIN(watermark_ms) AS watermark_ms FROM buckets
WHERE id BETWEEN :lo AND :hi

-- name: move_sweep
UPDATE buckets SET sweep_next_ms = :next_ms, sweep_began_ms = :began_ms WHERE id BETWEEN :lo AND :hi

-- name: give_bucket
-- In one statement: a host may name any number of organisations that are none.
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
    projection_asks = projection_asks + 1 WHERE org_id = :org_id

-- name: pending_of_assigned
pending_usage WHERE window_ms >= :start_ms AND org_id IN {rows :assigned (org_id text)}

-- name: stop_org
UPDATE orgs SET stopped_at_ms = :now_ms, stopped_reason = :reason, held_watermark_ms = COALESCE(
    held_watermark_ms, (SELECT watermark_ms FROM buckets b WHERE b.id = orgs.bucket))
WHERE org_id = :org_id AND stopped_at_ms IS NULL

-- name: release_org
UPDATE orgs SET stopped_at_ms = NULL, stopped_reason = NULL WHERE org_id = :org_id
