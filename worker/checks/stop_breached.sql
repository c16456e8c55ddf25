-- Stops organisations that have a breach.

-- name: released_since
SELECT target FROM operator_actions WHERE action = 'org_release' AND action_id > :action
