-- Providers: new terms are accepted, one is paused, one goes on.

-- name: unsent
-- Proven not to have arrived, if it was tried at all.
state = 'due' AND first_attempt_ms IS NULL

-- name: open
provider = :provider AND state IN {open_states}

-- name: unsent_pushes
SELECT * FROM pushes WHERE {open} AND {unsent} ORDER BY window_ms, org_id, feature, revision LIMIT :at_most {held}

-- name: held [postgresql]
-- None of them is claimed meanwhile.
FOR UPDATE

-- name: held [sqlite]

-- name: count_open
SELECT COUNT(CASE WHEN state <> 'rejected' AND NOT ({unsent}) THEN 1 END) AS sent,
    COUNT(CASE WHEN {unsent} THEN 1 END) AS due FROM pushes WHERE {open}

-- name: sealed_to
SELECT MAX(watermark_ms) FROM buckets

-- name: pause
INSERT INTO provider_states (provider, paused_ms, paused_reason) VALUES (:provider, :paused_ms, :paused_reason)
ON CONFLICT (provider) DO UPDATE SET paused_ms = COALESCE(provider_states.paused_ms, excluded.paused_ms),
paused_reason = excluded.paused_reason

-- name: resume
UPDATE provider_states SET paused_ms = NULL, paused_reason = NULL WHERE provider = :provider
