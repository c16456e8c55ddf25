-- Providers in shadow: the usage that they are to bill is sealed and compared, and not sent.

-- name: in_shadow
-- Those that bill somebody, from the first window that was sealed in shadow until they are live. Windows before their
-- first assignment have none of them, and are not read.
SELECT s.provider, s.live_from_ms, (SELECT p.window_ms FROM pushes p WHERE p.provider = s.provider AND p.state = 'shadow'
        AND p.window_ms >= (SELECT MIN(a.start_ms) FROM assignments a WHERE a.provider = s.provider)
    ORDER BY p.window_ms LIMIT 1) AS since_ms
FROM provider_states s
WHERE s.live_from_ms > :now_ms ORDER BY s.provider
