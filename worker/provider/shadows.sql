-- Providers in shadow. Drawdown seals and compares their usage, but does not send it.

-- name: in_shadow
-- Providers that are not live yet, each with its first window in shadow. The query does not read
-- windows before the first assignment, because they do not have pushes to the provider.
SELECT s.provider, s.live_from_ms, (SELECT p.window_ms FROM pushes p WHERE p.provider = s.provider AND p.state = 'shadow'
        AND p.window_ms >= (SELECT MIN(a.start_ms) FROM assignments a WHERE a.provider = s.provider)
    ORDER BY p.window_ms LIMIT 1) AS since_ms
FROM provider_states s
WHERE s.live_from_ms > :now_ms ORDER BY s.provider
