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
