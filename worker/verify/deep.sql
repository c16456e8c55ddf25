-- A file of usage, read again (`verify --deep`): every value as text, and the text in one way.

-- name: again
CREATE TABLE again AS
SELECT org_id, ts - ts % 300000 AS window_ms, kind, SUM(quantity) AS quantity FROM (
    SELECT org_id, kind, quantity, ts
    FROM (
        SELECT org_id, {kind} AS kind, whole(said_quantity) AS quantity, COALESCE(whole(said_ts),
            CASE WHEN said_ts LIKE '____-%' THEN epoch_ms(TRY_CAST(said_ts AS TIMESTAMPTZ)) END) AS ts
        FROM as_text
    ) r
    WHERE length(org_id) BETWEEN 1 AND 200 AND {kind_is_one} AND quantity >= 0 AND quantity <= most()
        AND ts >= 946684800000 AND ts <= latest()
) fit GROUP BY 1, 2, 3 HAVING SUM(quantity) > 0

-- name: meter
INSERT INTO meters VALUES ($event_type, $meter)

-- name: whole
CREATE MACRO whole(x) AS CASE WHEN regexp_matches(x, '[^0-9. ]') THEN NULL
    WHEN TRY_CAST(x AS DECIMAL(30, 3)) % 1 = 0 THEN TRY_CAST(TRY_CAST(x AS DECIMAL(30, 3)) AS BIGINT) END

-- name: size
whole(said_kind)

-- name: size_is_one
kind >= 0 AND kind <= 16777216

-- name: type
(SELECT m.meter FROM meters m WHERE m.event_type = said_kind)

-- name: type_is_one
kind IS NOT NULL

-- name: text_of_sizes
CREATE VIEW as_text AS SELECT org_id, CAST(memory_mb AS VARCHAR) AS said_kind,
    CAST(interval_s AS VARCHAR) AS said_quantity, CAST(ts AS VARCHAR) AS said_ts FROM file_rows

-- name: text_of_events
CREATE VIEW as_text AS SELECT org_id, CAST(event_type AS VARCHAR) AS said_kind,
    CAST(quantity AS VARCHAR) AS said_quantity, CAST(ts AS VARCHAR) AS said_ts FROM file_rows

-- name: first
-- Whether a file of JSON lines tells of events: its first line says.
SELECT event_type IS NOT NULL FROM file_rows LIMIT 1

-- name: sums
SELECT org_id, window_ms, kind, quantity FROM again ORDER BY 1, 2, 3
