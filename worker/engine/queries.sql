-- Questions to the database server itself.

-- name: database_now
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
