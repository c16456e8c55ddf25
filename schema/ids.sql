-- The ids of each kind, and the search for those near an unknown id.

-- name: is_known
SELECT 1 FROM {source} x WHERE id = :id LIMIT 1

-- name: from_id_on
SELECT DISTINCT id FROM {source} x WHERE id >= :id ORDER BY 1 LIMIT :at_most

-- name: before_id
SELECT DISTINCT id FROM {source} x WHERE id < :id ORDER BY 1 DESC LIMIT :at_most

-- name: with_a_half
-- Return the ids that share the first or second half of the unknown id.
SELECT DISTINCT id FROM (SELECT id FROM {source} y LIMIT :scanned) x
WHERE id LIKE :head ESCAPE '!' OR id LIKE :tail ESCAPE '!' LIMIT :at_most

-- name: sampled_from_id_on
-- Step from one organisation to the next by the index, because each organisation has many samples.
WITH RECURSIVE found (org_id) AS (
    SELECT MIN(s.org_id) FROM usage_samples s WHERE s.org_id >= :id
    UNION ALL
    SELECT (SELECT MIN(s.org_id) FROM usage_samples s WHERE s.org_id > f.org_id) FROM found f
    WHERE f.org_id IS NOT NULL
)
SELECT org_id FROM found WHERE org_id IS NOT NULL LIMIT :at_most

-- name: sampled_before_id
WITH RECURSIVE found (org_id) AS (
    SELECT MAX(s.org_id) FROM usage_samples s WHERE s.org_id < :id
    UNION ALL
    SELECT (SELECT MAX(s.org_id) FROM usage_samples s WHERE s.org_id < f.org_id) FROM found f
    WHERE f.org_id IS NOT NULL
)
SELECT org_id FROM found WHERE org_id IS NOT NULL LIMIT :at_most

-- name: has_samples
SELECT 1 FROM usage_samples WHERE org_id = :org_id LIMIT 1

-- name: orgs
(SELECT org_id AS id FROM orgs)

-- name: mapped_features
(SELECT feature AS id FROM mappings WHERE feature IS NOT NULL)

-- name: event_types
(SELECT event_type AS id FROM event_types)

-- name: backfills
(SELECT backfill AS id FROM backfills)

-- name: priced_features
(SELECT feature AS id FROM ledger_rates)

-- name: wallets
(SELECT account_id AS id FROM ledger_accounts)

-- name: assigned_customers
(SELECT customer_id AS id FROM assignments)

-- name: assigned_providers
(SELECT provider AS id FROM assignments)

-- name: ledger_plans
(SELECT "plan" AS id FROM ledger_plans)

-- name: plans_of_orgs
(SELECT "plan" AS id FROM orgs WHERE "plan" IS NOT NULL)

-- name: tiers
(SELECT tier AS id FROM tiers)

-- name: guard_metrics
(SELECT metric AS id FROM guard_metrics)

-- name: guard_uses
(SELECT use_key AS id FROM guard_uses)

-- name: pools
(SELECT pool AS id FROM pools)

-- name: payers
(SELECT payer AS id FROM payers)

-- name: runs
(SELECT reservation AS id FROM reservations)

-- name: lots
(SELECT lot AS id FROM ledger_lots)
-- name: suppliers
(SELECT supplier AS id FROM supplier_terms)

-- name: settlements
(SELECT reservation AS id FROM settlements)

-- name: payouts
(SELECT payout AS id FROM payouts)
-- name: console_users
(SELECT name AS id FROM console_users)

-- name: api_key_names
(SELECT name AS id FROM api_keys)

-- name: projects
(SELECT project AS id FROM reservations WHERE project IS NOT NULL)

-- name: subjects
(SELECT subject AS id FROM reservations WHERE subject IS NOT NULL)

-- name: acts
(SELECT action AS id FROM reservations WHERE action IS NOT NULL)

-- name: topups
(SELECT topup AS id FROM topups)

-- name: topped_up
(SELECT customer_id AS id FROM topup_terms)

-- name: hook_endpoints
(SELECT name AS id FROM hook_endpoints)

-- name: hook_messages
(SELECT message_id AS id FROM hook_messages)

-- name: cells
(SELECT cell_id AS id FROM cells)

-- name: cells_of_sandboxes
(SELECT cell_id AS id FROM sandboxes)

-- name: samples
(SELECT id FROM usage_samples)

-- name: batch_ids
(SELECT batch AS id FROM batches)

-- name: batches_that_share
(SELECT batch AS id FROM batch_files WHERE shared_rows IS NOT NULL)

-- name: batch_source_names
(SELECT source AS id FROM batch_sources)

-- name: actors
(SELECT actor AS id FROM operator_actions)

-- name: targets
(SELECT target AS id FROM operator_actions)

-- name: kinds_of_action
(SELECT action AS id FROM operator_actions)
