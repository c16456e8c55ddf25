-- Backfills as they stand.

-- name: list
SELECT b.backfill, b.org_id, b.from_ms, b.to_ms, b.state, b.at_ms, b.closed_ms, b.reverted_ms, b.diff_hash, b.actor,
    b.reason, (SELECT COUNT(*) FROM backfill_events e WHERE e.backfill = b.backfill) AS events,
    (SELECT COUNT(*) FROM backfill_events e JOIN withdrawals w ON w.sample_id = e.sample_id
        WHERE e.backfill = b.backfill) AS withdrawn
FROM backfills b WHERE (:org_id = '' OR b.org_id = :org_id) AND (:backfill = '' OR b.backfill = :backfill)
ORDER BY b.at_ms DESC, b.backfill LIMIT :at_most
