-- The ledger against pushes, rates and grants (invariants 2, 3 and 5).
--
-- Guarantee: the statements read only raw tables, and are separate from the worker's, so that one mistake cannot hide
-- in both. Each row is a breach: its kind in `what` (findings.py), the organisation, window and feature, and the
-- numbers for the text.

-- name: of_chosen
-- The findings of a statement for the chosen organisations.
SELECT found.* FROM ({finding}) found WHERE found.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: no_window
-- The columns of a breach without a window and feature.
CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: proven_pushes
pushes

-- name: pushes_since
-- In a continued run, the pushes from its point on.
(SELECT * FROM pushes WHERE window_ms >= :since_ms)

-- name: proven_entries
ledger_entries

-- name: entries_since
(SELECT * FROM ledger_entries WHERE ts >= :since_ms)

-- name: push
-- The columns of a push `p` that a breach names.
p.org_id, p.window_ms, p.feature, p.key, p.state, p.sent_qty

-- name: entry_window
-- The window of an entry `e`.
e.ts - e.ts % {window_length_ms}

-- name: charged
-- The ledger is in this database, so its charges and the accepted pushes are compared both ways (2). A push that was
-- not sent must not be charged (5).
SELECT CASE WHEN e.key IS NULL THEN 'missing_charge' WHEN p.attempts = 0 THEN 'charge_of_unsent_push'
        WHEN {charged_otherwise} THEN 'charge_mismatch' WHEN {booked_otherwise} THEN 'charge_time'
        ELSE 'charge_of_unaccepted_push' END AS what,
    {push}, p.customer_id, e.from_account, e.to_account, e.quantity, e.ts, e.at_ms, p.sealed_at_ms, p.settled_ms
FROM {proven_pushes} p LEFT JOIN voids v
    ON v.window_ms = p.window_ms AND v.org_id = p.org_id AND v.feature = p.feature AND v.revision = p.revision
LEFT JOIN ledger_entries e ON e.key = p.key AND e.kind = 'usage'
WHERE p.provider = 'embedded' AND ((e.key IS NULL AND p.state = 'accepted' AND v.org_id IS NULL)
    OR (e.key IS NOT NULL AND (p.attempts = 0 OR p.state IN ('voided', 'rejected', 'carried') OR v.org_id IS NOT NULL
        OR {charged_otherwise} OR {booked_otherwise})))

-- name: charged_otherwise
-- Use is dated at the start of its window, for all revisions. Entries without a rate are from an older version, which
-- dated each revision into its own minute.
(e.from_account <> 'wallet:' || p.customer_id OR e.to_account <> 'revenue:' || p.feature
    OR e.feature <> p.feature OR e.quantity <> p.sent_qty OR {entry_window} <> p.window_ms
    OR (e.rate_ms IS NOT NULL AND e.ts <> p.window_ms))

-- name: booked_otherwise
-- An entry is written between the seal of its push and the push's settlement, with a day for clocks. If only one
-- machine sent the push, that machine waited by its own clock until the push was due, so only a minute is allowed. If
-- that clock was set back meanwhile, its times do not prove an order, so a day is allowed.
((e.at_ms < {booked_from} - 60000 OR ({settled_in_order} AND e.at_ms > p.settled_ms + 60000))
    AND (e.at_ms < {booked_from} - 86400000 OR ({settled_in_order} AND e.at_ms > p.settled_ms + 86400000)
        OR (p.attempts = 1 AND p.lookups = 0 AND (p.state <> 'accepted' OR {settled_in_order})
            AND NOT EXISTS (SELECT 1 FROM operator_actions x WHERE x.target = p.key AND x.action IN ('push_resolve', 'push_retry')))))

-- name: booked_from
-- If a machine's clock is set back by days while it works, a push is settled at an earlier time than it was sealed.
CASE WHEN p.state = 'accepted' AND p.settled_ms < p.sealed_at_ms THEN p.settled_ms ELSE p.sealed_at_ms END

