-- A wallet's entries, a page at a time, by the time that they count for.

-- name: page
-- Each part goes by its own index and is as long as the page: by both sides at once, the whole ledger would be read.
SELECT l.* FROM (
    SELECT * FROM (SELECT {columns}, -amount_micro AS moved_micro FROM ledger_entries
        WHERE from_account = :account_id AND {behind} ORDER BY ts DESC, key DESC LIMIT :at_most) taken
    UNION ALL
    SELECT * FROM (SELECT {columns}, amount_micro AS moved_micro FROM ledger_entries
        WHERE to_account = :account_id AND kind = 'grant' AND {behind} ORDER BY ts DESC, key DESC LIMIT :at_most) given
    UNION ALL
    SELECT * FROM (SELECT {columns}, amount_micro AS moved_micro FROM ledger_entries
        WHERE to_account = :account_id AND kind = 'expiry' AND to_account <> 'breakage' AND {behind}
        ORDER BY ts DESC, key DESC LIMIT :at_most) back
) l ORDER BY l.ts DESC, l.key DESC LIMIT :at_most

-- name: columns
key, kind, feature, quantity, ts, at_ms, actor, reason, reservation, lot

-- name: from_the_start
1 = 1

-- name: from_there
(ts, key) < (:after_ms, :after_key)

-- name: booked
SELECT balance_micro FROM ledger_accounts WHERE account_id = :account_id

-- name: moment
SELECT ts FROM ledger_entries WHERE key = :after_key AND (from_account = :account_id OR to_account = :account_id)
