-- What a file has in common with batches that were taken before.

-- name: same_rows
-- The batch that has the same rows, whatever its file is like: one that stands, else one that was withdrawn.
SELECT batch, name, withdrawn_ms FROM batches WHERE rows_hash = :rows_hash
ORDER BY withdrawn_ms IS NOT NULL, taken_ms, batch LIMIT 1

-- name: near
-- Those that stand and are of the same time, the newest first; of those that no row is known of, the ones that come to the same.
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
