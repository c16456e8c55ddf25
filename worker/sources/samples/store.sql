-- Inserts and reads of samples, a chunk at a time. The database fills `arrival` and `problem`.

-- name: columns
{sample_fields}, ingested_at

-- name: insert [sqlite]
-- The parameters are positional, with a tuple for each sample.
INSERT INTO usage_samples ({columns}) VALUES ({sample_marks}, ?)

-- name: insert [postgresql]
-- One statement inserts from arrays, without a temporary table. If a chunk repeats an id, its first sample is inserted.
-- The inserts are in the order of ids. Otherwise two imports of the same samples could deadlock.
INSERT INTO usage_samples ({columns}) SELECT {columns} FROM unnest(
    {sample_arrays}, CAST(:ingested_at AS bigint[])
) WITH ORDINALITY AS incoming ({columns}, n) ORDER BY id COLLATE "C", n ON CONFLICT (id) DO NOTHING

-- name: insert_each
{insert} RETURNING id

-- name: there
SELECT id FROM usage_samples WHERE id {among}

-- name: stored
SELECT {sample_fields} FROM usage_samples WHERE id {among}

-- name: among [sqlite]
-- The condition for ids that are passed as JSON.
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
