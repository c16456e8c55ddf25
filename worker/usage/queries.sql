-- Changes of samples by people: pruned, withdrawn, fixed or dismissed.

-- name: window
s.ts - s.ts % {window_length_ms}

-- name: unseen [postgresql]
-- True for a sample of an organisation in the bucket `b` if no seal has read it yet (S2).
(s.arrival >= b.cursor OR s.arrival = ANY (b.in_flight))

-- name: unseen [sqlite]
s.arrival >= b.cursor

-- name: least [postgresql]
LEAST

-- name: least [sqlite]
MIN

-- name: reachable
SELECT o.org_id, {least}(:before_ms, COALESCE(o.held_watermark_ms, b.watermark_ms),
    COALESCE((SELECT MIN(window_ms) FROM pending_usage p WHERE p.org_id = o.org_id AND p.seconds <> 0), :before_ms),
    COALESCE((SELECT MIN(window_ms) FROM dirty_windows d WHERE d.org_id = o.org_id), :before_ms)) AS floor_ms
FROM orgs o JOIN buckets b ON b.id = o.bucket

-- name: open_pushes
SELECT org_id, MIN(window_ms) AS window_ms FROM pushes WHERE state IN {open_states}
    AND window_ms < :before_ms GROUP BY org_id

-- name: arrived
-- A late sample that no seal has read yet has not made its window dirty. Below a raised floor, the sample would stay
-- unbilled.
SELECT s.org_id, MIN({window}) AS window_ms FROM usage_samples s JOIN orgs o ON o.org_id = s.org_id
JOIN buckets b ON b.id = o.bucket
WHERE {unseen_by_some} AND {unseen} AND s.problem IS NULL
    AND s.ts < :before_ms GROUP BY s.org_id

-- name: floors
{rows :floors (org_id text, floor_ms bigint)} f

-- name: forget_nothing
-- A row without seconds does not wait for billing. The statement deletes such rows, because a trigger refuses a floor
-- above pending rows.
DELETE FROM pending_usage WHERE seconds = 0 AND EXISTS (SELECT 1 FROM {floors}
    WHERE f.org_id = pending_usage.org_id AND pending_usage.window_ms < f.floor_ms)

-- name: raise_floors [postgresql]
-- One statement raises all floors, because seals wait for it. For 10,000 organisations, single statements took four
-- times as long. The statement before it locks the rows in the order of their ids.
SELECT COUNT(*) FROM (SELECT 1 FROM orgs WHERE org_id IN (SELECT org_id FROM {floors})
    ORDER BY org_id FOR NO KEY UPDATE) q;
{move_floors}

-- name: raise_floors [sqlite]
{move_floors}

-- name: move_floors
WITH f AS MATERIALIZED (SELECT org_id, floor_ms FROM {floors})
UPDATE orgs SET floor_ms = f.floor_ms FROM f WHERE orgs.org_id = f.org_id AND orgs.floor_ms < f.floor_ms

-- name: first_sample
-- The first window is that of the first valid sample. A quarantined sample may stay, so it does not determine the first
-- window.
SELECT MIN(ts) FROM usage_samples WHERE ts >= :least_ts_ms AND ts < :before_ms AND problem IS NULL

-- name: dealt_with
EXISTS (SELECT 1 FROM quarantine_closed q WHERE q.sample_id = s.id)

-- name: going
(s.problem IS NULL OR {dealt_with})

-- name: kept
s.problem IS NOT NULL AND NOT {dealt_with}

-- name: delete_between
-- A sample that no seal has read yet is not deleted. The next seal quarantines and counts it, and a later prune deletes
-- it.
DELETE FROM usage_samples AS s WHERE
s.ts >= :from_ms AND s.ts < :to_ms AND EXISTS (SELECT 1 FROM orgs o JOIN buckets b ON b.id = o.bucket
    WHERE o.org_id = s.org_id AND s.ts < o.floor_ms AND NOT {unseen})
AND {going}

