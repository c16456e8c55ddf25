-- The clock of the database server, and the last tick.

-- name: database_now
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint

-- name: last_doubted_clock
SELECT started_ms FROM ticks WHERE NOT clock_trusted ORDER BY tick_id DESC LIMIT 1
