-- Shared locks, and the audit.

-- name: lock_buckets
SELECT id FROM buckets WHERE id BETWEEN :lo AND :hi ORDER BY id {for_update}

-- name: lock_these_buckets
SELECT id FROM buckets WHERE id IN :buckets ORDER BY id {for_update}

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: share_charges
SELECT provider FROM provider_states WHERE provider = 'embedded' FOR SHARE

-- name: hold_charges
SELECT provider FROM provider_states WHERE provider = 'embedded' FOR NO KEY UPDATE

-- name: share_rates
SELECT provider FROM provider_states WHERE provider = 'embedded' FOR KEY SHARE

-- name: hold_rates
SELECT provider FROM provider_states WHERE provider = 'embedded' FOR UPDATE

-- name: buckets_of_orgs
SELECT org_id, bucket FROM orgs WHERE org_id IN :org_ids

-- name: record_actions
INSERT INTO operator_actions (target, details, hash, at_ms, action, actor, reason, via)
SELECT target, details, hash, :at_ms, :action, :actor, :reason, :via
FROM {rows :actions (target text, details text, hash text)} r WHERE 1 = 1

-- name: actions
-- Return a page of actions from a number on, with the columns that a hash covers.
SELECT action_id, hash, at_ms, action, target, details, actor, reason, via FROM operator_actions
WHERE action_id >= :from_id ORDER BY action_id LIMIT :at_most

-- name: chain_head
SELECT actions, hash FROM action_chain {lock}

-- name: move_chain_head
UPDATE action_chain SET actions = :actions, hash = :hash
