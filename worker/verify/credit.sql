-- Reserved credit and lots (invariant 10): reservations and lots against wallets and entries.
--
-- Guarantee: as in `ledger.sql`. A reservation names its organisation. A lot belongs to its customer's organisation.

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: no_window
CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: held
-- The reserved credit of a wallet is the rest of its reservations, to the micro-credit.
SELECT 'reserved_sum' AS what, COALESCE(MAX(org_id),
    (SELECT MAX(a.org_id) FROM assignments a WHERE 'wallet:' || a.customer_id = account_id)) AS org_id, {no_window}, account_id, SUM(kept) AS kept, SUM(part) AS parts
FROM (
    SELECT account_id, CAST(NULL AS TEXT) AS org_id, held_micro AS kept, 0 AS part FROM ledger_accounts
    UNION ALL SELECT 'wallet:' || customer_id, org_id, 0, amount_micro - drawn_micro FROM reservations
    WHERE state = 'held' AND hold = 'wallet' AND drawn_micro < amount_micro
) sides GROUP BY account_id HAVING SUM(kept) <> SUM(part)

-- name: never_due
-- If a wallet does not know the end of a reservation, the reservation would never expire.
SELECT 'reservation_due_time' AS what, r.org_id, {no_window}, r.reservation, r.expires_ms, a.next_due_ms
FROM reservations r LEFT JOIN ledger_accounts a ON a.account_id = 'wallet:' || r.customer_id
WHERE r.state = 'held' AND r.hold = 'wallet' AND (a.next_due_ms IS NULL OR a.next_due_ms > r.expires_ms)

-- name: held_long
-- A reservation ends at most 30 days after its start or its last extension. A day more allows for clocks.
SELECT 'reservation_length' AS what, r.org_id, {no_window}, r.reservation, r.expires_ms, CAST(:now_ms AS BIGINT) AS moment_ms
FROM reservations r WHERE r.state = 'held' AND r.expires_ms > CAST(:now_ms AS BIGINT) + 31 * CAST(86400000 AS BIGINT)

-- name: ended_unrecorded
-- Each ended execution has the actor and the reason of its end.
SELECT 'reservation_end' AS what, r.org_id, {no_window}, r.reservation, r.state, r.ended_ms
FROM reservations r WHERE r.state <> 'held' AND (r.ended_by IS NULL OR r.ended_reason IS NULL)

-- name: run_drawn
-- The draws of an execution are the sum of its entries. Without a wallet, they are the sum of its uses.
SELECT 'reservation_draw_sum' AS what, r.org_id, {no_window}, r.reservation, r.drawn_micro, COALESCE(q.lines, 0) AS lines
FROM reservations r LEFT JOIN (SELECT reservation, SUM(amount_micro) AS lines FROM (
        SELECT reservation, amount_micro FROM ledger_entries WHERE reservation IS NOT NULL
        UNION ALL SELECT reservation, amount_micro FROM run_usage) drawn
    GROUP BY reservation) q ON q.reservation = r.reservation
WHERE r.settled_by = 'receipt' AND r.drawn_micro <> COALESCE(q.lines, 0)

-- name: run_entry
-- Each entry of an execution is of its wallet and has the execution's name. The entry is dated at the acceptance of the
-- execution, and written later, with a day for clocks.
SELECT CASE WHEN e.at_ms < r.accepted_ms - 86400000 THEN 'execution_entry_time' ELSE 'execution_entry' END AS what, r.org_id,
    {no_window}, e.key, e.from_account, e.reservation, r.customer_id, e.at_ms, r.accepted_ms
FROM ledger_entries e LEFT JOIN reservations r ON r.reservation = e.reservation
WHERE (e.kind = 'execution' OR e.reservation IS NOT NULL) AND (r.reservation IS NULL OR e.kind <> 'execution'
    OR e.from_account <> 'wallet:' || r.customer_id OR e.ts <> r.accepted_ms
    OR e.at_ms < r.accepted_ms - 86400000
    OR SUBSTR(e.key, 1, LENGTH(r.reservation) + 5) <> 'run:' || r.reservation || ':')

