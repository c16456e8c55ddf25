-- An account's statement. The database sums up the entries, so the answer has a bounded number of lines.

-- name: entries
-- A wallet's entries, each with its change of the balance. Only grants, and credit that returns to a pool, come into a
-- wallet.
(SELECT key, kind, feature, quantity, amount_micro, ts, at_ms, reservation, lot, -amount_micro AS moved_micro, 1 AS pays
    FROM ledger_entries WHERE from_account = :account_id
UNION ALL SELECT key, kind, feature, quantity, amount_micro, ts, at_ms, reservation, lot, amount_micro, 0
    FROM ledger_entries WHERE to_account = :account_id AND kind IN ('grant', 'expiry')) e

-- name: booked
-- A statement selects by the time of booking, so late usage is in a later statement.
e.at_ms >= :from_ms AND e.at_ms < :to_ms

-- name: sums
-- The sums of entries before the start, before the end, and of all time, and the balance in the wallet's row.
SELECT COALESCE(SUM(CASE WHEN e.at_ms < :from_ms THEN e.moved_micro END), 0) AS opening_micro,
    COALESCE(SUM(CASE WHEN e.at_ms < :to_ms THEN e.moved_micro END), 0) AS closing_micro,
    COALESCE(SUM(e.moved_micro), 0) AS ever_micro,
    COALESCE((SELECT a.balance_micro FROM ledger_accounts a WHERE a.account_id = :account_id), 0) AS kept_micro
FROM {entries}

-- name: credits
-- All entries except usage and executions. A grant's key is its lot or its top-up. An entry that takes back or expires
-- credit names its lot. Credit that rolls over is not new, because the former month's lot expires by at least this
-- amount.
SELECT q.section, q.what, q.currency, COUNT(*) AS entries, SUM(q.money_minor) AS money_minor,
    SUM(q.moved_micro) AS moved_micro
FROM (
    SELECT CASE WHEN e.pays = 1 THEN CASE WHEN e.kind = 'expiry' THEN 'expired' ELSE 'other' END
            WHEN e.kind = 'expiry' THEN 'other' WHEN e.amount_micro <= 0 THEN 'taken_back' WHEN t.topup IS NOT NULL THEN 'topped_up'
            WHEN l.begins_ms > l.at_ms THEN 'began' ELSE 'given' END AS section,
        CASE WHEN e.pays = 1 AND e.kind = 'grant' THEN 'allotted' WHEN e.pays = 0 AND e.kind = 'expiry' THEN 'returned'
            WHEN e.pays = 1 AND e.kind <> 'expiry' THEN e.kind WHEN p.part = 'rollover' THEN 'rolled over'
            ELSE COALESCE(l.kind, 'of no lot') END AS what,
        t.currency, t.money_minor, e.moved_micro
    FROM {entries} LEFT JOIN ledger_lots l ON l.lot = COALESCE(e.lot, e.key) LEFT JOIN plan_lots p ON p.lot = l.lot
    LEFT JOIN topups t ON t.topup = e.key AND e.pays = 0 AND e.amount_micro > 0
    WHERE {booked} AND (e.pays = 0 OR e.kind NOT IN ('usage', 'execution'))
) q GROUP BY q.section, q.what, q.currency ORDER BY q.section, q.what, q.currency

-- name: usage
-- Charges by feature, month of use and rate. The rate is the rate that gives the charge's amount (NULL: no rate gives
-- this amount). Lines without a rate come first, so they are always shown.
WITH charged AS (
    SELECT e.feature, {month} AS month, e.quantity, e.amount_micro,
        COALESCE((SELECT MAX(r.start_ms) FROM {fitting} AND r.at_ms <= e.at_ms),
            (SELECT MAX(r.start_ms) FROM {fitting})) AS start_ms
    FROM ledger_entries e WHERE e.from_account = :account_id AND {booked} AND e.kind = 'usage'
),
lines AS (
    SELECT c.feature, c.month, r.micro_credits, r.per_quantity, COUNT(*) AS charges, SUM(c.quantity) AS quantity,
        SUM(c.amount_micro) AS charged_micro
    FROM charged c LEFT JOIN ledger_rates r ON r.feature = c.feature AND r.start_ms = c.start_ms
    GROUP BY c.feature, c.month, r.micro_credits, r.per_quantity
),
placed AS (
    SELECT n.*, ROW_NUMBER() OVER (
        ORDER BY CASE WHEN n.micro_credits IS NULL THEN 0 ELSE 1 END, ABS(n.charged_micro) DESC, n.feature, n.month,
        n.micro_credits, n.per_quantity) AS place
    FROM lines n
)
SELECT feature, month, micro_credits, per_quantity, charges, quantity, charged_micro, 0 AS more
FROM placed WHERE place <= :at_most
UNION ALL SELECT NULL, NULL, NULL, NULL, rest.charges, NULL, rest.charged_micro, rest.more
FROM (SELECT SUM(charges) AS charges, SUM(charged_micro) AS charged_micro, COUNT(*) AS more FROM placed
    WHERE place > :at_most) rest WHERE rest.more > 0
ORDER BY more, feature, month, micro_credits, per_quantity

-- name: fitting
-- If several rates give an entry's amount, those that were recorded before its booking come first.
ledger_rates r WHERE r.feature = e.feature AND r.start_ms <= e.ts AND (e.rate_ms IS NULL OR r.start_ms = e.rate_ms)
    AND {is_priced}

