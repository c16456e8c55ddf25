-- Pools.

-- name: one
SELECT 1 FROM pools WHERE pool = :pool

-- name: make
INSERT INTO pools (pool, at_ms, actor, reason) VALUES (:pool, :at_ms, :actor, :reason)
ON CONFLICT (pool) DO NOTHING RETURNING pool

-- name: open_wallet
-- If the wallet exists, do not return a row, because another transaction may just have made it for a customer.
INSERT INTO ledger_accounts (account_id) VALUES (:account_id) ON CONFLICT (account_id) DO NOTHING RETURNING account_id

-- Payers: the wallets that pay for the executions of other organisations.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: hold_wallet
SELECT account_id FROM ledger_accounts WHERE account_id = :account_id {for_update}

-- name: newest
SELECT payer, org_id, number, allowed, limit_micro, since_ms, at_ms, actor, reason FROM payers
WHERE payer = :payer AND org_id = :org_id ORDER BY number DESC LIMIT 1

-- name: numbered
SELECT payer, org_id, number, allowed, limit_micro, since_ms, at_ms, actor, reason FROM payers
WHERE payer = :payer AND org_id = :org_id AND number = :number

-- name: of_org
SELECT DISTINCT payer FROM payers WHERE org_id = :org_id ORDER BY payer LIMIT :at_most

-- name: say
-- The row never applies to a time before an accepted execution or an earlier row. A wrong clock of this machine does
-- not change that.
INSERT INTO payers (payer, org_id, number, allowed, limit_micro, since_ms, at_ms, actor, reason)
SELECT CAST(:payer AS TEXT), CAST(:org_id AS TEXT), q.number, :allowed, CAST(:limit_micro AS BIGINT),
    CASE WHEN q.least_ms > :now_ms THEN q.least_ms ELSE :now_ms END, :now_ms, CAST(:actor AS TEXT),
    CAST(:reason AS TEXT)
FROM (SELECT COALESCE(MAX(number), 0) + 1 AS number, MAX(moment_ms) AS least_ms FROM (
    SELECT p.number, p.since_ms AS moment_ms FROM payers p WHERE p.payer = :payer AND p.org_id = :org_id
    UNION ALL SELECT 0, r.accepted_ms FROM reservations r
    WHERE r.customer_id = :payer AND r.org_id = :org_id AND r.payer_number IS NOT NULL) said) q

-- name: spent
-- Return the amount that open executions reserve, and the amount that the others drew. An execution past its end
-- does not reserve credit, even if it is not marked as expired.
SELECT CAST(COALESCE(SUM(CASE WHEN state = 'held' AND expires_ms > :now_ms AND amount_micro > drawn_micro
    THEN amount_micro ELSE drawn_micro END), 0) AS BIGINT)
FROM reservations WHERE customer_id = :payer AND org_id = :org_id AND payer_number = :number
