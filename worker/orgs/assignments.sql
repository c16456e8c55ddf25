-- Assignments: the provider and the customer of an organisation, from a window on.

-- name: unassigned
-- Organisations without any assignment, including those that only samples name.
SELECT org_id FROM orgs o WHERE NOT EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = o.org_id)
UNION SELECT DISTINCT s.org_id FROM usage_samples s WHERE s.problem IS NULL AND NOT EXISTS
    (SELECT 1 FROM orgs o WHERE o.org_id = s.org_id) ORDER BY 1

-- name: lock_org_rows [postgresql]
SELECT org_id FROM orgs WHERE org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} r)
ORDER BY org_id FOR NO KEY UPDATE

-- name: lock_org_rows [sqlite]
SELECT org_id FROM orgs WHERE 1 = 0

-- name: first_and_later
SELECT MIN(start_ms) AS first_start_ms,
    MIN(CASE WHEN start_ms >= :start_ms THEN start_ms END) AS later_start_ms FROM assignments
WHERE org_id = :org_id

-- name: end_the_one_before
UPDATE assignments SET end_ms = :start_ms WHERE org_id = :org_id AND end_ms IS NULL AND start_ms < :start_ms

-- name: insert_assignment
INSERT INTO assignments (org_id, start_ms, end_ms, provider, customer_id, at_ms, actor, reason)
VALUES (:org_id, :start_ms, :end_ms, :provider, :customer_id, :at_ms, :actor, :reason)

-- name: without_customer
-- The starts of the latest assignments, if they are to this provider without a customer.
SELECT a.start_ms FROM assignments a WHERE a.org_id = :org_id AND a.start_ms > COALESCE((SELECT MAX(d.start_ms)
    FROM assignments d WHERE d.org_id = :org_id AND (d.provider <> :provider OR d.customer_id <> '')), -1)
ORDER BY a.start_ms

-- name: fill_customer
UPDATE assignments SET customer_id = :customer_id WHERE org_id = :org_id AND start_ms = :start_ms

-- name: latest_two
SELECT * FROM assignments WHERE org_id = :org_id ORDER BY start_ms DESC LIMIT 2

-- name: left_customers
-- The customers of the assignments that end at :start_ms.
SELECT org_id, customer_id FROM assignments WHERE org_id IN :org_ids AND end_ms = :start_ms AND customer_id <> ''

-- name: stopped
-- The tiers and automatic top-ups (`tier` NULL) of wallets that are unused from :now_ms on.
SELECT t.customer_id, t.tier FROM tier_holders t
WHERE t.customer_id IN :customers AND t.ended_ms IS NULL AND t.renews AND {is_unused}
UNION ALL SELECT t.customer_id, NULL FROM topup_terms t
WHERE t.customer_id IN :customers AND t.mode = 'live' AND {is_unused}
ORDER BY 1, 2

-- name: starting
SELECT provider, customer_id FROM assignments WHERE org_id = :org_id AND start_ms = :start_ms

-- name: delete_assignment
DELETE FROM assignments WHERE org_id = :org_id AND start_ms = :start_ms

-- name: go_on
UPDATE assignments SET end_ms = NULL WHERE org_id = :org_id AND start_ms = :start_ms

-- name: watermark
SELECT COALESCE(o.held_watermark_ms, b.watermark_ms) FROM orgs o JOIN buckets b ON b.id = o.bucket
WHERE o.org_id = :org_id

-- name: take_effect
UPDATE orgs SET billing_provider = COALESCE((SELECT provider FROM assignments a WHERE a.org_id = :org_id
AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)), billing_provider),
projection_due_ms = :projection_due_ms, refresh_requests = refresh_requests + 1 WHERE org_id = :org_id

-- name: forget_balance
-- Delete the stored balance, because it belonged to another customer.
UPDATE orgs SET balance_micro = NULL, balance_read_ms = NULL, unconfirmed_micro = NULL, unread_since_ms = NULL
WHERE org_id = :org_id

