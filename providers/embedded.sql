-- The embedded provider's reads beside the ledger.

-- name: voided
-- Those of these pushes that were voided, by their keys.
SELECT p.key
FROM {rows :pushes (window_ms bigint, org_id text, feature text, revision bigint, key text)} p
JOIN voids x ON {is_of_push}

-- name: features_with_rate
SELECT feature FROM ledger_rates