-- name: settled_in_order
-- An entry is not later than the settlement, unless a clock was set back between the first attempt and the settlement.
p.state = 'accepted' AND p.settled_ms >= p.sealed_at_ms AND p.settled_ms >= COALESCE(p.first_attempt_ms, p.sealed_at_ms)

-- name: uncommitted
-- Charges without a push belong to folded pushes of their day, with the same number and sum. Without such a sum, they
-- are a breach, which has another kind below the floor. Both sides are grouped instead of joined. Pushes lack an index
-- by key, sums lack an index by wallet, and PostgreSQL cannot estimate the rows.
WITH beside AS MATERIALIZED (
    SELECT e.key, e.from_account AS wallet, e.feature, e.ts, e.quantity, e.ts - e.ts % 86400000 AS day_ms
    FROM (
        SELECT key FROM (
            SELECT key, 1 AS entries, 0 AS pushes FROM {proven_entries} WHERE kind = 'usage' AND key NOT LIKE 'mirror:%'
            UNION ALL SELECT key, 0, 1 FROM {proven_pushes} WHERE provider = 'embedded'
        ) sides GROUP BY key HAVING SUM(entries) > 0 AND SUM(pushes) = 0
    ) q JOIN ledger_entries e ON e.key = q.key
),
sides AS MATERIALIZED (
    SELECT s.*, SUM(1 - s.entries) OVER (PARTITION BY s.wallet, s.feature, s.day_ms) AS sums FROM (
        SELECT CAST(NULL AS TEXT) AS org_id, wallet, feature, day_ms, ts, key, quantity, 1 AS entries, 0 AS pushes, 0 AS sent
        FROM beside
        UNION ALL
        SELECT org_id, 'wallet:' || customer_id, feature, day_ms, day_ms, '', 0, 0, pushes, sent_qty
        FROM {proven_folded} WHERE provider = 'embedded' AND state = 'accepted'
    ) s
),
alone AS MATERIALIZED (
    SELECT w.org_id, x.wallet, x.feature, x.day_ms, x.ts, x.key, x.quantity, COALESCE(o.floor_ms, 0) AS floor_ms
    FROM sides x LEFT JOIN {owners} w ON w.account_id = x.wallet LEFT JOIN orgs o ON o.org_id = w.org_id WHERE x.sums = 0
)
SELECT 'charge_without_push' AS what, e.org_id, {entry_window} AS window_ms, e.feature, e.key, e.quantity, 0 AS entries,
    0 AS pushes, 0 AS sent
FROM alone e WHERE e.ts >= e.floor_ms
UNION ALL
SELECT 'fold_charge_mismatch', MAX(org_id), day_ms, feature, wallet, SUM(quantity), COUNT(*), 0, 0
FROM alone WHERE ts < floor_ms GROUP BY wallet, feature, day_ms
UNION ALL
SELECT 'fold_charge_mismatch', MAX(org_id), day_ms, feature, wallet, SUM(quantity), SUM(entries), SUM(pushes), SUM(sent)
FROM sides WHERE sums > 0 GROUP BY wallet, feature, day_ms
HAVING SUM(entries) <> SUM(pushes) OR SUM(quantity) <> SUM(sent)

-- name: proven_folded
folded_pushes

-- name: folded_of_days
-- Sums cover whole days, so the compared rows begin with the day of the point.
(SELECT * FROM folded_pushes WHERE day_ms >= :since_ms - :since_ms % 86400000)

-- name: pushes_of_days
(SELECT * FROM pushes WHERE window_ms >= :since_ms - :since_ms % 86400000)

-- name: entries_of_days
(SELECT * FROM ledger_entries WHERE ts >= :since_ms - :since_ms % 86400000)

