-- A wallet's entries, a page at a time, by the time of use.

-- name: page
-- Each part uses its own index and has at most a page of rows. A query by both accounts at once would read the whole
-- ledger.
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
-- Return the last entry that the bound allows, of the entries that leave the wallet. Entries that come in are few, so
-- they do not need a bound.
SELECT ts, key, COUNT(*) OVER () AS looked FROM (SELECT ts, key FROM ledger_entries
    WHERE from_account = :account_id AND {left} ORDER BY ts DESC, key DESC LIMIT :looked_at) looked
ORDER BY ts, key LIMIT 1

-- name: down_to
AND (ts, key) >= (:last_ms, :last_key)

-- name: booked
SELECT balance_micro FROM ledger_accounts WHERE account_id = :account_id

-- name: moment
SELECT ts FROM ledger_entries WHERE key = :after_key AND (from_account = :account_id OR to_account = :account_id)

-- A wallet by days.

-- name: lines
-- Charges of use and tiers leave a wallet. Grants, and credit that an expiry returns to a pool, come in. Each part uses
-- its own index, because a query by both accounts at once would read the whole ledger.
SELECT {columns}, -amount_micro AS moved_micro FROM ledger_entries
WHERE from_account = :account_id AND ts >= :from_ms AND ts < :to_ms
UNION ALL
SELECT {columns}, amount_micro FROM ledger_entries
WHERE to_account = :account_id AND kind = 'grant' AND ts >= :from_ms AND ts < :to_ms
UNION ALL
SELECT {columns}, amount_micro FROM ledger_entries
WHERE to_account = :account_id AND kind = 'expiry' AND to_account <> 'breakage' AND ts >= :from_ms AND ts < :to_ms

-- name: use_by
SELECT ts - ts % :step_ms AS at_ms, COALESCE(feature, '') AS feature, CAST(SUM(amount_micro) AS BIGINT) AS micro
FROM ledger_entries WHERE from_account = :account_id AND kind IN ('usage', 'execution') AND ts >= :from_ms AND ts < :to_ms
GROUP BY 1, 2 ORDER BY 1, 2 LIMIT :at_most

-- name: ledger_by_day
SELECT l.ts - l.ts % 86400000 AS day_ms, l.kind, COUNT(*) AS entries, CAST(SUM(l.moved_micro) AS BIGINT) AS moved_micro
FROM ({lines}) l GROUP BY 1, 2 ORDER BY 1 DESC, 2 LIMIT :at_most

-- name: entries_of_day
SELECT l.* FROM ({lines}) l ORDER BY l.ts DESC, l.key DESC LIMIT :at_most

-- name: closing
-- Return the wallet's balance at the end of the days, which is the present balance less later entries.
SELECT CAST(COALESCE((SELECT a.balance_micro FROM ledger_accounts a WHERE a.account_id = :account_id), 0)
    - COALESCE((SELECT SUM(l.moved_micro) FROM ({lines}) l), 0) AS BIGINT) AS closing_micro

-- name: goes_on
-- An execution past its end does not continue, even before a transaction expires it.
r.state = 'held' AND r.expires_ms > :now_ms

-- name: run_steps
SELECT COUNT(*) AS accepted, SUM(r.amount_micro) AS accepted_micro,
    SUM(CASE WHEN {goes_on} THEN 1 ELSE 0 END) AS going,
    SUM(CASE WHEN {goes_on} AND r.drawn_micro = 0 THEN 1 ELSE 0 END) AS waiting,
    SUM(CASE WHEN {goes_on} AND r.amount_micro > r.drawn_micro THEN r.amount_micro - r.drawn_micro ELSE 0 END)
        AS held_micro,
    SUM(CASE WHEN {goes_on} THEN 0 ELSE 1 END) AS complete,
    SUM(CASE WHEN {goes_on} THEN 0 ELSE r.drawn_micro END) AS drawn_micro
FROM reservations r WHERE {of_org}

-- name: of_org
r.org_id = :org_id AND r.accepted_ms >= :from_ms

-- name: run_settlements
-- The suppliers' shares of the organisation's executions, with any payer, and the part that no payout has released.
SELECT COUNT(*) AS settling, SUM(x.owed_micro - x.clawed_back_micro) AS left_micro,
    SUM(CASE WHEN x.state = 'released' THEN 0 ELSE x.owed_micro END) AS unreleased_micro
FROM {settlements_now} x

-- name: of_settlements
{of_org}

-- The use of a wallet: all charges of metering and executions, less their refunds, by the time of use.

-- name: is_use
from_account = :account_id AND kind IN ('usage', 'execution')

-- name: used
-- `days`: the full days since the first use, at most :most_days. The day of the first use is full only if the use was
-- at its start. NULL: the wallet was never used.
SELECT d.days, (SELECT COALESCE(CAST(SUM(amount_micro) AS BIGINT), 0) FROM ledger_entries
        WHERE {is_use} AND ts >= :today_ms - d.days * 86400000 AND ts < :today_ms) AS used_micro
FROM (SELECT CASE WHEN f.days > :most_days THEN :most_days ELSE f.days END AS days FROM (
    SELECT (:today_ms - (MIN(ts) + 86399999) / 86400000 * 86400000) / 86400000 AS days FROM ledger_entries WHERE {is_use}
) f) d