-- name: unsettled
-- A settled execution has a receipt, even of 0, unless metering settles it. An open or expired execution does not have
-- a receipt.
SELECT CASE WHEN r.state = 'settled' THEN 'missing_receipt' ELSE 'unexpected_receipt' END AS what, r.org_id, {no_window},
    r.reservation, r.state
FROM reservations r WHERE (r.state = 'settled' AND r.settled_by = 'receipt' AND NOT ({has_receipt}))
    OR (r.state IN ('held', 'expired') AND ({has_receipt}))

-- name: has_receipt
EXISTS (SELECT 1 FROM ledger_entries e WHERE e.reservation = r.reservation
    AND SUBSTR(e.key, 1, LENGTH(r.reservation) + 11) = 'run:' || r.reservation || ':final:')
    OR EXISTS (SELECT 1 FROM run_usage u WHERE u.reservation = r.reservation AND u.number = 'final')

-- name: run_twice
-- An execution is paid only once, by entries of a wallet or by its usage at a provider.
SELECT 'execution_double_billing' AS what, r.org_id, {no_window}, r.reservation, r.hold
FROM reservations r WHERE CASE WHEN r.hold = 'wallet'
    THEN EXISTS (SELECT 1 FROM run_usage u WHERE u.reservation = r.reservation)
    ELSE EXISTS (SELECT 1 FROM ledger_entries e WHERE e.reservation = r.reservation) END

-- name: run_unbilled
-- The usage of an execution is the sum of its samples, and each of these samples belongs to a line of usage.
SELECT 'execution_usage_sum' AS what, (SELECT r.org_id FROM reservations r WHERE r.reservation = q.reservation) AS org_id,
    CAST(NULL AS BIGINT) AS window_ms, q.feature, q.reservation, q.number, q.said, q.billed
FROM (SELECT reservation, number, feature, SUM(said) AS said, SUM(billed) AS billed, SUM(lines) AS lines FROM (
        SELECT reservation, number, feature, quantity AS said, 0 AS billed, 1 AS lines FROM run_usage
        UNION ALL SELECT reservation, number, feature, 0, base_units, 0 FROM run_samples) sides
    GROUP BY reservation, number, feature) q
WHERE q.said <> q.billed OR q.lines <> 1

-- name: run_sample
-- Each sample of an execution is valid, has the recorded values, and belongs to the execution's organisation. A sample
-- below the floor may be deleted.
SELECT 'execution_sample' AS what, m.org_id, CAST(NULL AS BIGINT) AS window_ms, m.feature, m.sample_id, m.reservation
FROM run_samples m LEFT JOIN reservations r ON r.reservation = m.reservation
LEFT JOIN orgs o ON o.org_id = m.org_id LEFT JOIN usage_samples s ON s.id = m.sample_id
WHERE r.reservation IS NULL OR r.org_id <> m.org_id OR CASE WHEN s.id IS NULL THEN m.ts >= COALESCE(o.floor_ms, 0)
    ELSE s.org_id <> m.org_id OR s.memory_mb <> m.memory_mb OR s.interval_s <> m.interval_s OR s.ts <> m.ts
        OR s.problem IS NOT NULL END

-- name: above_hold
SELECT 'draw_above_reservation' AS what, org_id, {no_window}, reservation, drawn_micro, amount_micro, overage
FROM reservations WHERE overage <> 'charge' AND drawn_micro > amount_micro

-- name: owner
-- The organisation of a customer `q`.
(SELECT MAX(a.org_id) FROM assignments a WHERE a.customer_id = q.customer_id) AS org_id, {no_window}

-- name: lot_entry
-- Each lot has one entry in its wallet, at the grant or at the lot's start. The entry is earlier only if the lot was
-- taken back in full. Until the entry is written, the wallet knows the lot's start.
SELECT CASE WHEN q.key IS NULL THEN 'lot_begin_due_time' WHEN {booked_later} THEN 'lot_entry_time'
        WHEN q.at_ms < q.begins_ms THEN 'lot_entry_before_begin' ELSE 'lot_entry_mismatch' END AS what, {owner}, q.*
