-- Batches and their samples (invariant 9).

-- name: chosen
(SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN {chosen}

-- name: of_a_batch
s.id >= 'batch:' AND s.id < 'batch;'

-- name: its_batch
-- The id of a sample is batch:BATCH:NUMBER, where BATCH has 32 characters.
substr(s.id, 7, 32)

-- name: window
s.ts - s.ts % {window_length_ms} AS window_ms

-- name: batch_otherwise
-- Samples below a floor may be deleted, so a batch that reaches below a floor may have fewer samples.
SELECT 'batch_mismatch' AS what, CAST(NULL AS TEXT) AS org_id, b.from_ms AS window_ms, CAST(NULL AS TEXT) AS feature,
    b.batch, b.name, b.samples, b.total, COALESCE(u.samples, 0) AS its_samples, COALESCE(u.total, 0) AS its_total
FROM batches b LEFT JOIN (SELECT {its_batch} AS batch, COUNT(*) AS samples, SUM(s.interval_s) AS total
    FROM usage_samples s WHERE {of_a_batch} AND s.problem IS NULL GROUP BY 1) u ON u.batch = b.batch
WHERE COALESCE(u.samples, 0) > b.samples OR COALESCE(u.total, 0) > b.total
    OR ((COALESCE(u.samples, 0) < b.samples OR COALESCE(u.total, 0) < b.total)
        AND b.from_ms >= (SELECT MAX(floor_ms) FROM orgs))

-- name: file_otherwise
-- Each batch has a file, and each recorded file names a batch.
SELECT 'batch_file_mismatch' AS what, CAST(NULL AS TEXT) AS org_id, CAST(NULL AS BIGINT) AS window_ms,
    CAST(NULL AS TEXT) AS feature, COALESCE(b.name, f.name) AS name, COALESCE(b.batch, f.batch) AS batch
FROM (SELECT DISTINCT name, batch FROM batch_files WHERE outcome IN ('taken', 'repeated')) f
    FULL JOIN batches b ON b.batch = f.batch
WHERE b.batch IS NULL OR f.batch IS NULL

-- name: batchless
SELECT 'sample_without_batch' AS what, s.org_id, {window}, CAST(NULL AS TEXT) AS feature, s.id AS sample_id
FROM usage_samples s WHERE {of_a_batch} AND s.problem IS NULL
    AND NOT EXISTS (SELECT 1 FROM batches b WHERE b.batch = {its_batch})

-- name: batch_unwithdrawn
SELECT 'unwithdrawn_batch' AS what, s.org_id, {window}, CAST(NULL AS TEXT) AS feature, s.id AS sample_id, b.name
FROM usage_samples s JOIN batches b ON b.batch = {its_batch} LEFT JOIN orgs o ON o.org_id = s.org_id
WHERE {of_a_batch} AND s.problem IS NULL AND b.withdrawn_ms IS NOT NULL AND s.ts >= COALESCE(o.floor_ms, 0)
    AND NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = s.id)

-- name: in_force
SELECT batch, name, path, taken_ms, field_map FROM batches WHERE withdrawn_ms IS NULL ORDER BY taken_ms, batch

-- name: sums
-- The sums of a batch's samples, in the order of bytes. Samples below a floor may be deleted.
SELECT s.org_id, s.ts - s.ts % {window_length_ms} AS window_ms, s.memory_mb, SUM(s.interval_s) AS quantity
FROM usage_samples s WHERE s.id >= :first_id AND s.id < :beyond_id GROUP BY 1, 2, 3 ORDER BY 1, 2, 3

-- name: meters
SELECT event_type, meter FROM event_types

-- name: floor
SELECT floor_ms FROM orgs WHERE org_id = :org_id
