-- Batches: the accepted content, and the outcome of each file.

-- name: hold_folder [postgresql]
-- Two transactions that take files of one folder wait for each other here, such as a tick and a person's command.
SELECT source FROM batch_sources WHERE folder = :folder FOR NO KEY UPDATE

-- name: hold_folder [sqlite]
SELECT 1 WHERE 1 = 0

-- name: shared [postgresql]
FOR SHARE OF b

-- name: shared [sqlite]

-- name: other_of_name
-- A batch in force with this name, from this source, from a source that watches this folder, or from a person who took
-- this path. The query also finds a batch if its file has another name now. The lock is shared. A withdrawal of the
-- batch makes ticks read files in conflict again, so the withdrawal comes before this transaction or waits for it.
SELECT f.batch, f.seen_ms > :now_ms AS is_newer FROM batch_files f JOIN batches b ON b.batch = f.batch
WHERE f.source IN (SELECT :source UNION ALL SELECT '' UNION ALL SELECT source FROM batch_sources WHERE folder = :folder)
    AND (f.source = :source OR f.source <> '' OR f.path = :path)
    AND f.name = :name AND f.batch <> :batch AND f.outcome IN ('taken', 'repeated')
    AND b.withdrawn_ms IS NULL ORDER BY f.batch LIMIT 1 {shared}

-- name: claim
-- Neither the content nor the name may belong to another batch. The first transaction that commits gets both.
INSERT INTO batches (batch, source, name, path, row_count, refused, samples, total, from_ms, to_ms, taken_ms, actor,
    reason, rows_hash, row_labels, rows_kept, field_map)
VALUES (:batch, :source, :name, :path, :row_count, :refused, :samples, :total, :from_ms, :to_ms, :taken_ms, :actor,
    :reason, :rows_hash, :row_labels, :rows_kept, :field_map)
ON CONFLICT DO NOTHING

-- name: batch
SELECT batch, source, name, row_count, refused, withdrawn_ms, field_map FROM batches WHERE batch = :batch

-- name: floors_above
SELECT org_id, floor_ms FROM orgs WHERE floor_ms > :above_ms

-- name: closed_meanwhile
SELECT 1 FROM {rows :rose (org_id text, was_ms bigint, floor_ms bigint)} r JOIN usage_samples s ON s.org_id = r.org_id
WHERE s.id >= :first_id AND s.id < :beyond_id AND s.ts >= r.was_ms AND s.ts < r.floor_ms LIMIT 1

-- name: keep_refused_rows
INSERT INTO batch_refused_rows (batch, number, wrong_column, said)
SELECT :batch, number, wrong_column, said
FROM {rows :refused_rows (number bigint, wrong_column text, said text)} r WHERE 1 = 1

-- name: note
INSERT INTO batch_files (source, name, batch, path, size_bytes, modified_ns, outcome, said, seen_ms, readings,
    shared_rows)
VALUES (:source, :name, :batch, :path, :size_bytes, :modified_ns, :outcome, :said, :seen_ms, 0, :shared_rows)
ON CONFLICT (source, name, batch, path) DO UPDATE SET size_bytes = excluded.size_bytes, modified_ns = excluded.modified_ns,
    outcome = CASE WHEN batch_files.outcome = 'taken' THEN 'taken' ELSE excluded.outcome END,
    said = CASE WHEN batch_files.outcome = 'taken' THEN batch_files.said ELSE excluded.said END,
    seen_ms = excluded.seen_ms, readings = 0, shared_rows = excluded.shared_rows

-- name: forget_readings
-- The file has an outcome, so its earlier reads no longer count.
DELETE FROM batch_files WHERE source = :source AND name = :name AND batch = '' AND path = :path

-- name: settle_elsewhere
-- A person took a file that ticks gave up or could not read. Ticks must not read the file again, because that could
-- kill them.
UPDATE batch_files SET batch = :batch, outcome = 'repeated', said = 'taken by hand', size_bytes = :size_bytes,
    modified_ns = :modified_ns, seen_ms = :seen_ms, readings = 0
WHERE name = :name AND batch = '' AND path = :path AND source <> :source AND NOT EXISTS (SELECT 1 FROM batch_files o
    WHERE o.source = batch_files.source AND o.name = :name AND o.batch = :batch AND o.path = :path)

-- name: end_conflicts
-- The file has the content of its batch again, so the conflicts of its other contents have ended.
UPDATE batch_files SET outcome = 'gone' WHERE source = :source AND name = :name AND path = :path AND batch <> :batch
    AND outcome = 'conflict'

-- Rows that a file shares with batches that were taken before.

-- name: same_rows
-- The batch with the same rows, in any format of its file. A batch in force comes before a withdrawn one.
SELECT batch, name, withdrawn_ms FROM batches WHERE rows_hash = :rows_hash
ORDER BY withdrawn_ms IS NOT NULL, taken_ms, batch LIMIT 1

-- name: near
-- Batches in force of the same time, the newest first. A batch without stored row hashes counts if its totals are the
-- same.
SELECT batch, name, row_labels, rows_kept, row_count, rows_hash IS NULL AS is_unknown FROM batches
WHERE withdrawn_ms IS NULL AND batch <> :batch AND from_ms < :to_ms AND to_ms > :from_ms AND (rows_kept <> ''
    OR (rows_hash IS NULL AND row_count = :row_count AND samples = :samples AND total = :total AND from_ms = :from_ms
        AND to_ms = :to_ms))
ORDER BY taken_ms DESC, batch LIMIT :at_most

-- name: accepted
SELECT 1 FROM batch_files WHERE batch = :batch AND accepted_ms IS NOT NULL LIMIT 1

-- name: accept
UPDATE batch_files SET accepted_ms = :now_ms, modified_ns = -1
WHERE batch = :batch AND outcome = 'conflict' AND shared_rows IS NOT NULL AND accepted_ms IS NULL

-- The withdrawal of a batch.

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
-- A sample that was withdrawn before keeps its withdrawal.
INSERT INTO withdrawals (sample_id, org_id, ts, memory_mb, interval_s, at_ms, actor, reason)
SELECT s.id, s.org_id, s.ts, s.memory_mb, s.interval_s, :at_ms, :actor, :reason
FROM {its_samples} AND s.ts >= COALESCE(o.floor_ms, 0)
ON CONFLICT DO NOTHING

-- name: count_withdrawn
-- This includes samples that were withdrawn one by one before.
SELECT COUNT(*) FROM withdrawals w WHERE w.sample_id > :first_id AND w.sample_id < :beyond_id

-- name: mark_withdrawn
UPDATE batches SET withdrawn_ms = :now_ms WHERE batch = :batch

-- name: look_again
-- The names and rows of the batch are free now. Let ticks read files in conflict again, because the conflict may have
-- been with this batch.
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
