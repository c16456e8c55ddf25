-- The open pushes of each provider.

-- name: open
-- The query reads the index on open pushes. `rated_ms`, `there_ms`: the start of the ledger's rate and of the
-- provider's own rate in force at the window, or -1.
SELECT p.provider, {open_state} AS state, p.feature, COALESCE((SELECT MAX(r.start_ms) FROM ledger_rates r
        WHERE r.feature = p.feature AND r.start_ms <= p.window_ms), -1) AS rated_ms,
    COALESCE((SELECT MAX(r.start_ms) FROM provider_rates r WHERE r.provider = p.provider
        AND r.feature = p.feature AND r.start_ms <= p.window_ms), -1) AS there_ms,
    COUNT(*) AS pushes, SUM(p.sent_qty) AS quantity,
    COUNT(CASE WHEN p.attempts > 0 THEN 1 END) AS tried, MIN(p.sealed_at_ms) AS oldest_ms,
    MIN(p.window_ms) AS window_ms, {last_sent} AS last_sent_ms, MIN(p.due_at_ms) AS due_ms
FROM pushes p WHERE p.state IN {open_states} GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5

-- name: last_sent
-- The time when a queued push was last sent. For a while after that, the provider may still apply the send.
MAX(CASE WHEN p.state = 'queued' THEN COALESCE((SELECT MAX(x.started_ms) FROM attempts x WHERE {is_of_push}
    AND (x.outcome IS NULL OR x.outcome IN ('unknown', 'queued', 'accepted'))), p.first_attempt_ms, p.sealed_at_ms) END)

-- name: errors
-- Pushes that need a person come first.
SELECT p.provider, CASE p.state WHEN 'in_doubt' THEN 1 WHEN 'rejected' THEN 2 ELSE 3 END AS rank,
    SUBSTR(p.last_error, 1, 160) AS error, COUNT(*) AS pushes FROM pushes p
WHERE p.state IN {open_states} AND NOT {awaits_credit} AND p.last_error IS NOT NULL
GROUP BY 1, 2, 3 ORDER BY 2, 4 DESC, 3 LIMIT 500

-- name: ticks
SELECT started_ms, bucket_lo, report FROM ticks WHERE tick_id > (SELECT MAX(tick_id) FROM ticks) - :at_most
    AND finished_ms > :since_ms AND report IS NOT NULL ORDER BY tick_id DESC

-- name: paused
-- The paused providers, each with the actor who paused it last.
SELECT s.provider, s.paused_ms, s.paused_reason, (SELECT a.actor FROM operator_actions a
        WHERE a.action = 'provider_pause' AND a.target = s.provider ORDER BY a.action_id DESC LIMIT 1) AS paused_by
FROM provider_states s WHERE s.paused_ms IS NOT NULL