-- name: count_below
SELECT COUNT(*) FROM usage_samples s JOIN {floors} ON f.org_id = s.org_id WHERE s.ts < f.floor_ms
AND s.ts < :before_ms AND {which}

-- name: still_to_seal
(b.id IS NULL OR {unseen}
    OR s.ts >= COALESCE(o.held_watermark_ms, b.watermark_ms) OR EXISTS (SELECT 1 FROM dirty_windows d
        WHERE d.org_id = s.org_id AND d.window_ms = {window}))

-- name: unsealed
SELECT 1 FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id LEFT JOIN buckets b ON b.id = o.bucket
WHERE s.id = :sample_id AND {still_to_seal}

-- name: left_of_backfill
-- The events of a closed backfill. While a backfill is open, its events are not usage. The sample of an event below the
-- floor may be pruned.
SELECT COUNT(*) AS events, COUNT(w.sample_id) AS withdrawn,
    COUNT(CASE WHEN w.sample_id IS NULL AND s.ts < :until_ms AND {still_to_seal} THEN 1 END) AS unsealed,
    COUNT(CASE WHEN w.sample_id IS NULL AND e.ts < COALESCE(o.floor_ms, 0) THEN 1 END) AS below_floor
FROM backfills f JOIN backfill_events e ON e.backfill = f.backfill
LEFT JOIN usage_samples s ON s.id = e.sample_id LEFT JOIN withdrawals w ON w.sample_id = e.sample_id
LEFT JOIN orgs o ON o.org_id = f.org_id LEFT JOIN buckets b ON b.id = o.bucket
WHERE f.backfill = :backfill AND f.state = 'closed'

-- name: sample
SELECT s.org_id, s.ts, s.memory_mb, s.interval_s, s.problem, COALESCE(o.floor_ms, 0) AS floor_ms,
    w.sample_id AS withdrawn, q.new_id, CASE WHEN q.sample_id IS NULL THEN 0 ELSE 1 END AS is_closed
FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id
LEFT JOIN withdrawals w ON w.sample_id = s.id LEFT JOIN quarantine_closed q ON q.sample_id = s.id WHERE s.id = :sample_id

-- name: insert_withdrawal
INSERT INTO withdrawals (sample_id, org_id, ts, memory_mb, interval_s, at_ms, actor, reason)
VALUES (:sample_id, :org_id, :ts, :memory_mb, :interval_s, :at_ms, :actor, :reason)

-- name: whole_samples
SELECT s.*, COALESCE(o.floor_ms, 0) AS floor_ms
FROM (SELECT {sample_fields} FROM usage_samples WHERE id IN :sample_ids) s LEFT JOIN orgs o ON o.org_id = s.org_id

-- name: twin
SELECT s.id FROM usage_samples s LEFT JOIN withdrawals w ON w.sample_id = s.id WHERE s.org_id = :org_id
AND s.ts = :ts AND s.sandbox_id = :sandbox_id AND s.problem IS NULL AND w.sample_id IS NULL AND s.id <> :new_id LIMIT 1

-- name: close
-- If a conflict occurred again after it was closed, it is open. This statement then closes it again.
INSERT INTO quarantine_closed (sample_id, new_id, at_ms, actor, reason)
SELECT sample_id, new_id, :at_ms, :actor, :reason
FROM {rows :closed (sample_id text, new_id text)} r WHERE 1 = 1
ON CONFLICT (sample_id) DO UPDATE SET at_ms = excluded.at_ms

-- Settled pushes of the embedded ledger, folded into sums of a UTC day.

-- name: day
p.window_ms - p.window_ms % 86400000

-- name: folding
-- Pushes of whole days below the floor. If an organisation has an open push in the range, its pushes are not folded.
-- If a charge is dated before its usage, all revisions of its window stay, because only their seals prove that a clock
-- was set back.
p.provider = 'embedded' AND p.window_ms >= :from_ms AND p.window_ms < :to_ms AND p.state NOT IN {open_states}
    AND EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = p.org_id AND o.floor_ms >= {day} + 86400000)
    AND p.org_id NOT IN (SELECT q.org_id FROM pushes q WHERE q.state IN {open_states} AND q.provider = 'embedded'
        AND q.window_ms < :before_ms)
    AND NOT EXISTS (SELECT 1 FROM pushes q JOIN ledger_entries e ON e.key = q.key WHERE q.window_ms = p.window_ms
        AND q.org_id = p.org_id AND q.feature = p.feature AND e.at_ms < e.ts - 86400000)

