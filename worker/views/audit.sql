-- The audit: people's actions.

-- name: list
-- One page, the newest first; an empty filter, or number 0, is none.
SELECT action_id, at_ms, action, target, details, actor, reason, via FROM operator_actions
WHERE (:before_id = 0 OR action_id < :before_id) AND at_ms >= :from_ms AND at_ms < :to_ms
    AND (:actor = '' OR actor = :actor) AND (:action = '' OR action = :action) AND (:target = '' OR target = :target)
    AND (:via = '' OR via = :via)
ORDER BY action_id DESC LIMIT :at_most