FROM (SELECT l.lot, l.customer_id, l.amount_micro AS said, l.begins_ms, e.key, e.amount_micro, e.to_account, e.at_ms,
        w.next_due_ms, l.at_ms AS given_ms, (SELECT COALESCE(-SUM(b.amount_micro), 0) FROM ledger_entries b
            WHERE b.lot = l.lot AND b.kind = 'grant') AS taken
    FROM ledger_lots l LEFT JOIN ledger_entries e ON e.key = l.lot
    LEFT JOIN ledger_accounts w ON w.account_id = 'wallet:' || l.customer_id) q
WHERE CASE WHEN q.key IS NULL
    THEN q.begins_ms <= q.given_ms OR q.next_due_ms IS NULL OR q.next_due_ms > q.begins_ms
    ELSE q.amount_micro <> q.said OR q.to_account <> 'wallet:' || q.customer_id
        OR (q.at_ms < q.begins_ms AND q.taken <> q.said) OR {booked_later} END

-- name: booked_later
(q.begins_ms <= q.given_ms AND q.at_ms <> q.given_ms)

-- name: lotless
SELECT 'grant_without_lot' AS what, {owner}, q.key, q.amount_micro, q.to_account
FROM (SELECT e.key, e.amount_micro, e.to_account, SUBSTR(e.to_account, 8) AS customer_id FROM ledger_entries e
    WHERE e.kind = 'grant' AND e.amount_micro > 0 AND NOT EXISTS (SELECT 1 FROM ledger_lots l WHERE l.lot = e.key)) q

-- name: lot_moved
-- Credit of a lot that expires or is taken back leaves the lot's own wallet. Credit expires only after the lot's end.
SELECT CASE WHEN q.kind = 'expiry' AND q.at_ms < q.expires_ms THEN 'lot_early_expiry' ELSE 'lot_owner' END AS what,
    {owner}, q.*
FROM (SELECT e.key, e.kind, e.lot, e.from_account, e.to_account, e.at_ms, l.expires_ms, l.customer_id AS known,
        COALESCE(l.customer_id, SUBSTR(e.from_account, 8)) AS customer_id
    FROM ledger_entries e LEFT JOIN ledger_lots l ON l.lot = e.lot WHERE e.lot IS NOT NULL) q
WHERE q.known IS NULL OR CASE WHEN q.kind = 'expiry'
    THEN q.expires_ms IS NULL OR q.at_ms < q.expires_ms OR q.from_account <> 'wallet:' || q.known
    ELSE q.to_account <> 'wallet:' || q.known END

-- name: lot_beyond
-- The credit that leaves a lot is at most its amount, and not negative.
SELECT 'lot_overuse' AS what, {owner}, q.*
FROM (SELECT l.lot, l.customer_id, l.amount_micro AS said,
        SUM(CASE WHEN e.kind = 'expiry' THEN e.amount_micro ELSE 0 END) AS expired,
        SUM(CASE WHEN e.kind = 'grant' THEN -e.amount_micro ELSE 0 END) AS taken
    FROM ledger_lots l JOIN ledger_entries e ON e.lot = l.lot GROUP BY l.lot) q
WHERE q.expired < 0 OR q.taken < 0 OR q.expired + q.taken > q.said

-- name: lots_sum
-- All lots that have begun add up to the balance plus the consumed, expired and taken-back credit.
SELECT 'lots_sum' AS what, {owner}, q.*
FROM (SELECT account_id, SUBSTR(account_id, 8) AS customer_id, SUM(given) AS given, SUM(kept) AS kept,
        SUM(consumed) AS consumed, SUM(expired) AS expired, SUM(taken) AS taken
    FROM (
        SELECT 'wallet:' || l.customer_id AS account_id, l.amount_micro AS given, 0 AS kept, 0 AS consumed, 0 AS expired,
            0 AS taken
        FROM ledger_lots l WHERE EXISTS (SELECT 1 FROM ledger_entries e WHERE e.key = l.lot)
        UNION ALL SELECT account_id, 0, balance_micro, 0, 0, 0 FROM ledger_accounts
        UNION ALL SELECT account_id, 0, 0, CASE WHEN kind IN ('grant', 'expiry') THEN 0 ELSE moved END,
            CASE WHEN kind = 'expiry' THEN moved ELSE 0 END, CASE WHEN kind = 'grant' THEN moved ELSE 0 END
        FROM (SELECT from_account AS account_id, kind, amount_micro AS moved FROM ledger_entries
            UNION ALL SELECT to_account, kind, -amount_micro FROM ledger_entries
            WHERE kind <> 'grant' OR amount_micro < 0) lines WHERE account_id LIKE 'wallet:%'
    ) sides GROUP BY account_id) q