-- name: first_push
SELECT MIN(p.window_ms) FROM pushes p WHERE p.window_ms >= :from_ms AND p.window_ms < :before_ms

-- name: count_going
SELECT COUNT(*) AS pushes, COALESCE(SUM(p.attempts), 0) AS attempts FROM pushes p WHERE {folding}

-- name: count_kept
-- Counts the earlier pushes that folding leaves, and their organisations.
SELECT COUNT(*) AS pushes, COUNT(DISTINCT p.org_id) AS orgs FROM pushes p
WHERE p.provider = 'embedded' AND p.window_ms < :before_ms AND NOT ({folding})

-- name: into_sums
INSERT INTO folded_pushes (day_ms, org_id, provider, customer_id, feature, state, pushes, attempts, sealed_qty, sent_qty,
    folded_ms)
SELECT {day}, p.org_id, p.provider, p.customer_id, p.feature, p.state, COUNT(*), SUM(p.attempts),
    CAST(SUM(p.sealed_qty) AS BIGINT), CAST(SUM(p.sent_qty) AS BIGINT), :now_ms

-- name: and_add
GROUP BY 1, 2, 3, 4, 5, 6
ON CONFLICT (day_ms, org_id, provider, customer_id, feature, state) DO UPDATE SET
    pushes = folded_pushes.pushes + excluded.pushes, attempts = folded_pushes.attempts + excluded.attempts,
    sealed_qty = folded_pushes.sealed_qty + excluded.sealed_qty, sent_qty = folded_pushes.sent_qty + excluded.sent_qty,
    folded_ms = excluded.folded_ms

-- name: fold [postgresql]
-- One statement sums up exactly the rows that it deletes, even if other transactions write at the same time.
WITH gone AS (DELETE FROM pushes p WHERE {folding} RETURNING p.*),
tries AS (DELETE FROM attempts x USING gone p WHERE {is_of_push}),
kept AS ({into_sums} FROM gone p {and_add})
SELECT COUNT(*) FROM gone

-- name: fold [sqlite]
-- SQLite has one writer at a time. Pushes are deleted last, because the other statements read them.
{into_sums} FROM pushes p WHERE {folding} {and_add};
DELETE FROM attempts AS x WHERE x.window_ms >= :from_ms AND x.window_ms < :to_ms
    AND EXISTS (SELECT 1 FROM pushes p WHERE {is_of_push} AND {folding});
DELETE FROM pushes AS p WHERE {folding};
SELECT changes()

-- Usage that a person is about to correct: quantities by provider, feature and window.

-- name: used
SELECT a.provider, u.feature, u.window_ms, CAST(SUM(u.quantity) AS BIGINT) AS qty
FROM (SELECT e.org_id, e.quantity, e.ts - e.ts % {window_length_ms} AS window_ms, (
        SELECT m.feature FROM mappings m WHERE m.memory_mb = s.memory_mb AND m.kind = 'exact'
            AND m.start_ms <= e.ts - e.ts % {window_length_ms}
        ORDER BY m.start_ms DESC, m.mapping_id DESC LIMIT 1) AS feature
    FROM {chosen} c JOIN usage_events e ON e.sample_id = c.sample_id JOIN usage_samples s ON s.id = e.sample_id
    WHERE NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = e.sample_id)) u
JOIN assignments a ON a.org_id = u.org_id AND a.start_ms <= u.window_ms
    AND (a.end_ms IS NULL OR u.window_ms < a.end_ms)
WHERE u.feature IS NOT NULL AND a.provider NOT IN ('legacy', 'none') GROUP BY a.provider, u.feature, u.window_ms

-- name: these
{rows :samples (sample_id text)}
