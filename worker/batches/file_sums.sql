-- The queries that DuckDB runs on one file, `file_rows`. They do not access Drawdown's own database.

-- name: readers
-- Functions that read a value by its type in the file. They return NULL for a value that is not a whole number of 64
-- bits, and for an invalid time. In text, a whole number has at most 18 digits and no sign. A fraction of zeros is whole,
-- and an exponent is invalid. A text of digits is a time in milliseconds, and a time without an offset is UTC. Other
-- times must be read as `events.fields` reads them.
CREATE MACRO whole_of_integer(x) AS TRY_CAST(x AS BIGINT);
CREATE MACRO whole_of_number(x) AS
    CASE WHEN isfinite(CAST(x AS DOUBLE)) AND x = floor(x) THEN TRY_CAST(x AS BIGINT) END;
CREATE MACRO whole_of_text(x) AS
    CASE WHEN regexp_full_match(x, ' *[0-9]{1,18}([.]0*)? *') THEN TRY_CAST(split_part(trim(x), '.', 1) AS BIGINT) END;
CREATE MACRO moment_of_text(x) AS CASE WHEN regexp_full_match(x, ' *[0-9]{1,18} *') THEN TRY_CAST(trim(x) AS BIGINT)
    WHEN regexp_matches(x, '[Tt ]24($|[:Zz+-])') THEN NULL
    WHEN regexp_matches(x, '[Tt ][0-9][0-9]:[0-9][0-9]:60([.,][0-9]+)?($|[Zz+-])')
        THEN epoch_ms(TRY_CAST(regexp_replace(x, '([0-9][0-9][^0-9])60([.,][0-9]+)?($|[Zz+-])', '\159.999\3') AS TIMESTAMPTZ))
    WHEN x LIKE '____-%' THEN epoch_ms(TRY_CAST(regexp_replace(x, 'z *$', 'Z') AS TIMESTAMPTZ)) END;
CREATE MACRO moment_of_local(x) AS epoch_ms(TRY_CAST(x AS TIMESTAMP));
CREATE MACRO moment_of_zoned(x) AS epoch_ms(x);
CREATE TABLE unclean (org_id VARCHAR)

-- name: by_column
-- Readers for text, and for columns that have a type.
CREATE MACRO text_of(x) AS x;
CREATE MACRO said_of(x) AS CAST(x AS VARCHAR)

-- name: by_value
-- Readers for JSON, where each value has its own type. A number with a point or an exponent is a DOUBLE, so it is
-- rounded. If the rounded number is whole, other programs read the same number.
CREATE MACRO said_of(x) AS json_extract_string(x, '$');
CREATE MACRO text_of(x) AS CASE WHEN json_type(x) = 'VARCHAR' THEN said_of(x) END;
CREATE MACRO whole_of_json(x) AS CASE json_type(x) WHEN 'UBIGINT' THEN TRY_CAST(said_of(x) AS BIGINT)
    WHEN 'DOUBLE' THEN whole_of_text(said_of(x)) WHEN 'VARCHAR' THEN whole_of_text(said_of(x)) END;
CREATE MACRO moment_of_json(x) AS CASE json_type(x) WHEN 'UBIGINT' THEN TRY_CAST(said_of(x) AS BIGINT)
    WHEN 'VARCHAR' THEN moment_of_text(said_of(x)) END

-- name: id_of_line
-- The key of the id in a line of JSON, or NULL. Each line has its own keys.
CASE WHEN id IS NOT NULL THEN 'id' WHEN event_id IS NOT NULL THEN 'event_id' END

-- name: id_by_header
CAST(NULL AS VARCHAR)

-- name: sizes
CREATE VIEW understood AS
SELECT {id_column} AS id_column, text_of(org_id) AS org_id, size_of(memory_mb) AS kind,
    quantity_of(interval_s) AS quantity, moment_of(ts) AS ts,
    said_of(org_id) AS said_org, said_of(memory_mb) AS said_kind, said_of(interval_s) AS said_quantity,
    said_of(ts) AS said_ts, labels
FROM labelled_rows;
CREATE MACRO kind_fits(x) AS x BETWEEN 0 AND largest_size()

-- name: events
CREATE VIEW understood AS
SELECT {id_column} AS id_column, text_of(org_id) AS org_id, text_of(event_type) AS kind,
    quantity_of(quantity) AS quantity, moment_of(ts) AS ts,
    said_of(org_id) AS said_org, said_of(event_type) AS said_kind, said_of(quantity) AS said_quantity,
    said_of(ts) AS said_ts, labels
FROM labelled_rows;
CREATE MACRO kind_fits(x) AS length(x) BETWEEN 1 AND longest_id()

-- name: fits
-- If a value is NULL, the row does not fit.
length(org_id) BETWEEN 1 AND longest_id() AND kind_fits(kind) AND quantity BETWEEN 0 AND most_quantity()
    AND ts BETWEEN earliest_ms() AND latest_ms()

-- name: add_up
-- Add up the file in one pass. Rows that do not fit form one group without an organisation. DuckDB's SUM of 64-bit
-- integers has 128 bits.
CREATE TABLE groups AS
SELECT CASE WHEN fits THEN org_id END AS org_id, CASE WHEN fits THEN ts - ts % window_ms() END AS window_ms,
    CASE WHEN fits THEN kind END AS kind, SUM(CASE WHEN fits THEN quantity END) AS quantity, COUNT(*) AS samples,
    COUNT(id_column) AS with_ids, SUM(row_hash) AS hash_sum, BIT_XOR(row_hash) AS hash_xor
