-- Providers in shadow: their usage is sealed and compared, but not sent.

-- name: in_shadow
-- Providers with an assignment that are not live yet, each with its first window in shadow. Windows before the first
-- assignment are not read, because the provider does not have pushes there.
SELECT s.provider, s.live_from_ms, (SELECT p.window_ms FROM pushes p WHERE p.provider = s.provider AND p.state = 'shadow'
        AND p.window_ms >= (SELECT MIN(a.start_ms) FROM assignments a WHERE a.provider = s.provider)
    ORDER BY p.window_ms LIMIT 1) AS since_ms
FROM provider_states s
WHERE s.live_from_ms > :now_ms ORDER BY s.provider