-- name: mirrored
-- Usage at a provider without a hard stop is also drawn from a wallet, once and only if its push is accepted. Each draw
-- has the push's customer, feature, quantity and window. The first draw is written at the settlement, with a day for
-- clocks.
SELECT CASE WHEN p.org_id IS NULL THEN 'wallet_charge_without_push' WHEN i.provider IS NULL THEN 'external_wallet_charge'
        WHEN {drawn_otherwise} THEN 'unexpected_wallet_charge' ELSE 'wallet_charge_mismatch' END AS what,
    p.org_id, p.window_ms, p.feature, q.mirrored AS key, p.state, p.sent_qty, p.provider, p.customer_id,
    q.drawn AS quantity
FROM (
    SELECT mirrored, SUM(quantity) AS drawn, MIN(ABS(quantity)) AS least_qty, MAX(ABS(quantity)) AS most_qty,
        MIN(ts) AS first_ts, MAX(ts) AS last_ts, MIN(at_ms) AS first_at, MIN(from_account) AS wallet,
        MAX(from_account) AS other_wallet, MIN(to_account) AS revenue, MAX(to_account) AS other_revenue, MIN(feature) AS feature, MAX(feature) AS other_feature
    FROM {drawn} d GROUP BY mirrored
) q LEFT JOIN {proven_pushes} p ON p.key = q.mirrored LEFT JOIN {in_ledger_ever} i ON i.provider = p.provider
WHERE p.org_id IS NULL OR i.provider IS NULL OR {drawn_otherwise}
    OR q.least_qty <> ABS(p.sent_qty) OR q.most_qty <> ABS(p.sent_qty)
    OR q.first_ts <> p.window_ms OR q.last_ts <> p.window_ms
    OR q.first_at < {booked_from} - 86400000 OR ({settled_in_order} AND q.first_at > p.settled_ms + 86400000)
    OR q.wallet <> 'wallet:' || p.customer_id OR q.other_wallet <> q.wallet
    OR q.revenue <> 'revenue:' || p.feature OR q.other_revenue <> q.revenue
    OR q.feature <> p.feature OR q.other_feature <> q.feature

-- name: drawn_otherwise
q.drawn <> CASE WHEN p.state = 'accepted' THEN p.sent_qty ELSE 0 END

-- name: drawn
-- Keys of entries that gave back end in `:back`. Keys of entries that drew again end in `:redrawn`, once for each time.
-- A feature may itself be named `back` or `redrawn`. The text after the window is the name, so it is not cut. While the
-- ends are cut, a control character, which ids cannot have, replaces `:redrawn`.
(SELECT CASE WHEN cut LIKE '%:' || ts THEN cut || ':redrawn' ELSE cut END AS mirrored, e.*
    FROM (SELECT REPLACE(RTRIM(REPLACE({forward}, ':redrawn', {control}), {control}), {control}, ':redrawn') AS cut, f.*
        FROM {proven_entries} f WHERE kind = 'usage' AND key LIKE 'mirror:%') e)

-- name: forward
CASE WHEN key LIKE '%:back' AND key NOT LIKE '%:' || ts || ':back' THEN SUBSTR(key, 8, LENGTH(key) - 12)
    ELSE SUBSTR(key, 8) END

-- name: control [postgresql]
CHR(31)

-- name: control [sqlite]
CHAR(31)

-- name: undrawn
-- If the customer had a wallet and the feature had a rate a day before a push was accepted, the wallet was drawn on for
-- the push. The day allows for clocks. Without a rate, or above the largest entry, credit is not drawn.
SELECT 'missing_wallet_charge' AS what, {push}, p.customer_id
FROM {proven_pushes} p JOIN {in_ledger_ever} i ON i.provider = p.provider
JOIN (SELECT to_account, MIN(at_ms) AS at_ms FROM ledger_entries WHERE kind = 'grant' GROUP BY to_account) g
    ON g.to_account = 'wallet:' || p.customer_id
