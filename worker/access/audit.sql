-- The audit: actions of people and programs.

-- name: list
-- One page, the newest action first. An empty text, or the number 0, does not filter.
SELECT action_id, at_ms, action, target, details, actor, reason, via FROM operator_actions
WHERE (:before_id = 0 OR action_id < :before_id) AND action_id >= :floor_id AND at_ms >= :from_ms AND at_ms < :to_ms
    AND (:actor = '' OR actor = :actor) AND (:action = '' OR action = :action) AND (:target = '' OR target = :target)
    AND (:via = '' OR via = :via)
ORDER BY action_id DESC LIMIT :at_most

-- name: newest_id
SELECT MAX(action_id) FROM operator_actions

-- name: newest_hash
SELECT hash FROM operator_actions ORDER BY action_id DESC LIMIT 1

-- name: with_those_before
-- Rows of a page, each with the hash of the row before it.
SELECT a.action_id, a.at_ms, a.action, a.target, a.details, a.actor, a.reason, a.via, a.hash,
    COALESCE((SELECT p.hash FROM operator_actions p WHERE p.action_id < a.action_id ORDER BY p.action_id DESC LIMIT 1), '')
        AS hash_before
FROM operator_actions a WHERE a.action_id IN :ids ORDER BY a.action_id
