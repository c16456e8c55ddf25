-- The point from which a run of `verify` continues another run.

-- name: mark
-- The mark that a run leaves for the next run. Before `window_ms`, all usage was sealed and clean, and did not wait for
-- a customer or provider. Each arrival below `arrival` was counted. Before the first seal, the mark is 0. On
-- PostgreSQL, a seal's cursor can be above the arrivals of transactions that the seal could not see. So `arrival` is
-- not above these arrivals.
SELECT COALESCE(MIN(window_ms), 0) AS window_ms, COALESCE({arrival}, 0) AS arrival FROM (
    SELECT MIN({reached}) AS window_ms FROM buckets b LEFT JOIN orgs o ON o.bucket = b.id
    UNION ALL SELECT MIN(window_ms) FROM dirty_windows
    UNION ALL SELECT MIN(window_ms) FROM pending_usage WHERE reason IN ('no_customer', 'no_provider')
) x

-- name: before
SELECT COALESCE((SELECT MAX(number) FROM proofs), 0) AS run,
    COALESCE((SELECT MAX(action_id) FROM operator_actions), 0) AS action

-- name: reached
CASE WHEN o.held_watermark_ms < b.watermark_ms THEN o.held_watermark_ms ELSE b.watermark_ms END

-- name: arrival [postgresql]
LEAST((SELECT MIN(cursor) FROM buckets), (SELECT MIN(x) FROM buckets b CROSS JOIN unnest(b.in_flight) x))

-- name: arrival [sqlite]
(SELECT MIN(cursor) FROM buckets)

-- name: point
-- The earliest window that a record touched since the mark, and the kind of record. Some rows do not have a time of
-- change. So each open push counts, because it may be settled at any time, and so does usage that is pending for a
-- customer or provider. A day more allows for clocks and open transactions.
SELECT window_ms - window_ms % {window_length_ms} AS window_ms, why FROM (
    SELECT CASE WHEN :window_ms < :told_ms THEN :window_ms ELSE :told_ms END AS window_ms, '' AS why
    UNION ALL SELECT MIN({reached}), 'an organisation that is behind' FROM buckets b LEFT JOIN orgs o ON o.bucket = b.id
    UNION ALL SELECT MIN(ts), 'a late sample' FROM usage_samples WHERE arrival >= :arrival AND problem IS NULL
    UNION ALL SELECT MIN(ts), 'a withdrawal' FROM withdrawals WHERE at_ms >= :told_ms
    UNION ALL SELECT MIN(window_ms), 'a window to be sealed again' FROM dirty_windows
    UNION ALL SELECT MIN(window_ms), 'usage that nobody could bill' FROM pending_usage
        WHERE reason IN ('no_customer', 'no_provider')
    UNION ALL SELECT MIN(start_ms), 'an assignment' FROM assignments WHERE at_ms >= :told_ms
    UNION ALL SELECT MIN(start_ms), 'a mapping' FROM mappings WHERE at_ms >= :told_ms
    UNION ALL SELECT MIN(window_ms), 'a push' FROM pushes
        WHERE sealed_at_ms >= :told_ms OR settled_ms >= :told_ms OR looked_up_ms >= :told_ms OR state IN {open_states}
    UNION ALL SELECT MIN(day_ms), 'a fold' FROM folded_pushes WHERE folded_ms >= :told_ms
    UNION ALL SELECT MIN(window_ms), 'an attempt' FROM attempts WHERE started_ms >= :told_ms
    UNION ALL SELECT MIN(window_ms), 'a void' FROM voids WHERE at_ms >= :told_ms
    UNION ALL SELECT MIN(window_ms), 'an adoption' FROM adoptions WHERE at_ms >= :told_ms
    UNION ALL SELECT MIN(ts), 'an entry of the ledger' FROM ledger_entries WHERE at_ms >= :told_ms
) x WHERE window_ms IS NOT NULL ORDER BY 1, 2 LIMIT 1

-- name: newest [postgresql]
-- The value of the database's own counter of arrivals.
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint

-- name: newest [sqlite]
SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'usage_samples'), 0) + 1