-- name: waiting_windows
-- The windows with usage that was pending for an assignment.
pending_usage WHERE org_id = :org_id AND window_ms >= :start_ms

-- name: unseen
-- If seals have not read a late sample yet, its window is not dirty. So the query finds the sample by its arrival (S2).
SELECT DISTINCT s.org_id, {window} AS window_ms FROM usage_samples s WHERE {later} AND s.problem IS NULL
    AND s.ts < (SELECT MAX(watermark_ms) FROM buckets) AND s.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} g)

-- name: waiting
-- The usage that a seal recorded as pending, and usage in windows without a provider that no seal has reached yet. If a
-- sample was withdrawn or arrived, the next seal computes its window again. The pending usage of such a window is
-- counted again here, too.
WITH segments AS MATERIALIZED ( -- otherwise SQLite parses the mapping again for each sample
    SELECT lo, hi, start_ms, end_ms
    FROM {rows :segments (lo bigint, hi bigint, start_ms bigint, end_ms bigint)} r),
org AS (
    SELECT o.org_id, o.floor_ms, COALESCE(o.held_watermark_ms, b.watermark_ms) AS watermark_ms
    FROM orgs o JOIN buckets b ON b.id = o.bucket WHERE o.org_id = :org_id),
anew AS MATERIALIZED (
    SELECT n.window_ms FROM (SELECT window_ms FROM {rows :unseen (window_ms bigint)} u
        UNION SELECT d.window_ms FROM dirty_windows d WHERE d.org_id = :org_id) n
    JOIN org ON n.window_ms >= org.floor_ms AND n.window_ms < org.watermark_ms),
used AS (
    SELECT s.id, s.ts, s.memory_mb, s.interval_s, s.problem FROM org
    JOIN usage_samples s ON s.org_id = org.org_id AND s.ts >= org.watermark_ms
    UNION ALL
    SELECT s.id, s.ts, s.memory_mb, s.interval_s, s.problem FROM anew
    JOIN usage_samples s ON s.org_id = :org_id AND s.ts >= anew.window_ms AND s.ts < anew.window_ms + {window_length_ms}),
waiting AS (
    SELECT p.window_ms, p.memory_mb, p.seconds FROM pending_usage p
    WHERE p.org_id = :org_id AND p.reason NOT IN {mapping_reasons} AND p.window_ms NOT IN (SELECT window_ms FROM anew)
    UNION ALL
    SELECT {window}, s.memory_mb, s.interval_s FROM used s
    JOIN segments g ON s.memory_mb BETWEEN g.lo AND g.hi AND {window} >= g.start_ms AND {window} < g.end_ms
    LEFT JOIN withdrawals w ON w.sample_id = s.id
    WHERE s.problem IS NULL AND w.sample_id IS NULL AND (NOT EXISTS (
        SELECT 1 FROM assignments a WHERE a.org_id = :org_id AND a.start_ms <> :start_ms AND a.start_ms <= s.ts
            AND (a.end_ms IS NULL OR s.ts < a.end_ms OR a.end_ms = :start_ms))
        OR EXISTS (SELECT 1 FROM pending_usage p WHERE p.org_id = :org_id AND p.window_ms = {window}
            AND p.memory_mb = s.memory_mb AND p.reason IN ('no_customer', 'no_provider')))
)
SELECT COALESCE(SUM(CASE WHEN window_ms >= :start_ms AND {sized} THEN seconds END), 0) AS resolved_s,
    COALESCE(SUM(CASE WHEN window_ms >= :start_ms AND NOT {sized} THEN seconds END), 0) AS resolved_units,
    COALESCE(SUM(CASE WHEN window_ms < :start_ms AND {sized} THEN seconds END), 0) AS before_start_s,
    COALESCE(SUM(CASE WHEN window_ms < :start_ms AND NOT {sized} THEN seconds END), 0) AS before_start_units FROM waiting

-- name: sized
-- The use of sandboxes is in seconds. All other usage is in units of event types, and is never added to seconds.
memory_mb <= {most_memory_mb}

-- name: window
s.ts - s.ts % {window_length_ms}