FROM (SELECT *, CASE WHEN fits THEN {row_hash} END AS row_hash
    FROM (SELECT id_column, org_id, kind, quantity, ts, labels, COALESCE({fits}, false) AS fits FROM understood) f) r
GROUP BY ALL

-- name: plain_hash
-- A hash of the billed fields of a row, which does not depend on the file's format. MD5 is the same in each version of
-- DuckDB.
md5_number_lower(concat_ws(chr(31), org_id, kind, quantity, ts))

-- name: row_hash
-- A hash of the billed fields and the labels, which distinguish rows with the same billed fields.
md5_number_lower(concat_ws(chr(31), org_id, kind, quantity, ts, labels))

-- name: compared
-- The rows with the smallest hashes, each distinct hash once. Drawdown compares files by these rows.
CREATE TABLE compared AS
SELECT plain, {row_hash} AS whole, org_id, CAST(kind AS VARCHAR) AS kind, quantity, COUNT(*) AS times
FROM (SELECT *, {plain_hash} AS plain FROM understood WHERE COALESCE({fits}, false)) r
WHERE quantity > 0 AND plain <= largest_hash() AND org_id NOT IN (SELECT org_id FROM unclean)
GROUP BY ALL;
CREATE TABLE earlier (batch VARCHAR, labelled_alike BOOLEAN, plain UBIGINT, whole UBIGINT)

-- name: kept_rows
SELECT plain, whole FROM compared ORDER BY plain, whole LIMIT $most

-- name: forget_earlier
DELETE FROM earlier

-- name: earlier
INSERT INTO earlier
SELECT $batch, $labelled_alike, unnest(CAST($plain AS UBIGINT[])), unnest(CAST($whole AS UBIGINT[]))

-- name: shared
-- Rows that are also in an earlier batch. If both files have the same label columns, the labels must be equal, too.
SELECT batch, org_id, kind, CAST(SUM(times) AS BIGINT) AS rows, CAST(SUM(times * quantity) AS HUGEINT) AS quantity
FROM (SELECT DISTINCT e.batch, c.* FROM compared c JOIN earlier e ON e.plain = c.plain
    AND (NOT e.labelled_alike OR e.whole = c.whole)) s
GROUP BY ALL ORDER BY ALL

-- name: with_ids
SELECT COALESCE(SUM(with_ids), 0) FROM groups

-- name: first_id
SELECT number, id_column FROM (SELECT row_number() OVER () AS number, id_column FROM understood) r
WHERE id_column IS NOT NULL LIMIT 1

-- name: names
SELECT DISTINCT org_id FROM groups WHERE org_id IS NOT NULL

-- name: part_kinds
SELECT DISTINCT kind FROM parts

-- name: unclean
INSERT INTO unclean VALUES ($name)

-- name: set_unclean_aside
UPDATE groups SET org_id = NULL WHERE org_id IN (SELECT org_id FROM unclean)

-- name: facts
SELECT COALESCE(SUM(samples) FILTER (org_id IS NOT NULL), 0), COALESCE(SUM(samples) FILTER (org_id IS NULL), 0),
    MIN(window_ms) FILTER (org_id IS NOT NULL), MAX(window_ms) FILTER (org_id IS NOT NULL),
    COALESCE(SUM((quantity + most_of_part() - 1) // most_of_part()) FILTER (org_id IS NOT NULL), 0),
    COALESCE(SUM(quantity) FILTER (org_id IS NOT NULL), 0), SUM(hash_sum) FILTER (org_id IS NOT NULL),
    BIT_XOR(hash_xor) FILTER (org_id IS NOT NULL)
FROM groups

-- name: cut
-- A sample has a maximum amount, so a group becomes as many samples as needed. A group with the sum 0 gets no sample.
CREATE TABLE parts AS
SELECT row_number() OVER (ORDER BY org_id, window_ms, kind, i) AS number, org_id, window_ms, kind,
    CAST(least(most_of_part(), quantity - i * most_of_part()) AS BIGINT) AS quantity
FROM (SELECT *, unnest(range(CAST((quantity + most_of_part() - 1) // most_of_part() AS BIGINT))) AS i
    FROM groups WHERE org_id IS NOT NULL AND quantity > 0) g;
DROP TABLE groups

-- name: parts
SELECT number, org_id, window_ms, kind, quantity FROM parts ORDER BY number

-- name: refused
-- The first rows that do not fit, in the order of the file, each with the wrong column and its value.
SELECT number, CASE WHEN NOT org_fits THEN 'org_id' WHEN NOT COALESCE(kind_fits(kind), false) THEN kind_column()
        WHEN NOT COALESCE(quantity BETWEEN 0 AND most_quantity(), false) THEN quantity_column() ELSE 'ts' END AS wrong,
    CASE wrong WHEN 'org_id' THEN said_org WHEN 'ts' THEN said_ts WHEN kind_column() THEN said_kind
        ELSE said_quantity END AS said
FROM (SELECT row_number() OVER () AS number, *, COALESCE({fits}, false) AS fits,
    COALESCE(length(org_id) BETWEEN 1 AND longest_id() AND org_id NOT IN (SELECT org_id FROM unclean), false) AS org_fits
    FROM understood) r
WHERE NOT (fits AND org_fits) LIMIT most_refused()
