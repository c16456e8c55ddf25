-- Sizes and features.

-- name: unmapped_sizes
SELECT memory_mb, SUM(seconds) AS seconds, SUM(samples) AS samples, COUNT(DISTINCT org_id) AS orgs FROM pending_usage
WHERE reason = 'no_mapping' GROUP BY memory_mb ORDER BY memory_mb

-- name: mapped_features
SELECT DISTINCT feature FROM mappings WHERE feature IS NOT NULL ORDER BY 1

-- name: unrated_features
SELECT DISTINCT m.feature FROM mappings m
WHERE m.feature IS NOT NULL AND NOT EXISTS (SELECT 1 FROM ledger_rates r WHERE r.feature = m.feature) ORDER BY 1
