-- Backfills as they stand.

-- name: list
SELECT b.backfill, b.org_id, b.from_ms, b.to_ms, b.state, b.at_ms, b.closed_ms, b.reverted_ms, b.diff_hash, b.actor,
    b.reason, (SELECT COUNT(*) FROM backfill_events e WHERE e.backfill = b.backfill) AS events,
    (SELECT COUNT(*) FROM backfill_events e JOIN withdrawals w ON w.sample_id = e.sample_id
        WHERE e.backfill = b.backfill) AS withdrawn
FROM backfills b WHERE (:org_id = '' OR b.org_id = :org_id) AND (:backfill = '' OR b.backfill = :backfill)
ORDER BY b.at_ms DESC, b.backfill LIMIT :at_most

-- name: open
SELECT b.backfill, b.org_id, b.from_ms, b.at_ms, b.actor, COALESCE(o.floor_ms, 0) AS floor_ms
FROM backfills b LEFT JOIN orgs o ON o.org_id = b.org_id WHERE b.state = 'open'
ORDER BY b.at_ms, b.backfill LIMIT :at_most

-- name: figures
SELECT COUNT(*) AS backfills, MIN(at_ms) AS since_ms FROM backfills WHERE state = 'open'

-- name: wallets
-- Whose wallets here are charged for an organisation's usage of a range, whether they are now, and what else decides
-- whether it is halted.
SELECT DISTINCT a.customer_id, o.is_halted, o.operator_halt, o.override_halted, o.override_until_ms,
    CASE WHEN n.org_id IS NULL THEN 0 ELSE 1 END AS bills_now
FROM assignments a JOIN orgs o ON o.org_id = a.org_id
LEFT JOIN assignments n ON n.org_id = a.org_id AND n.provider = a.provider AND n.customer_id = a.customer_id
    AND n.start_ms <= :now_ms AND (n.end_ms IS NULL OR :now_ms < n.end_ms)
WHERE a.org_id = :org_id AND a.provider = :provider AND a.customer_id IS NOT NULL AND a.start_ms < :to_ms
    AND (a.end_ms IS NULL OR :from_ms < a.end_ms)