LEFT JOIN ledger_entries e ON e.key = 'mirror:' || p.key
WHERE p.state = 'accepted' AND p.sent_qty <> 0 AND e.key IS NULL AND g.at_ms < p.settled_ms - 86400000
    AND EXISTS (SELECT 1 FROM ledger_rates r WHERE r.feature = p.feature AND r.start_ms <= p.window_ms
        AND r.at_ms < p.settled_ms - 86400000)
    AND NOT EXISTS (SELECT 1 FROM ledger_rates r WHERE r.feature = p.feature AND r.start_ms <= p.window_ms
        AND (CAST(ABS(p.sent_qty) / r.per_quantity AS NUMERIC) + 1) * r.micro_credits > 1000000000000000)

-- name: given_back
-- The amount given back is the amount drawn, even if the rate has changed since.
SELECT 'refund_mismatch' AS what, w.org_id, {entry_window} AS window_ms, e.feature, e.key, e.amount_micro,
    d.amount_micro AS drawn
FROM {proven_entries} e LEFT JOIN ledger_entries d ON d.key = SUBSTR(e.key, 1, LENGTH(e.key) - 5)
LEFT JOIN {owners} w ON w.account_id = e.from_account
WHERE e.kind = 'usage' AND e.key LIKE 'mirror:%:back' AND e.key NOT LIKE '%:' || e.ts || ':back'
    AND (d.key IS NULL OR d.amount_micro <> -e.amount_micro)

-- name: in_ledger
-- Providers besides `embedded` with customers' balances in the ledger, by the terms in force.
SELECT provider FROM provider_states WHERE terms LIKE '%balance_in_ledger__ true%'

-- name: in_ledger_ever
-- The same by the terms in force and by earlier terms that a person accepted.
({in_ledger} UNION SELECT target FROM operator_actions
    WHERE action = 'provider_accept' AND details LIKE '%balance_in_ledger___ true%')

-- name: owners
-- The owner of the wallet.
(SELECT 'wallet:' || customer_id AS account_id, MAX(org_id) AS org_id FROM assignments
    WHERE customer_id <> '' AND (provider = 'embedded' OR provider IN {in_ledger_ever}) GROUP BY 1)

-- name: shared
-- A customer belongs to one organisation at a time. So does a wallet, which all providers with balances here share.
WITH here AS (SELECT 'embedded' AS provider UNION {in_ledger}),
taken AS (SELECT a.*, CASE WHEN h.provider IS NULL THEN a.provider ELSE 'a wallet' END AS place
    FROM assignments a LEFT JOIN here h ON h.provider = a.provider
    WHERE a.customer_id <> '' AND a.provider NOT IN {unbilled})
SELECT CASE WHEN c.provider = a.provider THEN 'shared_customer' ELSE 'shared_wallet' END AS what, a.org_id, {no_window},
    a.provider, a.customer_id, c.org_id AS other, c.provider AS elsewhere
FROM taken a JOIN taken c ON c.customer_id = a.customer_id AND c.place = a.place
WHERE c.org_id <> a.org_id AND (c.end_ms IS NULL OR a.start_ms < c.end_ms)
    AND (a.end_ms IS NULL OR c.start_ms < a.end_ms)

-- name: balance
SELECT 'balance_sum' AS what, w.org_id, {no_window}, q.account_id, q.kept, q.lines FROM (
    SELECT account_id, SUM(kept) AS kept, {sum_of_lines} AS lines FROM (
        SELECT account_id, balance_micro AS kept, 0 AS line FROM ledger_accounts
        UNION ALL SELECT from_account, 0, -amount_micro FROM ledger_entries WHERE from_account LIKE 'wallet:%'
        UNION ALL SELECT to_account, 0, amount_micro FROM ledger_entries WHERE to_account LIKE 'wallet:%'
    ) sides GROUP BY account_id
) q LEFT JOIN {owners} w ON w.account_id = q.account_id WHERE q.kept <> q.lines

