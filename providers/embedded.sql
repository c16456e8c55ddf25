-- The reads of the embedded provider outside the ledger.

-- name: voided
-- Return the keys of the given pushes that were voided.
SELECT p.key
FROM {rows :pushes (window_ms bigint, org_id text, feature text, revision bigint, key text)} p
JOIN voids x ON {is_of_push}

-- name: features_with_rate
SELECT feature FROM ledger_rates
