-- Backfills: staged, shown, closed, reverted.

-- name: read
SELECT backfill, org_id, from_ms, to_ms, state, at_ms, closed_ms, reverted_ms, diff_hash, actor, reason FROM backfills
WHERE backfill = :backfill {held}

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: open
-- Returns no row if the name is used, or the organisation has another open backfill.
INSERT INTO backfills (backfill, org_id, from_ms, to_ms, state, at_ms, actor, reason)
VALUES (:backfill, :org_id, :from_ms, :to_ms, 'open', :at_ms, :actor, :reason) ON CONFLICT DO NOTHING RETURNING backfill

-- name: open_of
SELECT backfill FROM backfills WHERE org_id = :org_id AND state = 'open'

-- name: columns
sample_id, source, event_id, event_type, quantity, ts, subject, project, plan_key, properties

-- name: staged
SELECT COUNT(*) FROM backfill_events WHERE backfill = :backfill

-- name: stage
-- All statements that insert several rows do so in the order of ids, so they do not deadlock.
INSERT INTO backfill_events (backfill, {columns})
SELECT :backfill, {columns} FROM {rows :events (sample_id text, source text, event_id text, event_type text,
    quantity bigint, ts bigint, subject text, project text, plan_key text, properties text)} r
WHERE 1 = 1 ORDER BY sample_id ON CONFLICT (backfill, sample_id) DO NOTHING RETURNING sample_id

-- name: staged_before
SELECT {columns} FROM backfill_events WHERE backfill = :backfill AND sample_id IN :sample_ids

-- name: same
e.org_id = :org_id AND e.event_type = b.event_type AND e.quantity = b.quantity AND e.ts = b.ts
    AND COALESCE(NULLIF(e.subject, e.org_id), '') = COALESCE(NULLIF(b.subject, e.org_id), '') AND COALESCE(e.project, '') = COALESCE(b.project, '')
    AND COALESCE(e.plan_key, '') = COALESCE(b.plan_key, '') AND e.properties = b.properties

-- name: standing
-- The outcome of each event if the backfill is closed. An id that was used or withdrawn is never accepted again.
(SELECT b.sample_id, b.source, b.event_id, b.event_type, b.quantity, b.ts, b.subject, b.project, b.plan_key, b.properties,
        CASE WHEN w.sample_id IS NOT NULL THEN 'withdrawn' WHEN b.ts < COALESCE(o.floor_ms, 0) THEN 'too_late'
            WHEN s.id IS NULL AND c.metric IS NOT NULL THEN 'charged_at_once' WHEN s.id IS NULL THEN 'new' WHEN {same} THEN 'duplicate' ELSE 'conflict' END AS standing
    FROM backfill_events b LEFT JOIN usage_events e ON e.source = b.source AND e.event_id = b.event_id
        AND e.org_id = :org_id
    LEFT JOIN withdrawals w ON w.sample_id = COALESCE(e.sample_id, b.sample_id)
    LEFT JOIN usage_samples s ON s.id = COALESCE(e.sample_id, b.sample_id)
    LEFT JOIN orgs o ON o.org_id = :org_id
    LEFT JOIN ({charged}) c ON c.event_type = b.event_type AND c.window_ms = b.ts - b.ts % {window_length_ms}
    WHERE b.backfill = :backfill)

-- name: charged
-- The event types and windows of the backfill that the guard charges at once.
SELECT k.event_type, k.window_ms, {charged_by} AS metric
FROM (SELECT DISTINCT g.event_type, g.ts - g.ts % {window_length_ms} AS window_ms, t.meter FROM backfill_events g
    LEFT JOIN event_types t ON t.event_type = g.event_type WHERE g.backfill = :backfill) k
WHERE k.event_type IN (SELECT c.counts FROM {charging} c)

-- name: counts
SELECT standing, COUNT(*) AS events FROM {standing} b GROUP BY standing

-- name: new_events
SELECT {columns} FROM {standing} b WHERE standing = 'new' ORDER BY sample_id

