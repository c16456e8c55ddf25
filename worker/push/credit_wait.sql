-- Rejections that wait for credit.

-- name: waiting
-- Rejected for want of credit, of customers of whom a later read showed credit that their feature can draw on. Word for word the condition of the index
-- on what people settle, however much is due. A window that was refused before waits twice as long each time.
SELECT p.* FROM pushes p JOIN orgs o ON o.org_id = p.org_id
WHERE p.state IN ('in_doubt', 'rejected') AND {awaits_credit} AND p.due_at_ms <= :now_ms
    AND p.window_ms >= o.floor_ms AND o.bucket BETWEEN :lo AND :hi AND o.stopped_at_ms IS NULL
    AND o.billing_provider = p.provider AND o.unread_since_ms IS NULL AND o.projection_read_ms > p.settled_ms
    AND (o.balance_micro IS NULL OR o.balance_micro > 0)
    AND (o.refused IS NULL OR REPLACE(o.refused, '"' || p.feature || '"', '') = o.refused)
    AND :now_ms - p.settled_ms >= CASE WHEN p.revision < 9 AND :first_wait_ms * (1 << p.revision) < :longest_wait_ms
        THEN :first_wait_ms * (1 << p.revision) ELSE :longest_wait_ms END
ORDER BY p.window_ms, p.org_id, p.feature, p.revision LIMIT :at_most {held}

-- name: hold_push [postgresql]
FOR UPDATE OF p

-- name: hold_push [sqlite]

-- name: unread
-- Organisations with such pushes that were not read for a while.
SELECT DISTINCT o.org_id FROM pushes p JOIN orgs o ON o.org_id = p.org_id
WHERE p.state IN ('in_doubt', 'rejected') AND {awaits_credit} AND p.due_at_ms <= :now_ms
    AND o.bucket BETWEEN :lo AND :hi AND o.stopped_at_ms IS NULL AND o.billing_provider = p.provider
    AND o.projection_due_ms IS NULL AND COALESCE(o.projection_read_ms, 0) <= :now_ms - :first_wait_ms
ORDER BY 1 LIMIT :at_most
