-- Batches: what was taken, what came of each file.

-- name: hold_folder [postgresql]
-- Whoever takes a file of one folder waits here for the other who does: a tick, and a person who names the file.
SELECT source FROM batch_sources WHERE folder = :folder FOR NO KEY UPDATE

-- name: hold_folder [sqlite]
SELECT 1 WHERE 1 = 0

-- name: shared [postgresql]
FOR SHARE OF b

-- name: shared [sqlite]

-- name: other_of_name
-- A batch that stands, and came under this name, or from this path by another way: from the folder that is watched, or
-- by hand. Also one that lies under another name by now. Shared: its withdrawal, after which
-- files in conflict with it are looked at again, comes before this or waits for what is said here.
SELECT f.batch, f.seen_ms > :now_ms AS is_newer FROM batch_files f JOIN batches b ON b.batch = f.batch
WHERE f.source IN (SELECT :source UNION ALL SELECT '' UNION ALL SELECT source FROM batch_sources WHERE folder = :folder)
    AND (f.source = :source OR f.source <> '' OR f.path = :path)
    AND f.name = :name AND f.batch <> :batch AND f.outcome IN ('taken', 'repeated')
    AND b.withdrawn_ms IS NULL ORDER BY f.batch LIMIT 1 {shared}

-- name: claim
-- Neither the content nor the name may be another batch's: whoever has either committed first.
INSERT INTO batches (batch, source, name, path, row_count, refused, samples, total, from_ms, to_ms, taken_ms, actor,
    reason, rows_hash, row_labels, rows_kept)
VALUES (:batch, :source, :name, :path, :row_count, :refused, :samples, :total, :from_ms, :to_ms, :taken_ms, :actor,
    :reason, :rows_hash, :row_labels, :rows_kept)
ON CONFLICT DO NOTHING

-- name: batch
SELECT batch, source, name, row_count, refused, withdrawn_ms FROM batches WHERE batch = :batch

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
-- Something became of the file: what its readings were before is past.
DELETE FROM batch_files WHERE source = :source AND name = :name AND batch = '' AND path = :path

-- name: settle_elsewhere
-- A file that ticks gave up, or could not read, was taken by hand: no tick reads it again, which it might end once more.
UPDATE batch_files SET batch = :batch, outcome = 'repeated', said = 'taken by hand', size_bytes = :size_bytes,
    modified_ns = :modified_ns, seen_ms = :seen_ms, readings = 0
WHERE name = :name AND batch = '' AND path = :path AND source <> :source AND NOT EXISTS (SELECT 1 FROM batch_files o
    WHERE o.source = batch_files.source AND o.name = :name AND o.batch = :batch AND o.path = :path)

-- name: end_conflicts
-- The file has the content again that its name stands for: what else it had is gone.
UPDATE batch_files SET outcome = 'gone' WHERE source = :source AND name = :name AND path = :path AND batch <> :batch
    AND outcome = 'conflict'