WHERE q.given <> q.kept + q.consumed + q.expired + q.taken

-- name: lot_never_over
-- If a wallet does not know the end of a lot, the lot would pay forever. Its end is booked twelve minutes later.
SELECT 'lot_expiry_due_time' AS what, {owner}, q.*
FROM (SELECT l.lot, l.customer_id, l.expires_ms, w.next_due_ms FROM ledger_lots l
    LEFT JOIN ledger_accounts w ON w.account_id = 'wallet:' || l.customer_id
    WHERE l.expires_ms IS NOT NULL AND (w.lots_ended_ms IS NULL OR w.lots_ended_ms < l.expires_ms)
        AND (w.next_due_ms IS NULL OR w.next_due_ms > l.expires_ms + CASE
            WHEN w.lots_over_ms >= l.expires_ms THEN 720000 ELSE 0 END)) q

-- name: lots_ended
-- The booked end (`lots_ended_ms`) and the last known end (`lots_over_ms`) of a wallet are ends of its lots. If the
-- booked end were too late, lots that end before it would never expire. If :now_ms is set, the booked end is at or
-- before it. The last known end is not before the booked end, because the last known end makes the wallet notice late
-- use.
SELECT CASE WHEN q.moment_ms IS NULL THEN 'lot_last_end' ELSE 'lot_end_record' END AS what, {owner}, q.*
FROM (SELECT w.account_id, SUBSTR(w.account_id, 8) AS customer_id, w.lots_ended_ms, w.lots_over_ms,
        CASE WHEN w.lots_ended_ms > CAST(:now_ms AS BIGINT) OR NOT EXISTS (SELECT 1 FROM ledger_lots l
                WHERE l.customer_id = SUBSTR(w.account_id, 8) AND l.expires_ms = w.lots_ended_ms) THEN w.lots_ended_ms
            WHEN NOT EXISTS (SELECT 1 FROM ledger_lots l WHERE l.customer_id = SUBSTR(w.account_id, 8)
                AND l.expires_ms = w.lots_over_ms) THEN w.lots_over_ms END AS moment_ms
    FROM ledger_accounts w WHERE w.lots_ended_ms IS NOT NULL OR w.lots_over_ms IS NOT NULL) q
WHERE q.moment_ms IS NOT NULL OR q.lots_over_ms < q.lots_ended_ms
    OR (q.lots_over_ms IS NULL AND q.lots_ended_ms IS NOT NULL)

-- name: overdraft
-- A wallet's overdraft is 0, because commands do not allow one.
SELECT 'overdraft' AS what, {owner}, q.*
FROM (SELECT w.account_id, SUBSTR(w.account_id, 8) AS customer_id, w.overdraft_micro FROM ledger_accounts w
    WHERE w.overdraft_micro <> 0) q

-- name: over_wrong
-- The credit that is over is at most the credit of ended lots that are not booked yet. It is at least the part of each
-- such lot that use cannot have consumed and that does not roll over. This is not claimed while changes of the wallet
-- are due.
SELECT 'ended_lot_rest' AS what, {owner}, q.*
FROM (SELECT w.account_id, SUBSTR(w.account_id, 8) AS customer_id, w.over_micro,
        COALESCE((SELECT SUM(r.rest) FROM {ended_lots} r WHERE r.account_id = w.account_id), 0) AS most,
        COALESCE((SELECT SUM(CASE WHEN r.rest > r.rolls + r.used THEN r.rest - r.rolls - r.used ELSE 0 END)
            FROM {ended_lots} r WHERE r.account_id = w.account_id), 0) AS least
    FROM ledger_accounts w
    WHERE w.deferred_micro = 0 AND COALESCE(w.next_due_ms, 1) > 0 AND (w.over_micro > 0 OR w.lots_over_ms > w.lots_ended_ms
        OR (w.lots_over_ms IS NOT NULL AND w.lots_ended_ms IS NULL))) q
