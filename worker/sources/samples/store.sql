-- Samples into the database, a chunk at a time. The database fills `arrival` and `problem`.

-- name: columns
id, org_id, sandbox_id, cell_id, memory_mb, cpu_count, interval_s, ts, ingested_at

-- name: insert [sqlite]
-- Bound by place, a tuple a row, as a file's rows come.
INSERT INTO usage_samples ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert [postgresql]
-- One statement from arrays, without a temporary table; of equal ids in one chunk the first wins. In the order of ids,
-- because two imports of the same samples would otherwise wait for each other crosswise.
INSERT INTO usage_samples ({columns}) SELECT {columns} FROM unnest(
    CAST(:id AS text[]), CAST(:org_id AS text[]), CAST(:sandbox_id AS text[]), CAST(:cell_id AS text[]),
    CAST(:memory_mb AS bigint[]), CAST(:cpu_count AS numeric[]), CAST(:interval_s AS bigint[]), CAST(:ts AS bigint[]),
    CAST(:ingested_at AS bigint[])
) WITH ORDINALITY AS incoming ({columns}, n) ORDER BY id COLLATE "C", n ON CONFLICT (id) DO NOTHING

-- name: insert_each
{insert} RETURNING id

-- name: there
SELECT id FROM usage_samples WHERE id {among}

-- name: stored
SELECT id, org_id, sandbox_id, cell_id, memory_mb, cpu_count, interval_s, ts FROM usage_samples WHERE id {among}

-- name: among [sqlite]
-- Ids as JSON.
IN (SELECT value FROM json_each(:sample_ids))

-- name: among [postgresql]
= ANY (CAST(:sample_ids AS text[]))

-- name: withdrawn
SELECT sample_id FROM withdrawals WHERE sample_id {among}

-- name: times
SELECT id, ts FROM usage_samples WHERE id IN :sample_ids

-- name: keep_conflict
INSERT INTO sample_conflicts (sample_id, source, content, seen_ms)
VALUES (:sample_id, :source, :content, :seen_ms) ON CONFLICT DO NOTHING
