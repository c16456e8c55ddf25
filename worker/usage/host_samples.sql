-- Samples that hosts send.

-- name: standing
-- The provider of an organisation in a window, and the floor below which its windows are closed for good.
SELECT k.org_id, k.window_ms, a.provider, COALESCE(o.floor_ms, 0) AS floor_ms
FROM {rows :spots (org_id text, window_ms bigint)} k
LEFT JOIN orgs o ON o.org_id = k.org_id
LEFT JOIN assignments a ON a.org_id = k.org_id AND a.start_ms <= k.window_ms
    AND (a.end_ms IS NULL OR k.window_ms < a.end_ms)
