-- Facts about organisations in the responses to pushes.

-- name: answered
-- Rows are locked in the order of their ids, because otherwise two such transactions could deadlock. The rows include
-- organisations that another provider bills now.
SELECT o.org_id, o.is_halted, o.projection_read_ms, o.unread_since_ms, o.balance_micro,
    o.balance_read_ms, o.unconfirmed_micro, o.runs_out_ms, o.watch_due_ms, o.feature_limits,
    CASE WHEN EXISTS (SELECT 1 FROM balance_episodes e
        WHERE e.org_id = o.org_id AND e.level = 'low' AND e.ended_ms IS NULL) THEN NULL ELSE {low_level} END AS low_micro
FROM orgs o WHERE o.org_id IN :org_ids ORDER BY o.org_id {hold_orgs}

-- name: unsure
-- The given organisations with a requested refresh, or with another push under a lease at the claim. The remaining
-- credit may or may not include that push. If its lease ended earlier, `lost` requests a refresh. The statement reads
-- all claimed pushes, so run it only for organisations with a balance to write.
SELECT o.org_id FROM orgs o WHERE o.org_id IN :org_ids AND (o.projection_due_ms IS NOT NULL
    OR o.org_id IN (SELECT p.org_id FROM pushes p WHERE p.provider = :provider
        AND p.state IN {open_states} AND p.due_at_ms > :claimed_ms AND p.claim_owner IS NOT NULL))

-- name: hold_orgs [postgresql]
FOR NO KEY UPDATE OF o

-- name: hold_orgs [sqlite]

-- name: note_answers
-- The caller has locked the rows. An earlier refresh deadline stays. A missing value leaves its column unchanged.
UPDATE orgs SET refresh_requests = orgs.refresh_requests + 1, refresh_deadline_ms = CASE
        WHEN x.refresh_deadline_ms < orgs.refresh_deadline_ms OR orgs.refresh_deadline_ms IS NULL
        THEN x.refresh_deadline_ms ELSE orgs.refresh_deadline_ms END,
    projection_due_ms = CASE WHEN x.asked = 1 THEN {earliest_ask} ELSE orgs.projection_due_ms END,
    balance_micro = COALESCE(x.balance_micro, orgs.balance_micro),
    balance_read_ms = COALESCE(x.balance_read_ms, orgs.balance_read_ms),
    feature_limits = COALESCE(x.feature_limits, orgs.feature_limits)
FROM {rows :answers (org_id text, asked bigint, refresh_deadline_ms bigint, balance_micro bigint, balance_read_ms bigint,
    feature_limits text)} x
WHERE orgs.org_id = x.org_id
