-- Pools, allotments and payers.

-- name: pools
SELECT p.pool, {available_micro} AS available_micro,
    CAST(COALESCE((SELECT SUM(e.amount_micro) FROM ledger_entries e
        WHERE e.from_account = a.account_id AND e.kind = 'grant'), 0) AS BIGINT) AS allotted_micro,
    CAST(COALESCE((SELECT SUM(e.amount_micro) FROM ledger_entries e
        WHERE e.to_account = a.account_id AND e.kind = 'expiry' AND e.to_account <> 'breakage'), 0) AS BIGINT)
        AS returned_micro,
    (SELECT COUNT(DISTINCT l.customer_id) FROM ledger_lots l WHERE l.pool = p.pool AND l.expires_ms > :now_ms) AS members
FROM pools p JOIN ledger_accounts a ON a.account_id = 'wallet:' || p.pool ORDER BY p.pool LIMIT :at_most

-- name: allotments
SELECT lot, customer_id FROM ledger_lots WHERE pool = :pool ORDER BY expires_ms DESC, lot LIMIT :at_most

-- name: payers
SELECT p.payer, p.org_id, p.allowed, p.limit_micro, p.since_ms, p.actor, p.reason,
    CAST(COALESCE((SELECT SUM(CASE WHEN r.state = 'held' AND r.expires_ms > :now_ms AND r.amount_micro > r.drawn_micro
        THEN r.amount_micro ELSE r.drawn_micro END) FROM reservations r
        WHERE r.customer_id = p.payer AND r.org_id = p.org_id AND r.payer_number = {allowed_last}), 0) AS BIGINT) AS spent_micro
FROM payers p WHERE (:payer = '' OR p.payer = :payer) AND (:org_id = '' OR p.org_id = :org_id)
    AND p.number = (SELECT MAX(q.number) FROM payers q WHERE q.payer = p.payer AND q.org_id = p.org_id)
    AND (:ended = 1 OR p.allowed)
ORDER BY p.payer, p.org_id LIMIT :at_most

-- name: allowed_last
-- The last permission of a payer. The end of a permission has its own number, under which executions are never
-- accepted.
(SELECT MAX(l.number) FROM payers l WHERE l.payer = p.payer AND l.org_id = p.org_id AND l.allowed)