-- name: sum_of_lines [postgresql]
SUM(line)

-- name: sum_of_lines [sqlite]
-- SQLite's SUM fails on an overflow, which one bad organisation can cause. Parts of the sum do not overflow.
(SUM(line / 1000000) * 1000000 + SUM(line % 1000000))

-- name: sides
-- Granted credit comes from the grants. Used credit goes to revenue (for an execution with or without a feature) or to
-- the tiers, and expired credit to the breakage. An entry has a wallet on one side only, except if pools allot credit
-- and get it back (pools.sql). Use is not booked a day before it happened.
SELECT CASE WHEN {booked_early} THEN 'charge_before_usage' ELSE 'entry_accounts' END AS what, w.org_id, {entry_window} AS window_ms,
    e.feature, e.key, e.from_account, e.to_account, e.at_ms, e.ts
FROM {proven_entries} e
LEFT JOIN {owners} w ON w.account_id = CASE WHEN e.kind = 'grant' THEN e.to_account ELSE e.from_account END
WHERE {booked_early} OR NOT CASE WHEN e.kind = 'expiry'
        THEN e.from_account LIKE 'wallet:%' AND (e.to_account = 'breakage' OR {is_of_pool})
    WHEN e.kind = 'grant'
        THEN (e.from_account = 'source:grants' OR {is_of_pool}) AND e.to_account LIKE 'wallet:%'
    WHEN e.kind = 'tier' THEN e.from_account LIKE 'wallet:%' AND e.to_account = 'tiers'
    WHEN e.kind = 'execution' THEN e.from_account LIKE 'wallet:%' AND e.to_account = COALESCE('revenue:' || e.feature, 'revenue')
    ELSE e.from_account LIKE 'wallet:%' AND e.to_account LIKE 'revenue:%' END

-- name: booked_early
-- If the push's seal, or an earlier seal, is dated a day after the entry, a clock was set back in between.
(e.kind = 'usage' AND e.at_ms < e.ts - 86400000 AND NOT EXISTS (
    SELECT 1 FROM pushes p JOIN seals s ON s.seal_id <= p.seal_id AND s.at_ms > e.at_ms + 86400000
    WHERE p.window_ms = {entry_window} AND e.key IN (p.key, 'mirror:' || p.key, 'mirror:' || p.key || ':back')))

-- name: is_of_pool
EXISTS (SELECT 1 FROM ledger_lots l WHERE l.lot = COALESCE(e.lot, e.key) AND l.pool IS NOT NULL)

-- name: priced
-- Each charge is computed again. The amount is the cost of the quantity, rounded to a micro-credit, by a rate of the
-- feature that had begun by then. If the entry names a rate, it is that rate. A rate may be set for the past, so the
-- check does not claim that the rate was on record then. Executions are an exception, because they use the rates on
-- record at their acceptance.
SELECT 'charge_rate' AS what, w.org_id, {entry_window} AS window_ms, e.feature, e.key, e.quantity, e.amount_micro
FROM {proven_entries} e LEFT JOIN {owners} w ON w.account_id = e.from_account
WHERE e.feature IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM ledger_rates r WHERE r.feature = e.feature AND r.start_ms <= e.ts AND (e.kind <> 'execution' OR r.at_ms <= e.ts)
        AND (e.rate_ms IS NULL OR r.start_ms = e.rate_ms)
        AND (e.amount_micro = 0 OR (e.amount_micro < 0) = (e.quantity < 0))
        AND 2 * r.per_quantity * {beyond_whole} <= {price_of_rest}
        AND {price_of_rest} < 2 * r.per_quantity * ({beyond_whole} + 1))

