-- Pushes that a command is about.

-- name: by_filter
SELECT key FROM pushes WHERE state IN {open_states} AND {open_state} IN :states AND (:org_id = '' OR org_id = :org_id)
    AND (:provider = '' OR provider = :provider) AND (:error = '' OR last_error LIKE '%' || :error || '%')
ORDER BY window_ms, org_id, feature, revision

-- name: was_assigned
SELECT 1 FROM assignments WHERE provider = :provider LIMIT 1
