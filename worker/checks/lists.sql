-- What the last check of each kind found.

-- name: last
SELECT check_name, at_ms, off, alerts FROM checks
