-- Pushes that ticks do not send: in doubt, rejected, or waiting for credit.
--
-- Guarantee: each statement reads by the index of pushes that need a person. It repeats the condition of that index
-- word for word.

-- name: sums
-- One row for each rate in force, of the ledger and of the provider. All windows of a row have the same price.
SELECT p.provider, {open_state} AS state, p.feature,
    COALESCE((SELECT MAX(r.start_ms) FROM ledger_rates r
        WHERE r.feature = p.feature AND r.start_ms <= p.window_ms), -1) AS here_ms,
    COALESCE((SELECT MAX(r.start_ms) FROM provider_rates r WHERE r.provider = p.provider
        AND r.feature = p.feature AND r.start_ms <= p.window_ms), -1) AS there_ms,
    COUNT(*) AS pushes, CAST(SUM(p.sent_qty) AS BIGINT) AS quantity, MIN(p.window_ms) AS window_ms,
    MIN(p.sealed_at_ms) AS oldest_ms, MAX(CASE WHEN p.lookups > 0 THEN p.due_at_ms END) AS due_ms
FROM pushes p WHERE p.state IN ('in_doubt', 'rejected') GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5

-- name: orgs
SELECT p.provider, {open_state} AS state, COUNT(DISTINCT p.org_id) AS orgs
FROM pushes p WHERE p.state IN ('in_doubt', 'rejected') GROUP BY 1, 2
