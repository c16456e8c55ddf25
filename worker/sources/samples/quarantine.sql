-- Quarantined samples, and the reasons.

-- name: quarantined
-- Samples that still count as quarantined, with cut texts. A host may write ids of megabytes, so the database cuts
-- texts before it sorts or sends them.
SELECT {cut_sample_id} AS sample_id, {cut_sample_org_id} AS org_id, {cut_sample_sandbox_id} AS sandbox_id,
    s.problem AS reason, {cut_sample_ts} AS ts, {cut_sample_memory_mb} AS memory_mb,
    {cut_sample_interval_s} AS interval_s, {sample_came_ms} AS came_ms, {bytes_of_sample_id} AS id_bytes
{from_problems}
UNION ALL
SELECT {cut_late_id}, {cut_late_org_id}, {cut_sample_sandbox_id}, 'below_floor', {cut_sample_ts}, {cut_sample_memory_mb},
    {cut_sample_interval_s}, l.found_ms, {bytes_of_late_id}
{from_late}
UNION ALL
SELECT {cut_conflict_id}, {cut_sample_org_id}, {cut_sample_sandbox_id}, 'id_conflict', {cut_sample_ts},
    {cut_sample_memory_mb}, {cut_sample_interval_s}, c.seen_ms, {bytes_of_conflict_id}
{from_conflicts}

-- name: quarantined_whole
-- Quarantined samples with whole ids. A process must not read many of these ids.
SELECT s.id AS sample_id, s.org_id AS org_id, s.sandbox_id AS sandbox_id, s.problem AS reason, s.ts AS ts,
    s.memory_mb AS memory_mb, s.interval_s AS interval_s, s.ingested_at AS came_ms, NULL AS id_bytes
{from_problems}
UNION ALL
SELECT l.sample_id, l.org_id, s.sandbox_id, 'below_floor', s.ts, s.memory_mb, s.interval_s, l.found_ms, NULL {from_late}
UNION ALL
SELECT c.sample_id, s.org_id, s.sandbox_id, 'id_conflict', s.ts, s.memory_mb, s.interval_s, c.seen_ms, NULL
{from_conflicts}

-- name: quarantined_reasons
SELECT s.problem AS reason {from_problems}
UNION ALL SELECT 'below_floor' {from_late}
UNION ALL SELECT 'id_conflict' {from_conflicts}

-- name: from_problems
FROM usage_samples s WHERE s.problem IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM quarantine_closed q WHERE q.sample_id = s.id)

-- name: from_late
FROM late_quarantine l LEFT JOIN usage_samples s ON s.id = l.sample_id
WHERE NOT EXISTS (SELECT 1 FROM quarantine_closed q WHERE q.sample_id = l.sample_id)

-- name: from_conflicts
-- If a conflict occurs after its sample was closed, it is a new conflict.
FROM sample_conflicts c LEFT JOIN usage_samples s ON s.id = c.sample_id
WHERE NOT EXISTS (SELECT 1 FROM quarantine_closed q WHERE q.sample_id = c.sample_id AND q.at_ms >= c.seen_ms)

-- name: chosen
(:org_id = '' OR x.org_id = :org_id) AND (:reason = '' OR x.reason = :reason)
    AND (:anytime = 1 OR (x.came_ms >= :from_ms AND x.came_ms < :to_ms))

-- name: page
SELECT x.sample_id, MIN(x.org_id) AS org_id, MIN(x.sandbox_id) AS sandbox_id, x.reason, MIN(x.ts) AS ts,
    MIN(x.memory_mb) AS memory_mb, MIN(x.interval_s) AS interval_s, MAX(x.came_ms) AS came_ms,
    MAX(x.id_bytes) AS id_bytes, COUNT(*) AS samples
FROM ({quarantined}) x WHERE {chosen} AND x.sample_id > :after_sample_id {named}
GROUP BY x.sample_id, x.reason ORDER BY x.sample_id, x.reason LIMIT :at_most

-- name: with_these_ids
AND x.sample_id IN :sample_ids

-- name: reasons
SELECT DISTINCT reason FROM ({quarantined_reasons}) x ORDER BY 1

-- name: count_by_reason
SELECT reason, COUNT(*) AS samples FROM ({quarantined_reasons}) x GROUP BY reason ORDER BY reason

-- name: close_long
-- Close all samples with ids that begin like :sample_id. Only the database reads these ids, because an id can have any
-- length.
INSERT INTO quarantine_closed (sample_id, new_id, at_ms, actor, reason)
SELECT DISTINCT x.sample_id, CAST(NULL AS TEXT), CAST(:at_ms AS BIGINT), :actor, :reason_given
FROM ({quarantined_whole}) x WHERE {chosen} AND {cut_id} = :sample_id
ON CONFLICT (sample_id) DO UPDATE SET at_ms = excluded.at_ms

