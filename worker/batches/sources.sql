-- Watched folders, and what came of files.

-- name: add
INSERT INTO batch_sources (source, folder, at_ms, actor, reason, query, asked_of, period_ms, closes_after_ms, next_ms)
VALUES (:source, :folder, :at_ms, :actor, :reason, :query, :asked_of, :period_ms, :closes_after_ms, :next_ms)

-- name: pause
UPDATE batch_sources SET paused_ms = :paused_ms WHERE source = :source

-- name: hold [postgresql]
-- Whoever takes a file of its folder is waited for (hold_folder), and seen by what comes next.
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
    s.next_ms, (SELECT COUNT(*) FROM batches b
    WHERE b.source = s.source AND b.withdrawn_ms IS NULL) AS batches
FROM batch_sources s ORDER BY s.source

-- name: hold_turn [postgresql]
SELECT next_ms FROM batch_sources WHERE source = :source FOR NO KEY UPDATE

-- name: hold_turn [sqlite]
SELECT next_ms FROM batch_sources WHERE source = :source

-- name: ask_from
UPDATE batch_sources SET next_ms = :next_ms WHERE source = :source

-- name: unsee
-- From there on each period is asked for again. Names are in the order of time.
UPDATE batch_files SET modified_ns = -1 WHERE source = :source AND name >= :first

-- name: passed_over
-- A person decided that nothing before it is to be asked for.
UPDATE batch_files SET outcome = 'gone' WHERE source = :source AND name < :first
    AND outcome IN ('conflict', 'refused', 'reading', 'failed')

-- name: of_one_source
WHERE f.source = :source

-- name: files
SELECT f.source, f.name, f.batch, f.outcome, f.said, f.seen_ms, b.row_count AS rows, b.refused, b.samples, b.from_ms,
    b.to_ms, b.withdrawn_ms
FROM batch_files f LEFT JOIN batches b ON b.batch = f.batch {of_source}
ORDER BY f.seen_ms DESC, f.source, f.name, f.batch LIMIT :at_most

-- name: refused_rows
SELECT batch, number, wrong_column, said FROM batch_refused_rows WHERE batch = :batch ORDER BY number
