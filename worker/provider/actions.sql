-- Changes of providers: accept new terms, pause, resume.

-- name: unsent
-- A push without an attempt, or with attempts that provably did not arrive.
state = 'due' AND first_attempt_ms IS NULL

-- name: open
provider = :provider AND state IN {open_states}

-- name: unsent_pushes
SELECT * FROM pushes WHERE {open} AND {unsent} ORDER BY window_ms, org_id, feature, revision LIMIT :at_most {held}

-- name: held [postgresql]
-- Lock the pushes, so that a worker cannot claim them meanwhile.
FOR UPDATE

-- name: held [sqlite]

-- name: shadow_between
-- Usage that was sealed in shadow. Drawdown sends it only after `bill_shadow`.
SELECT p.feature, CAST(SUM(p.sealed_qty) AS BIGINT) AS quantity, COUNT(DISTINCT p.org_id) AS orgs,
    MIN(p.window_ms) AS from_ms
FROM pushes p WHERE p.provider = :provider AND p.state = 'shadow' AND p.window_ms >= :from_ms AND p.window_ms < :until_ms
GROUP BY p.feature ORDER BY p.feature

-- name: unsealed_between
-- Samples of organisations that the provider bills, in windows that are not sealed yet.
SELECT CAST(COALESCE(SUM(s.interval_s), 0) AS BIGINT) FROM assignments a
JOIN orgs o ON o.org_id = a.org_id JOIN buckets b ON b.id = o.bucket
JOIN usage_samples s ON s.org_id = a.org_id AND s.ts >= a.start_ms AND (a.end_ms IS NULL OR s.ts < a.end_ms)
WHERE a.provider = :provider AND s.ts >= :from_ms AND s.ts < :until_ms AND s.problem IS NULL
    AND s.ts >= COALESCE(o.held_watermark_ms, b.watermark_ms)

-- name: shadow_pushes
SELECT * FROM pushes WHERE provider = :provider AND state = 'shadow' AND window_ms >= :from_ms
ORDER BY window_ms, org_id, feature, revision LIMIT :at_most {held}

-- name: go_live_from
UPDATE provider_states SET live_from_ms = :from_ms WHERE provider = :provider

-- name: count_open
SELECT COUNT(CASE WHEN state <> 'rejected' AND NOT ({unsent}) THEN 1 END) AS sent,
    COUNT(CASE WHEN {unsent} THEN 1 END) AS due FROM pushes WHERE {open}

-- name: after_last_sent
SELECT MAX(at_ms) + 1 FROM (
    SELECT a.started_ms AS at_ms FROM attempts a JOIN pushes p ON p.window_ms = a.window_ms AND p.org_id = a.org_id
        AND p.feature = a.feature AND p.revision = a.revision
    WHERE a.started_ms >= :since_ms AND p.provider = :provider
    UNION ALL SELECT x.at_ms FROM adoptions x JOIN pushes p ON p.window_ms = x.window_ms AND p.org_id = x.org_id
        AND p.feature = x.feature AND p.revision = x.revision
    WHERE x.at_ms >= :since_ms AND p.provider = :provider
) q

-- name: sealed_to
SELECT MAX(watermark_ms) FROM buckets

-- name: pause
INSERT INTO provider_states (provider, paused_ms, paused_reason) VALUES (:provider, :paused_ms, :paused_reason)
ON CONFLICT (provider) DO UPDATE SET paused_ms = COALESCE(provider_states.paused_ms, excluded.paused_ms),
paused_reason = excluded.paused_reason

-- name: resume
UPDATE provider_states SET paused_ms = NULL, paused_reason = NULL WHERE provider = :provider

-- An operator's settings for estimates.

-- name: insert_rate
INSERT INTO provider_rates (provider, feature, start_ms, micro, per_quantity, at_ms, actor, reason)
VALUES (:provider, :feature, :start_ms, :micro, :per_quantity, :at_ms, :actor, :reason)
ON CONFLICT DO NOTHING RETURNING feature

-- name: set_when_down
INSERT INTO provider_when_down (provider, plan, policy) VALUES (:provider, :plan, :policy)
ON CONFLICT (provider, plan) DO UPDATE SET policy = excluded.policy

-- name: delete_when_down
DELETE FROM provider_when_down WHERE provider = :provider AND plan = :plan
