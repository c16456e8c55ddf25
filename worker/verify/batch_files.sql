-- A file of usage, read again (`verify --deep`). Each value is read as text, and each text is parsed in one way.

-- name: again
CREATE TABLE again AS
SELECT org_id, ts - ts % 300000 AS window_ms, kind, SUM(quantity) AS quantity FROM (
    SELECT org_id, kind, quantity, ts
    FROM (
        SELECT org_id, {kind} AS kind, whole(said_quantity) AS quantity, COALESCE(whole(said_ts),
            CASE WHEN said_ts LIKE '____-%' THEN moment(said_ts) END) AS ts
        FROM as_text
    ) r
    WHERE length(org_id) BETWEEN 1 AND 200 AND {kind_is_one} AND quantity >= 0 AND quantity <= most()
        AND ts >= 946684800000 AND ts <= latest()
) fit GROUP BY 1, 2, 3 HAVING SUM(quantity) > 0

-- name: meter
INSERT INTO meters VALUES ($event_type, $meter)

-- name: whole
-- This parses the text, so that a type cannot round a fraction. It accepts at most 18 digits, and only zeros after a
-- point.
CREATE MACRO whole(x) AS
    CASE WHEN x SIMILAR TO ' *[0-9]{1,18}(|[.]0*) *' THEN CAST(regexp_extract(x, '[0-9]+') AS BIGINT) END;
-- The hour 24 is invalid. A leap second counts as the last moment before the next second.
CREATE MACRO moment(x) AS CASE WHEN x SIMILAR TO '.*[Tt ]24([^0-9].*|)' THEN NULL
    WHEN x SIMILAR TO '.*[0-9][0-9][^0-9]60([.,][0-9]+|)([Zz+-].*|)' THEN epoch_ms(TRY_CAST(
        regexp_replace(x, '([0-9][0-9][^0-9])60([.,][0-9]+)?($|[Zz+-])', '\159.999\3') AS TIMESTAMPTZ))
    ELSE epoch_ms(TRY_CAST(regexp_replace(x, 'z *$', 'Z') AS TIMESTAMPTZ)) END;
-- The value as text. A floating-point number is written with its exact value, not as the shortest text that parses to
-- it.
CREATE MACRO said(x) AS CASE WHEN typeof(x) IN ('FLOAT', 'DOUBLE') THEN CAST(TRY_CAST(x AS DOUBLE) + 0 AS VARCHAR)
    ELSE CAST(x AS VARCHAR) END;
-- A time in text must not have a point, unless it is an ISO time.
CREATE MACRO said_time(x) AS CASE WHEN typeof(x) = 'VARCHAR' AND CAST(x AS VARCHAR) SIMILAR TO ' *[0-9]+[.].*' THEN NULL
    ELSE said(x) END

-- name: size
whole(said_kind)

-- name: size_is_one
kind >= 0 AND kind <= 16777216

-- name: type
(SELECT m.meter FROM meters m WHERE m.event_type = said_kind)

-- name: type_is_one
kind IS NOT NULL

-- name: text_of_sizes
CREATE VIEW as_text AS SELECT org_id, said(memory_mb) AS said_kind,
    said(interval_s) AS said_quantity, said_time(ts) AS said_ts FROM file_rows

-- name: text_of_events
CREATE VIEW as_text AS SELECT org_id, CAST(event_type AS VARCHAR) AS said_kind,
    said(quantity) AS said_quantity, said_time(ts) AS said_ts FROM file_rows

-- name: lines
-- Each value of JSON lines is read by its text in JSON. A text with quotes is a string, and a text of only digits is a
-- number. In a value that is not a time, a fraction of zeros is ignored.
CREATE MACRO quoted(x) AS CASE WHEN starts_with(CAST(x AS VARCHAR), '"') THEN x ->> '$' END;
CREATE MACRO digits(x) AS CASE WHEN CAST(x AS VARCHAR) SIMILAR TO '[0-9]+' THEN CAST(x AS VARCHAR) ELSE quoted(x) END;
CREATE MACRO plain(x) AS digits(CASE WHEN CAST(x AS VARCHAR) SIMILAR TO '[0-9]+[.]0+'
    THEN CAST(split_part(CAST(x AS VARCHAR), '.', 1) AS JSON) ELSE x END);
CREATE VIEW file_rows AS SELECT quoted(org_id) AS org_id, quoted(event_type) AS event_type, digits(ts) AS ts,
    plain(memory_mb) AS memory_mb, plain(interval_s) AS interval_s, plain(quantity) AS quantity FROM file_values

-- name: first
-- The keys of the first line show whether a file of JSON lines has events.
SELECT CAST(json AS VARCHAR) FROM file_lines LIMIT 1

-- name: sums
SELECT org_id, window_ms, kind, quantity FROM again ORDER BY 1, 2, 3
