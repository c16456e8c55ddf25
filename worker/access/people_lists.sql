-- People of the console.

-- name: users
SELECT u.name, u.role, u.grant_limit_micro, u.password IS NOT NULL AS has_password, u.created_ms, u.link_expires_ms,
    u.signed_in_ms, u.ended_ms, u.actor, u.reason,
    (SELECT COUNT(*) FROM console_sessions s WHERE s.name = u.name) AS sessions
FROM console_users u

-- name: named
{users} WHERE u.name = :name

-- name: list
{users} WHERE :after = '' OR (u.ended_ms IS NOT NULL AND :ended = 0) OR ((u.ended_ms IS NOT NULL) = (:ended = 1) AND u.name > :after)
ORDER BY CASE WHEN u.ended_ms IS NULL THEN 0 ELSE 1 END, u.name LIMIT :at_most

-- name: is_demo
SELECT 1 FROM console_marks WHERE mark = 'demo'