WHERE q.over_micro > q.most OR q.over_micro < q.least

-- name: lot_left
-- The rest of a lot with a booked end is at most the use that the lot can have paid. This is not claimed while changes
-- of the wallet are due.
SELECT 'unexpired_lot' AS what, {owner}, q.*
FROM (SELECT r.lot, SUBSTR(r.account_id, 8) AS customer_id, r.account_id, r.rest, r.used FROM {booked_lots} r
    JOIN ledger_accounts w ON w.account_id = r.account_id
    WHERE w.deferred_micro = 0 AND (w.next_due_ms IS NULL OR w.next_due_ms > r.expires_ms)) q
WHERE q.rest > q.used

-- name: deferred_wrong
-- The credit that waits to expire is at most the rest of ended lots that executions reserve, plus the credit that
-- rolled over.
SELECT 'deferred_expiry_sum' AS what, {owner}, q.*
FROM (SELECT w.account_id, SUBSTR(w.account_id, 8) AS customer_id, w.deferred_micro, w.held_micro,
        COALESCE((SELECT SUM(r.rest) FROM {booked_lots} r WHERE r.account_id = w.account_id), 0) AS rest,
        COALESCE((SELECT SUM(l.amount_micro) FROM plan_lots p JOIN ledger_lots l ON l.lot = p.lot
            WHERE p.part = 'rollover' AND 'wallet:' || p.customer_id = w.account_id), 0) AS rolled
    FROM ledger_accounts w WHERE w.deferred_micro <> 0 AND COALESCE(w.next_due_ms, 1) > 0) q
WHERE q.deferred_micro < 0
    OR q.deferred_micro > q.rolled + CASE WHEN q.rest < q.held_micro THEN q.rest ELSE q.held_micro END

-- name: ended_lots
-- Ended lots that are not booked yet. `rest`: the part that did not expire and was not taken back. `rolls`: the maximum
-- that may roll over. `used`: the use that the lot can have paid.
({of_lots} l.expires_ms <= a.lots_over_ms AND (a.lots_ended_ms IS NULL OR l.expires_ms > a.lots_ended_ms))

-- name: booked_lots
-- The same for ended lots that are booked.
({of_lots} l.expires_ms <= a.lots_ended_ms)

-- name: of_lots
SELECT l.lot, l.expires_ms, 'wallet:' || l.customer_id AS account_id, l.amount_micro - COALESCE((SELECT SUM(CASE
            WHEN b.kind = 'expiry' THEN b.amount_micro ELSE -b.amount_micro END) FROM ledger_entries b
            WHERE b.lot = l.lot), 0) AS rest,
        COALESCE(p.rollover_max_micro, 0) AS rolls, COALESCE((SELECT SUM(ABS(e.amount_micro)) FROM ledger_entries e
            WHERE e.from_account = a.account_id AND e.ts < l.expires_ms AND {may_pay}), 0)
        + COALESCE((SELECT SUM(ABS(e.amount_micro)) FROM ledger_entries e
            WHERE e.to_account = a.account_id AND e.kind = 'grant' AND e.amount_micro < 0 AND e.lot IS NULL
            AND e.ts < l.expires_ms AND {may_pay}), 0) AS used
    FROM ledger_lots l JOIN ledger_accounts a ON a.account_id = 'wallet:' || l.customer_id
    LEFT JOIN plan_lots p ON p.lot = l.lot
    WHERE EXISTS (SELECT 1 FROM ledger_entries g WHERE g.key = l.lot) AND

-- name: may_pay
(l.features IS NULL OR l.features LIKE '%"' || e.feature || '"%')
