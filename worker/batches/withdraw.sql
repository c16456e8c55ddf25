-- A batch that was wrong: its samples are taken back.

-- name: standing
SELECT name, samples, withdrawn_ms FROM batches WHERE batch = :batch

-- name: portion
SELECT COUNT(*) AS samples, MAX(p.id) AS last FROM (SELECT s.id FROM usage_samples s
    WHERE s.id > :after AND s.id < :beyond_id ORDER BY s.id LIMIT :at_most) p

-- name: its_samples
usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id
WHERE s.id > :after AND s.id <= :last AND s.problem IS NULL

-- name: window
s.ts - s.ts % {window_length_ms}

-- name: withdraw
-- One that was withdrawn by itself before is left as it is.
INSERT INTO withdrawals (sample_id, org_id, ts, memory_mb, interval_s, at_ms, actor, reason)
SELECT s.id, s.org_id, s.ts, s.memory_mb, s.interval_s, :at_ms, :actor, :reason
FROM {its_samples} AND s.ts >= COALESCE(o.floor_ms, 0)
ON CONFLICT DO NOTHING

-- name: count_withdrawn
-- By this command, or one by one before.
SELECT COUNT(*) FROM withdrawals w WHERE w.sample_id > :first_id AND w.sample_id < :beyond_id

-- name: mark_withdrawn
UPDATE batches SET withdrawn_ms = :now_ms WHERE batch = :batch

-- name: look_again
-- The names under which it came are free, and so are its rows. A file that was in conflict, perhaps with it, has, as it
-- lies there, not been seen.
UPDATE batch_files SET modified_ns = -1
WHERE outcome = 'conflict' AND (shared_rows IS NOT NULL OR name IN (SELECT name FROM batch_files WHERE batch = :batch))

-- name: windows_of_portion
(SELECT s.org_id, {window} AS window_ms FROM {its_samples} AND s.ts >= COALESCE(o.floor_ms, 0)) w WHERE 1 = 1

-- name: windows
SELECT DISTINCT w.org_id, w.window_ms FROM {windows_of_portion}

-- name: unseen [postgresql]
(s.arrival >= b.cursor OR s.arrival = ANY (b.in_flight))

-- name: unseen [sqlite]
s.arrival >= b.cursor

-- name: unsealed
SELECT 1 FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id LEFT JOIN buckets b ON b.id = o.bucket
WHERE s.id > :after AND s.id <= :last AND s.ts < :until_ms AND (b.id IS NULL OR {unseen}
    OR s.ts >= COALESCE(o.held_watermark_ms, b.watermark_ms) OR EXISTS (SELECT 1 FROM dirty_windows d
        WHERE d.org_id = s.org_id AND d.window_ms = {window}))
    AND NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = s.id) LIMIT 1