-- name: windows
-- The usage that results if the backfill is closed, by window and type. The provider and feature are those of the
-- window, as the seal reads them (S5, P4).
SELECT k.window_ms, k.event_type, k.events, k.quantity, a.provider, {feature_of_meter} AS feature
FROM (SELECT g.*, t.meter FROM (SELECT ts - ts % {window_length_ms} AS window_ms, event_type, COUNT(*) AS events,
            CAST(SUM(quantity) AS BIGINT) AS quantity
        FROM {standing} b WHERE standing = 'new' GROUP BY ts - ts % {window_length_ms}, event_type) g
    LEFT JOIN event_types t ON t.event_type = g.event_type) k
LEFT JOIN assignments a ON a.org_id = :org_id AND a.start_ms <= k.window_ms
    AND (a.end_ms IS NULL OR k.window_ms < a.end_ms)
ORDER BY k.window_ms, k.event_type

-- name: drop_others
-- A closed backfill contains only the events that became usage.
DELETE FROM backfill_events WHERE backfill = :backfill
    AND sample_id IN (SELECT sample_id FROM {standing} b WHERE standing <> 'new')

-- name: held
SELECT {columns} FROM backfill_events WHERE backfill = :backfill ORDER BY sample_id

-- name: drop_all
DELETE FROM backfill_events WHERE backfill = :backfill

-- name: close
UPDATE backfills SET state = 'closed', closed_ms = :now_ms, diff_hash = :diff_hash WHERE backfill = :backfill

-- name: revert
UPDATE backfills SET state = 'reverted', reverted_ms = :now_ms WHERE backfill = :backfill

-- name: in_force
SELECT b.sample_id FROM backfill_events b WHERE b.backfill = :backfill
    AND NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = b.sample_id)
ORDER BY b.sample_id LIMIT :at_most

-- Lists and figures of backfills.

-- name: list
SELECT b.backfill, b.org_id, b.from_ms, b.to_ms, b.state, b.at_ms, b.closed_ms, b.reverted_ms, b.diff_hash, b.actor,
    b.reason, (SELECT COUNT(*) FROM backfill_events e WHERE e.backfill = b.backfill) AS events,
    (SELECT COUNT(*) FROM backfill_events e JOIN withdrawals w ON w.sample_id = e.sample_id
        WHERE e.backfill = b.backfill) AS withdrawn
FROM backfills b WHERE (:org_id = '' OR b.org_id = :org_id) AND (:backfill = '' OR b.backfill = :backfill)
ORDER BY b.at_ms DESC, b.backfill LIMIT :at_most

-- name: open_lists
SELECT b.backfill, b.org_id, b.from_ms, b.at_ms, b.actor, COALESCE(o.floor_ms, 0) AS floor_ms
FROM backfills b LEFT JOIN orgs o ON o.org_id = b.org_id WHERE b.state = 'open'
ORDER BY b.at_ms, b.backfill LIMIT :at_most

-- name: figures
SELECT COUNT(*) AS backfills, MIN(at_ms) AS since_ms FROM backfills WHERE state = 'open'

-- name: wallets
-- The wallets of the embedded ledger that pay for an organisation's usage of a range, and whether they pay now. The
-- query also returns the other facts that decide whether the organisation is halted.
SELECT DISTINCT a.customer_id, o.is_halted, o.operator_halt, o.override_halted, o.override_until_ms,
    CASE WHEN n.org_id IS NULL THEN 0 ELSE 1 END AS bills_now
FROM assignments a JOIN orgs o ON o.org_id = a.org_id
LEFT JOIN assignments n ON n.org_id = a.org_id AND n.provider = a.provider AND n.customer_id = a.customer_id
    AND n.start_ms <= :now_ms AND (n.end_ms IS NULL OR :now_ms < n.end_ms)
WHERE a.org_id = :org_id AND a.provider = :provider AND a.customer_id IS NOT NULL AND a.start_ms < :to_ms
    AND (a.end_ms IS NULL OR :from_ms < a.end_ms)