-- name: is_priced
-- True if the entry's amount is the cost of its quantity at the rate `r`, rounded to the nearest micro-credit, a half
-- away from zero. ABS(q) = n * per + rest, so that products stay small.
(e.amount_micro = 0 OR (e.amount_micro < 0) = (e.quantity < 0))
    AND 2 * r.per_quantity * {beyond_whole} <= {price_of_rest}
    AND {price_of_rest} < 2 * r.per_quantity * ({beyond_whole} + 1)

-- name: beyond_whole
-- The part of the amount beyond the price of the whole multiples of `per_quantity`.
(ABS(e.amount_micro) - CAST(ABS(e.quantity) / r.per_quantity AS NUMERIC) * r.micro_credits)

-- name: price_of_rest
-- Twice the sum of the price of the rest and one half, in units of 1 / `per_quantity`.
(2 * CAST(ABS(e.quantity) % r.per_quantity AS NUMERIC) * r.micro_credits + r.per_quantity)

-- name: month [postgresql]
-- The month of use, in UTC; empty for a time before 1970 or after the year 9999.
CASE WHEN e.ts BETWEEN 0 AND 253402300799999
    THEN TO_CHAR(TO_TIMESTAMP(e.ts / 1000) AT TIME ZONE 'UTC', 'YYYY-MM') ELSE '' END

-- name: month [sqlite]
CASE WHEN e.ts BETWEEN 0 AND 253402300799999 THEN STRFTIME('%Y-%m', e.ts / 1000, 'unixepoch') ELSE '' END

-- name: executions
-- Charges by project, with separate sums for the time before the end of executions, at their end, and after their
-- reservation expired.
WITH drawn AS (
    SELECT COALESCE(r.project, '') AS project, e.reservation, e.amount_micro,
        CASE WHEN SUBSTR(e.key, LENGTH(e.key) - 1) = ':-' THEN 'written off'
            WHEN SUBSTR(e.key, LENGTH(e.reservation) + 6, 6) <> 'final:' THEN 'drawn'
            WHEN e.at_ms >= r.expires_ms THEN 'late' ELSE 'settled' END AS part
    FROM {entries} LEFT JOIN reservations r ON r.reservation = e.reservation
    WHERE {booked} AND e.pays = 1 AND e.kind = 'execution'
),
lines AS (
    SELECT d.project, COUNT(DISTINCT d.reservation) AS executions,
        SUM(CASE WHEN d.part = 'drawn' THEN d.amount_micro ELSE 0 END) AS drawn_micro,
        SUM(CASE WHEN d.part = 'settled' THEN d.amount_micro ELSE 0 END) AS settled_micro,
        SUM(CASE WHEN d.part = 'late' THEN d.amount_micro ELSE 0 END) AS late_micro,
        SUM(CASE WHEN d.part = 'written off' THEN -d.amount_micro ELSE 0 END) AS written_off_micro,
        SUM(d.amount_micro) AS charged_micro
    FROM drawn d GROUP BY d.project
),
placed AS (
    SELECT n.*, ROW_NUMBER() OVER (ORDER BY n.charged_micro DESC, n.project) AS place FROM lines n
)
SELECT project, executions, drawn_micro, settled_micro, late_micro, written_off_micro, charged_micro, 0 AS more
FROM placed WHERE place <= :at_most
UNION ALL SELECT '', rest.executions, rest.drawn_micro, rest.settled_micro, rest.late_micro, rest.written_off_micro,
    rest.charged_micro, rest.more
FROM (SELECT SUM(executions) AS executions, SUM(drawn_micro) AS drawn_micro, SUM(settled_micro) AS settled_micro,
    SUM(late_micro) AS late_micro, SUM(written_off_micro) AS written_off_micro, SUM(charged_micro) AS charged_micro,
    COUNT(*) AS more FROM placed WHERE place > :at_most) rest WHERE rest.more > 0
ORDER BY more, project

-- name: held
-- Executions that had credit reserved just before :until_ms (`standing`). The amount of an execution before an
-- extension is not recorded, so the present amount counts. The time when metering charged a reservation is not
-- recorded either, so all its charges count.
WITH holding AS (
    SELECT r.reservation, r.org_id, COALESCE(r.project, '') AS project, r.expires_ms, r.amount_micro
        - CASE WHEN r.settled_by = 'metering' THEN r.drawn_micro ELSE COALESCE((
            SELECT SUM(e.amount_micro) FROM ledger_entries e
            WHERE e.reservation = r.reservation AND e.at_ms < :until_ms), 0) END AS held_micro
    FROM reservations r WHERE r.customer_id = :customer_id AND r.hold = 'wallet' AND {standing}
        AND r.accepted_ms < :until_ms AND r.expires_ms >= :until_ms
),
placed AS (
    SELECT h.*, ROW_NUMBER() OVER (ORDER BY h.held_micro DESC, h.reservation) AS place
    FROM holding h WHERE h.held_micro > 0
)
SELECT reservation, org_id, project, expires_ms, held_micro, 0 AS more FROM placed WHERE place <= :at_most
UNION ALL SELECT '', '', '', NULL, rest.held_micro, rest.more
FROM (SELECT SUM(held_micro) AS held_micro, COUNT(*) AS more FROM placed WHERE place > :at_most) rest
WHERE rest.more > 0
ORDER BY more, held_micro DESC, reservation

-- name: stands_now
r.state = 'held'

-- name: stood_then
(r.ended_ms IS NULL OR r.ended_ms >= :until_ms)
