-- Providers in shadow: what they are to bill is sealed and compared, and not sent.

-- name: in_shadow
-- Those that bill somebody, from the first window that was sealed in shadow until they are live.
SELECT s.provider, s.live_from_ms, (SELECT p.window_ms FROM pushes p WHERE p.provider = s.provider AND p.state = 'shadow'
    ORDER BY p.window_ms LIMIT 1) AS since_ms
FROM provider_states s
WHERE s.live_from_ms > :now_ms ORDER BY s.provider
