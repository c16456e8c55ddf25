-- A wallet's entries, a page at a time, by the time of use.

-- name: page
-- Each part goes by its own index and is as long as the page: by both sides at once, the whole ledger would be read.
SELECT l.* FROM (
    SELECT * FROM (SELECT {columns}, -amount_micro AS moved_micro FROM ledger_entries
        WHERE from_account = :account_id AND {left} AND {meant} {down_to}
        ORDER BY ts DESC, key DESC LIMIT :at_most) taken
    UNION ALL
    SELECT * FROM (SELECT {columns}, amount_micro AS moved_micro FROM ledger_entries
        WHERE to_account = :account_id AND kind = 'grant' AND {came} AND {meant} {down_to}
        ORDER BY ts DESC, key DESC LIMIT :at_most) given
    UNION ALL
    SELECT * FROM (SELECT {columns}, amount_micro AS moved_micro FROM ledger_entries
        WHERE to_account = :account_id AND kind = 'expiry' AND to_account <> 'breakage' AND {came} AND {meant}
            {down_to} ORDER BY ts DESC, key DESC LIMIT :at_most) back
) l ORDER BY l.ts DESC, l.key DESC LIMIT :at_most

-- name: columns
key, kind, feature, quantity, ts, at_ms, actor, reason, reservation, lot

-- name: came
ts >= :used_from_ms AND (ts, key) < (:after_ms, :after_key)

-- name: left
ts >= :used_from_ms AND (ts, key) < (:left_ms, :left_key)

-- name: meant
at_ms >= :booked_from_ms AND at_ms < :booked_to_ms AND ABS(amount_micro) >= :size_from AND ABS(amount_micro) < :size_to

-- name: last
-- The last one that is looked at, of what leaves the wallet: what comes in is little.
SELECT ts, key, COUNT(*) OVER () AS looked FROM (SELECT ts, key FROM ledger_entries
    WHERE from_account = :account_id AND {left} ORDER BY ts DESC, key DESC LIMIT :looked_at) looked
ORDER BY ts, key LIMIT 1

-- name: down_to
AND (ts, key) >= (:last_ms, :last_key)

-- name: booked
SELECT balance_micro FROM ledger_accounts WHERE account_id = :account_id

-- name: moment
SELECT ts FROM ledger_entries WHERE key = :after_key AND (from_account = :account_id OR to_account = :account_id)
