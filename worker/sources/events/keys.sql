-- What was taken under the keys of events.

-- name: keys
{rows :keys (sample_id text, other_id text, source text, event_id text, org_id text)}

-- name: stored
-- By the claim (0), and by the organisation's own key (1).
WITH asked AS MATERIALIZED (SELECT * FROM {keys} k)
SELECT q.name, q.asker, q.place, q.sample_id, q.event_type, q.org_id, q.quantity, q.ts, q.subject, q.project, q.plan_key,
    q.properties, CASE WHEN w.sample_id IS NULL THEN 0 ELSE 1 END AS withdrawn
FROM (SELECT k.sample_id AS name, k.org_id AS asker, 0 AS place, e.* FROM asked k JOIN usage_events e ON e.sample_id = k.sample_id
    UNION ALL SELECT k.sample_id, k.org_id, 1, e.* FROM asked k JOIN usage_events e ON e.source = k.source
        AND e.event_id = k.event_id AND e.org_id = k.org_id) q
LEFT JOIN withdrawals w ON w.sample_id = q.sample_id
ORDER BY q.place

-- name: withdrawn
WITH asked AS MATERIALIZED (SELECT * FROM {keys} k)
SELECT i.sample_id FROM asked i WHERE EXISTS ({was_withdrawn})

-- name: not_new
-- Looked up before, as nobody else writes meanwhile.
WITH asked AS MATERIALIZED (SELECT * FROM {keys} k)
SELECT i.sample_id FROM asked i WHERE EXISTS ({was_withdrawn})
    OR EXISTS (SELECT 1 FROM usage_samples s WHERE s.id = i.sample_id)
    OR EXISTS (SELECT 1 FROM usage_events e WHERE e.source = i.source AND e.event_id = i.event_id
        AND e.org_id = i.org_id)
