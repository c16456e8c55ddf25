-- Watched folders, and the outcomes of files.

-- name: add
INSERT INTO batch_sources (source, folder, at_ms, actor, reason, query, asked_of, period_ms, closes_after_ms, next_ms,
    field_map)
VALUES (:source, :folder, :at_ms, :actor, :reason, :query, :asked_of, :period_ms, :closes_after_ms, :next_ms,
    :field_map)

-- name: pause
UPDATE batch_sources SET paused_ms = :paused_ms WHERE source = :source

-- name: hold [postgresql]
-- Wait for a transaction that takes a file of this folder (hold_folder), so that the next statement sees the batch.
SELECT folder FROM batch_sources WHERE source = :source FOR UPDATE

-- name: hold [sqlite]
SELECT folder FROM batch_sources WHERE source = :source

-- name: its_batch
SELECT batch FROM batches WHERE source = :source LIMIT 1

-- name: forget_files
DELETE FROM batch_files WHERE source = :source

-- name: remove
DELETE FROM batch_sources WHERE source = :source

-- name: sources
SELECT s.source, s.folder, s.at_ms, s.paused_ms, s.actor, s.reason, s.query, s.asked_of, s.period_ms, s.closes_after_ms,
    s.next_ms, s.field_map, (SELECT COUNT(*) FROM batches b
    WHERE b.source = s.source AND b.withdrawn_ms IS NULL) AS batches
FROM batch_sources s ORDER BY s.source

-- name: hold_turn [postgresql]
SELECT next_ms FROM batch_sources WHERE source = :source FOR NO KEY UPDATE

-- name: hold_turn [sqlite]
SELECT next_ms FROM batch_sources WHERE source = :source

-- name: ask_from
UPDATE batch_sources SET next_ms = :next_ms WHERE source = :source

-- name: unsee
-- Query each period from :first on again. The order of names is the order of time.
UPDATE batch_files SET modified_ns = -1 WHERE source = :source AND name >= :first

-- name: passed_over
-- A person decided to skip all periods before :first.
UPDATE batch_files SET outcome = 'gone' WHERE source = :source AND name < :first
    AND outcome IN ('conflict', 'refused', 'reading', 'failed')

-- name: of_one_source
WHERE f.source = :source

-- name: of_one_batch
WHERE f.batch = :batch

-- name: files
SELECT f.source, f.name, f.batch, f.outcome, f.said, f.seen_ms, b.row_count AS rows, b.refused, b.samples, b.from_ms,
    b.to_ms, b.withdrawn_ms
FROM batch_files f LEFT JOIN batches b ON b.batch = f.batch {of_source}
ORDER BY f.seen_ms DESC, f.source, f.name, f.batch LIMIT :at_most

-- name: refused_rows
SELECT batch, number, wrong_column, said FROM batch_refused_rows WHERE batch = :batch ORDER BY number

-- Files of watched folders that wait, are being read, or could not be read.

-- name: same
batch_files.size_bytes = excluded.size_bytes AND batch_files.modified_ns = excluded.modified_ns

-- name: begin
-- Returns no row while another tick reads the file. `readings` counts the incomplete reads of the file's present size
-- and time.
INSERT INTO batch_files (source, name, batch, path, size_bytes, modified_ns, outcome, said, seen_ms, readings)
VALUES (:source, :name, '', :path, :size_bytes, :modified_ns, 'reading', '', :now_ms, 1)
ON CONFLICT (source, name, batch, path) DO UPDATE SET outcome = 'reading', said = '', seen_ms = excluded.seen_ms,
    readings = CASE WHEN {same} THEN batch_files.readings + 1 ELSE 1 END,
    size_bytes = excluded.size_bytes, modified_ns = excluded.modified_ns
WHERE NOT (batch_files.outcome = 'reading' AND batch_files.seen_ms > :now_ms - :lease_ms
    AND batch_files.seen_ms <= :now_ms + :lease_ms)
RETURNING readings

-- name: end
UPDATE batch_files SET outcome = 'failed', said = :said, seen_ms = :now_ms,
    readings = CASE WHEN :counts THEN readings ELSE 0 END
WHERE source = :source AND name = :name AND batch = '' AND path = :path AND outcome = 'reading'

-- name: unseen
-- The files without an outcome for their present size and time, and whether an earlier read failed. An outcome does not
-- count if a later file of this name had another size or time. A tick then reads the file again, so its conflict can
-- end.
SELECT i.name, EXISTS (SELECT 1 FROM batch_files f WHERE f.source = :source AND f.name = i.name
    AND f.outcome IN ('reading', 'failed')) AS failed
FROM {rows :found (name text, size_bytes bigint, modified_ns bigint)} i
WHERE NOT EXISTS (SELECT 1 FROM batch_files f WHERE f.source = :source AND f.name = i.name
    AND f.size_bytes = i.size_bytes AND f.modified_ns = i.modified_ns
    AND f.outcome IN ('taken', 'repeated', 'conflict', 'refused') AND NOT EXISTS (SELECT 1 FROM batch_files n
        WHERE n.source = f.source AND n.name = f.name AND n.seen_ms > f.seen_ms AND n.outcome <> 'gone'
            AND (n.size_bytes <> f.size_bytes OR n.modified_ns <> f.modified_ns)))

-- name: open
SELECT DISTINCT name FROM batch_files
WHERE source = :source AND outcome IN ('conflict', 'refused', 'reading', 'failed') ORDER BY name LIMIT :at_most

-- name: gone
-- If the file comes back, a tick reads it again.
UPDATE batch_files SET outcome = 'gone'
WHERE source = :source AND outcome IN ('conflict', 'refused', 'reading', 'failed')
    AND name IN (SELECT name FROM {rows :gone (name text)} g)