-- name: undo_dismiss
-- :org_id: the sample's organisation; '' for any.
DELETE FROM quarantine_closed AS x WHERE {its_id} = :sample_id AND new_id IS NULL AND (:org_id = ''
    OR EXISTS (SELECT 1 FROM usage_samples s WHERE s.id = x.sample_id AND s.org_id = :org_id)
    OR EXISTS (SELECT 1 FROM late_quarantine l WHERE l.sample_id = x.sample_id AND l.org_id = :org_id))

-- name: whole_id
x.sample_id

-- name: cut_id
CASE WHEN {octets}(CAST(x.sample_id AS {raw})) > :max_bytes
    THEN SUBSTR(x.sample_id, 1, :max_chars) || '…' ELSE x.sample_id END

-- name: sample_came_ms [sqlite]
-- SQLite can store any type in any column. Only an integer is a time.
CASE WHEN TYPEOF(s.ingested_at) = 'integer' THEN s.ingested_at END

-- name: sample_came_ms [postgresql]
s.ingested_at

-- name: octets [sqlite]
-- LENGTH returns the number of bytes of a blob. For a text, it counts the characters up to the first NUL.
LENGTH

-- name: octets [postgresql]
OCTET_LENGTH

-- name: raw [sqlite]
BLOB

-- name: raw [postgresql]
text

-- name: cut_sample_id
CASE WHEN {octets}(CAST(s.id AS {raw})) > :max_bytes
    THEN SUBSTR(s.id, 1, :max_chars) || '…' ELSE s.id END

-- name: cut_sample_org_id
CASE WHEN {octets}(CAST(s.org_id AS {raw})) > :max_bytes
    THEN SUBSTR(s.org_id, 1, :max_chars) || '…' ELSE s.org_id END

-- name: cut_sample_sandbox_id
CASE WHEN {octets}(CAST(s.sandbox_id AS {raw})) > :max_bytes
    THEN SUBSTR(s.sandbox_id, 1, :max_chars) || '…' ELSE s.sandbox_id END

-- name: cut_sample_ts [sqlite]
CASE WHEN LENGTH(CAST(s.ts AS BLOB)) > :max_bytes THEN SUBSTR(s.ts, 1, :max_chars) || '…' ELSE s.ts END

-- name: cut_sample_ts [postgresql]
CASE WHEN OCTET_LENGTH(CAST(s.ts AS text)) > :max_bytes
    THEN SUBSTR(CAST(s.ts AS text), 1, :max_chars) || '…' ELSE CAST(s.ts AS text) END

-- name: cut_sample_memory_mb [sqlite]
CASE WHEN LENGTH(CAST(s.memory_mb AS BLOB)) > :max_bytes THEN SUBSTR(s.memory_mb, 1, :max_chars) || '…' ELSE s.memory_mb END

-- name: cut_sample_memory_mb [postgresql]
CASE WHEN OCTET_LENGTH(CAST(s.memory_mb AS text)) > :max_bytes
    THEN SUBSTR(CAST(s.memory_mb AS text), 1, :max_chars) || '…' ELSE CAST(s.memory_mb AS text) END

-- name: cut_sample_interval_s [sqlite]
CASE WHEN LENGTH(CAST(s.interval_s AS BLOB)) > :max_bytes THEN SUBSTR(s.interval_s, 1, :max_chars) || '…' ELSE s.interval_s END

-- name: cut_sample_interval_s [postgresql]
CASE WHEN OCTET_LENGTH(CAST(s.interval_s AS text)) > :max_bytes
    THEN SUBSTR(CAST(s.interval_s AS text), 1, :max_chars) || '…' ELSE CAST(s.interval_s AS text) END

-- name: cut_late_id
CASE WHEN {octets}(CAST(l.sample_id AS {raw})) > :max_bytes
    THEN SUBSTR(l.sample_id, 1, :max_chars) || '…' ELSE l.sample_id END

-- name: cut_late_org_id
CASE WHEN {octets}(CAST(l.org_id AS {raw})) > :max_bytes
    THEN SUBSTR(l.org_id, 1, :max_chars) || '…' ELSE l.org_id END

-- name: cut_conflict_id
CASE WHEN {octets}(CAST(c.sample_id AS {raw})) > :max_bytes
    THEN SUBSTR(c.sample_id, 1, :max_chars) || '…' ELSE c.sample_id END

-- name: bytes_of_sample_id
{octets}(CAST(s.id AS {raw}))

-- name: bytes_of_late_id
{octets}(CAST(l.sample_id AS {raw}))

-- name: bytes_of_conflict_id
{octets}(CAST(c.sample_id AS {raw}))