-- name: repriced
-- A window has one rate, because late usage and give-backs use the rate of the first charge of their wallet, feature
-- and window.
SELECT 'rate_change_in_window' AS what, w.org_id, q.window_ms, q.feature, q.from_account, q.first_ms, q.other_ms
FROM (SELECT e.from_account, e.feature, e.ts AS window_ms, MIN(e.rate_ms) AS first_ms, MAX(e.rate_ms) AS other_ms
    FROM {proven_entries} e WHERE e.kind = 'usage' AND e.rate_ms IS NOT NULL
    GROUP BY e.from_account, e.feature, e.ts HAVING MIN(e.rate_ms) <> MAX(e.rate_ms)) q
LEFT JOIN {owners} w ON w.account_id = q.from_account

-- name: beyond_whole
-- The part of the amount beyond the price of the whole quantities. ABS(q) = n * per + rest, so that products stay
-- small.
(ABS(e.amount_micro) - CAST(ABS(e.quantity) / r.per_quantity AS NUMERIC) * r.micro_credits)

-- name: price_of_rest
-- Twice the price of the rest plus a half, in parts of `per_quantity`.
(2 * CAST(ABS(e.quantity) % r.per_quantity AS NUMERIC) * r.micro_credits + r.per_quantity)

-- name: granted
-- Each grant on record has an entry with its amount and customer. A lot that begins later does not have an entry yet.
SELECT 'grant_mismatch' AS what, w.org_id, {no_window}, q.key, q.said, q.account AS said_account, e.amount_micro, e.to_account,
    e.from_account
FROM (SELECT {said_key} AS key, CAST({said_amount} AS BIGINT) AS said, 'wallet:' || x.target AS account
    FROM operator_actions x WHERE x.action = 'ledger_grant') q
LEFT JOIN ledger_entries e ON e.key = q.key AND e.kind = 'grant' LEFT JOIN {owners} w ON w.account_id = q.account
WHERE e.amount_micro <> q.said OR e.to_account <> q.account OR e.from_account <> COALESCE(
        (SELECT 'wallet:' || p.pool FROM ledger_lots p WHERE p.lot = e.lot), 'source:grants') OR (e.key IS NULL
    AND NOT EXISTS (SELECT 1 FROM ledger_lots l WHERE l.lot = q.key AND l.amount_micro = q.said
        AND 'wallet:' || l.customer_id = q.account))

-- name: ungranted
-- Each grant entry has an action, and so does each lot that begins later and does not have an entry yet. Credit from
-- plans, late use of credit that rolled over (plans.sql), and allotments of pools (pools.sql) are checked separately.
SELECT 'unaudited_grant' AS what, w.org_id, {no_window}, e.key, e.amount_micro, e.to_account
FROM (SELECT key, amount_micro, to_account FROM ledger_entries WHERE kind = 'grant'
    UNION ALL SELECT l.lot, l.amount_micro, 'wallet:' || l.customer_id FROM ledger_lots l WHERE l.begins_ms > l.at_ms
        AND NOT EXISTS (SELECT 1 FROM ledger_entries b WHERE b.key = l.lot)) e
LEFT JOIN {owners} w ON w.account_id = e.to_account
WHERE e.key NOT LIKE 'topup:%' AND e.key NOT LIKE 'reduced:%'
    AND NOT EXISTS (SELECT 1 FROM plan_lots p WHERE p.lot = e.key)
    AND NOT EXISTS (SELECT 1 FROM ledger_lots l WHERE l.lot = e.key AND l.pool IS NOT NULL) AND e.key NOT IN (
    SELECT {said_key} FROM operator_actions x WHERE x.action = 'ledger_grant' AND {said_key} IS NOT NULL)

-- name: said_key [postgresql]
-- The values in a person's action `x`.
(CAST(x.details AS json) ->> 'key')

-- name: said_key [sqlite]
json_extract(x.details, '$.key')

-- name: said_amount [postgresql]
(CAST(x.details AS json) ->> 'amount_micro')

-- name: said_amount [sqlite]
json_extract(x.details, '$.amount_micro')
