-- Files of watched folders that are to be read, are being read, or could not be.

-- name: same
batch_files.size_bytes = excluded.size_bytes AND batch_files.modified_ns = excluded.modified_ns

-- name: begin
-- None where another tick began a moment ago. Readings that did not end are counted for the file as it stands.
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
-- Those of which nothing became yet, as they stand now; and whether one could not be read before.
SELECT i.name, EXISTS (SELECT 1 FROM batch_files f WHERE f.source = :source AND f.name = i.name
    AND f.outcome IN ('reading', 'failed')) AS failed
FROM {rows :found (name text, size_bytes bigint, modified_ns bigint)} i
WHERE NOT EXISTS (SELECT 1 FROM batch_files f WHERE f.source = :source AND f.name = i.name
    AND f.size_bytes = i.size_bytes AND f.modified_ns = i.modified_ns
    AND f.outcome IN ('taken', 'repeated', 'conflict', 'refused'))

-- name: open
SELECT DISTINCT name FROM batch_files
WHERE source = :source AND outcome IN ('conflict', 'refused', 'reading', 'failed') ORDER BY name LIMIT :at_most

-- name: gone
-- One that comes back is looked at again.
UPDATE batch_files SET outcome = 'gone'
WHERE source = :source AND outcome IN ('conflict', 'refused', 'reading', 'failed')
    AND name IN (SELECT name FROM {rows :gone (name text)} g)
