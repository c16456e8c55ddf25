-- The levels of balances, and who bills those that are told of.

-- name: standing
-- Who bills each of these now, and as whom; at which balance it is low; the episodes that go on.
SELECT o.org_id, a.provider, a.customer_id, {low_level} AS low_micro,
    EXISTS (SELECT 1 FROM balance_episodes e WHERE e.org_id = o.org_id AND e.level = 'low' AND e.ended_ms IS NULL)
        AS is_low,
    EXISTS (SELECT 1 FROM balance_episodes e WHERE e.org_id = o.org_id AND e.level = 'exhausted'
        AND e.ended_ms IS NULL) AS is_exhausted
FROM {rows :orgs (org_id text)} o LEFT JOIN assignments a ON a.org_id = o.org_id
    AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)

-- name: end_episode
UPDATE balance_episodes SET ended_ms = :now_ms WHERE org_id = :org_id AND level = :level AND ended_ms IS NULL

-- name: begin_episode
INSERT INTO balance_episodes (org_id, level, episode, begun_ms)
SELECT :org_id, :level, COALESCE(MAX(episode), 0) + 1, :now_ms FROM balance_episodes
WHERE org_id = :org_id AND level = :level RETURNING episode
