-- Fragments that many statements share. Every `.sql` file can use them.

-- name: until_credit
-- True for a push that took nothing because its customer has no credit, or refunded nothing because no balance was
-- drawn on. Drawdown bills it again once the provider shows credit. A push that was refused after its acceptance does
-- not count, because its due time is the time from which it can be voided.
(state = 'rejected' AND due_at_ms > settled_ms AND refused_attempts IS NULL)

-- name: awaits_credit
-- True for a push of `until_credit` that does not need a person. A refund needs a person, because it would wait forever
-- if its customer never pays again. A push also needs a person if another provider bills its organisation now, or if
-- the organisation got another customer there. Their credit does not count for the push. An assignment to another
-- customer counts even before it begins. The columns of the push are those of the outer statement.
({until_credit} AND sent_qty > 0 AND NOT EXISTS (
    SELECT 1 FROM (SELECT org_id AS of_org, provider AS of_provider, customer_id AS of_customer) x
    JOIN orgs o ON o.org_id = x.of_org WHERE o.billing_provider <> x.of_provider
        OR x.of_customer <> (SELECT a.customer_id FROM assignments a
            WHERE a.org_id = x.of_org AND a.provider = x.of_provider ORDER BY a.start_ms DESC LIMIT 1) {by_its_key}))

-- name: open_state
-- The state of an open push, with its own state for pushes that wait for their customer's credit.
CASE WHEN {awaits_credit} THEN 'awaiting_credit' ELSE state END

-- name: unbilled
-- Names in place of a provider. Drawdown stores the usage, but does not bill it.
('legacy', 'none')

-- name: window_length_ms
300000

-- name: most_memory_mb
-- The largest memory size. Larger numbers are meters, each of an event type.
16777216

-- name: seconds_and_units
-- Sums of pending usage: seconds of sandboxes, and units of event types, which are never added to each other.
SUM(CASE WHEN memory_mb > {most_memory_mb} THEN 0 ELSE seconds END) AS seconds,
SUM(CASE WHEN memory_mb > {most_memory_mb} THEN seconds ELSE 0 END) AS units

-- name: in_segment
-- True if usage `u` is of the mapping's segment `g`. Each of thousands of meters is its own segment, so the first
-- condition can use a hash or an index.
CASE WHEN u.memory_mb > {most_memory_mb} THEN u.memory_mb ELSE 0 END
    = CASE WHEN g.lo > {most_memory_mb} THEN g.lo ELSE 0 END AND u.memory_mb BETWEEN g.lo AND g.hi

-- name: is_of_push
-- True if `x` belongs to the push `p`. `x` is a row with the primary key of a push: an attempt, an
-- adoption, a void, a row of values.
x.window_ms = p.window_ms AND x.org_id = p.org_id AND x.feature = p.feature AND x.revision = p.revision

-- name: this_push
-- The one push with the bound primary key.
window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND revision = :revision

-- name: arrivals
-- The number of attempts of push `p` that may have arrived; 0 if the provider refused all of them. A refused attempt
-- can be on record at the provider, in place of the charge of a later attempt.
(SELECT CASE WHEN SUM(CASE WHEN x.outcome = 'rejected' THEN 0 ELSE 1 END) > 0 THEN COUNT(*) ELSE 0 END
    FROM attempts x WHERE {is_of_push}
    AND (x.outcome IS NULL OR x.outcome IN ('unknown', 'queued', 'accepted', 'rejected')))

-- name: earliest_ask
-- The due time of a requested read of an organisation. A second request does not delay an earlier request. Otherwise a
-- machine with a fast clock would stop machines with correct clocks from reading.
CASE WHEN projection_due_ms < :now_ms THEN projection_due_ms ELSE :now_ms END

-- name: by_key_alone [postgresql]
-- Run this separate statement before statements that look rows up by keys. Without it, PostgreSQL would read all of
-- 20,000 organisations to find 128. If only hash joins were off, and the statistics showed few pushes, PostgreSQL would
-- read all pushes for each organisation. Do not use it for a work table, because a work table does not have a key.
SELECT set_config('enable_hashjoin', 'off', TRUE), set_config('enable_mergejoin', 'off', TRUE),
    set_config('enable_seqscan', 'off', TRUE)

-- name: end_by_key [postgresql]
-- Reset the settings in one round trip.
SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT; SET LOCAL enable_seqscan TO DEFAULT

-- name: by_its_key [postgresql]
-- Put this at the end of an EXISTS, so that PostgreSQL runs the subquery for each row, by its index. Otherwise it makes
-- a join, and reads a whole table for a few keys.
OFFSET 0

-- name: by_its_key [sqlite]

-- name: insert_dirty_windows
-- `windows`: the text after FROM, with a WHERE.
INSERT INTO dirty_windows (org_id, window_ms) SELECT DISTINCT org_id, window_ms FROM {windows} ON CONFLICT DO NOTHING

-- name: dirty_windows_read
-- The dirty windows `d` of the shard that a seal computes again, with their organisations `o`. Add `{is_dirty}`. The
-- fragments below look up the rows of each window.
dirty_windows d {each_then} orgs o ON o.org_id = d.org_id AND o.bucket BETWEEN :lo AND :hi
    AND o.stopped_at_ms IS NULL AND d.window_ms >= o.floor_ms

-- name: is_dirty
d.window_ms < :watermark_ms AND d.window_ms < :horizon_ms {dirty_scope}

-- name: each_then [postgresql]
-- Join a few dirty windows with their rows. SQLite has no statistics of table sizes, and might begin with all
-- pushes. It keeps the order of a cross join.
JOIN

-- name: each_then [sqlite]
CROSS JOIN

-- name: look_up [postgresql]
-- Look each of those few rows up by its whole key. If statistics showed an empty table (dirty windows come and go),
-- PostgreSQL would read by the organisation and compare times afterwards. It would read all usage of a customer, which
-- took 20 s for a thousand late samples among three million. A lateral subquery that is not pulled up prevents that.
CROSS JOIN LATERAL (SELECT * FROM

-- name: look_up [sqlite]
CROSS JOIN

-- name: looked_up_by [postgresql]
WHERE

-- name: looked_up_by [sqlite]
ON

-- name: end_look_s [postgresql]
OFFSET 0) s

-- name: end_look_s [sqlite]

-- name: end_look_p [postgresql]
OFFSET 0) p

-- name: end_look_p [sqlite]

-- name: end_look_w [postgresql]
OFFSET 0) w

-- name: end_look_w [sqlite]

-- name: billed_now [postgresql]
-- The organisations among :org_ids that :provider bills now, each with its customer. One scan of the key finds all
-- of them. A lookup of each takes three times as long.
(SELECT a.org_id, a.customer_id FROM assignments a WHERE a.org_id IN :org_ids AND a.provider = :provider
    AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms))

-- name: billed_now [sqlite]
-- Use the index of ids, because the requested ids are few. Otherwise SQLite would begin with all customers of the
-- provider.
(SELECT a.org_id, a.customer_id FROM assignments a WHERE a.org_id IN :org_ids AND +a.provider = :provider
    AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms))

-- name: customers_billed
-- Return `billed_now` without a join with the requested customers. Without statistics, PostgreSQL would compare each of
-- them with all customers of the provider.
SELECT a.org_id, a.customer_id FROM {billed_now} a

-- name: arrived_since
-- True for samples `s` that arrived after the samples before :cursor were read (S2).
s.arrival >= :cursor

-- name: arrived_since_or_in_flight
-- True also for samples of PostgreSQL transactions that were in flight at that time.
(s.arrival >= :cursor OR s.arrival IN :in_flight)

-- name: unseen_by_some [postgresql]
-- True for samples `s` that the seal of at least one bucket has not read (S2).
(s.arrival >= (SELECT MIN(cursor) FROM buckets)
    OR s.arrival = ANY (ARRAY(SELECT DISTINCT unnest(in_flight) FROM buckets)))

-- name: unseen_by_some [sqlite]
s.arrival >= (SELECT MIN(cursor) FROM buckets)

-- name: settlements_now
-- Settlements in their state at :now_ms. The state follows from the time and the rows alone. No job changes it.
-- `of_settlements`: a condition on the settlement `s` and its execution `r`.
(SELECT q.*, q.net_micro - q.reversed_micro AS owed_micro, CASE WHEN q.payout IS NOT NULL THEN 'released'
    WHEN q.reversed_micro > 0 AND q.reversed_micro = q.net_micro THEN 'reversed' WHEN q.is_frozen THEN 'frozen'
    WHEN q.hold_until_ms > :now_ms THEN 'hold' ELSE 'eligible' END AS state
FROM (
    SELECT s.reservation, r.org_id, r.project, s.supplier, s.gross_micro, s.share_ppm, s.net_micro, s.settled_ms,
        s.hold_until_ms, s.threshold_micro, s.takes_clawbacks, l.payout,
        COALESCE((SELECT CAST(SUM(v.amount_micro) AS BIGINT) FROM settlement_reversals v
            WHERE v.reservation = s.reservation AND NOT v.is_clawback), 0) AS reversed_micro,
        COALESCE((SELECT CAST(SUM(v.amount_micro) AS BIGINT) FROM settlement_reversals v
            WHERE v.reservation = s.reservation AND v.is_clawback), 0) AS clawed_back_micro,
        EXISTS (SELECT 1 FROM settlement_freezes f WHERE f.ended_ms IS NULL AND (f.reservation = s.reservation
            OR (f.supplier = s.supplier AND f.reservation IS NULL))) AS is_frozen
    FROM settlements s JOIN reservations r ON r.reservation = s.reservation
    LEFT JOIN payout_lines l ON l.line = 'settlement:' || s.reservation
    WHERE {of_settlements}
) q)

-- name: settlement_columns
-- The columns of a `Settlement`, from `settlements_now` as `x`.
x.reservation, x.org_id, x.project, x.supplier, x.gross_micro, x.share_ppm, x.net_micro, x.settled_ms, x.hold_until_ms,
    x.threshold_micro, x.takes_clawbacks, x.reversed_micro, x.clawed_back_micro, x.payout, x.state

-- name: available_micro
-- The `Wallet.available_micro` of a wallet: the balance less reserved credit, and less the remaining credit of ended
-- lots. The part of that credit that open executions have reserved is subtracted only once.
CASE WHEN over_micro = 0 OR balance_micro - held_micro >= over_micro THEN balance_micro - held_micro - over_micro
    WHEN balance_micro >= held_micro AND balance_micro >= over_micro THEN 0
    WHEN held_micro > over_micro THEN balance_micro - held_micro ELSE balance_micro - over_micro END + overdraft_micro

-- name: is_unused
-- True for the wallet of `t.customer_id` if its organisations all use another wallet or balance at :now_ms, and it is
-- not a pool or a payer. Its organisations have its name, or were billed from it. Without a biller, and without a
-- customer at a biller, an organisation uses the wallet of its own name.
(EXISTS (SELECT 1 FROM (SELECT t.customer_id AS org_id UNION ALL SELECT b.org_id FROM assignments b
        WHERE b.provider IN {wallet_billers} AND b.customer_id = t.customer_id AND b.start_ms <= :now_ms) u
        JOIN assignments a ON a.org_id = u.org_id
        WHERE {is_assigned_now} AND (a.provider NOT IN {unbilled} OR a.org_id <> t.customer_id))
    AND NOT EXISTS (SELECT 1 FROM assignments a WHERE a.customer_id = t.customer_id AND {is_charged_now})
    AND NOT EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = t.customer_id AND a.customer_id = '' AND {is_charged_now})
    AND NOT EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = t.customer_id AND NOT EXISTS (SELECT 1 FROM assignments a
        WHERE a.org_id = o.org_id AND {is_billed_now}))
    AND NOT EXISTS (SELECT 1 FROM pools x WHERE x.pool = t.customer_id)
    AND NOT EXISTS (SELECT 1 FROM payers x WHERE x.payer = t.customer_id AND x.allowed AND x.number = (
        SELECT MAX(n.number) FROM payers n WHERE n.payer = x.payer AND n.org_id = x.org_id)))

-- name: is_charged_now
-- Without statistics, SQLite would choose the index on the start, and read all assignments. The `+` prevents this.
+a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms) AND a.provider IN {wallet_billers}

-- name: wallet_billers
-- The providers that keep their balances in the wallets of this database.
(SELECT s.provider FROM provider_states s WHERE s.terms LIKE '%balance_in_ledger__ true%' UNION ALL SELECT 'embedded')

-- name: is_assigned_now
a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)

-- name: is_billed_now
{is_assigned_now} AND a.provider NOT IN {unbilled}

-- name: concurrent_sandboxes
-- The concurrent sandboxes of a customer (`w`): the larger number of the plan (`p`) and of a bought tier. Without a
-- plan, they are unlimited.
CASE WHEN p.max_concurrent_sandboxes IS NOT NULL THEN COALESCE((
    SELECT MAX(t.at_once) FROM tier_holders h JOIN tiers t ON t.tier = h.tier
    WHERE h.customer_id = w.id AND h.ended_ms IS NULL AND t.at_once > p.max_concurrent_sandboxes),
    p.max_concurrent_sandboxes) END

-- name: reservation_terms
-- The terms of a plan's executions, in the order of the fields of `HoldTerms`.
hold_factor_ppm, unknown_hold_micro, most_hold_micro, most_held_micro, holds_halt

-- name: may_have_used
-- True if an organisation (`o`, in its bucket `b`, billed by `a`) may have usage that is not charged yet.
(EXISTS (SELECT 1 FROM usage_samples s WHERE {is_unsealed})
    OR EXISTS (SELECT 1 FROM dirty_windows d WHERE d.org_id = o.org_id) OR {has_open})

-- name: is_unsealed
s.org_id = o.org_id AND s.ts >= o.floor_ms AND s.ts >= COALESCE(o.held_watermark_ms, b.watermark_ms, 0)

-- name: has_open
EXISTS (SELECT 1 FROM pushes q WHERE q.provider = a.provider AND q.state IN {open_states} AND q.org_id = o.org_id)

-- name: low_level
-- The balance at which the organisation `o` is low: its own level, even if that is NULL, or else the default level.
(SELECT l.low_micro FROM balance_levels l WHERE l.org_id IN (o.org_id, '') ORDER BY l.org_id DESC LIMIT 1)

-- name: named_sandboxes [sqlite]
-- The sandboxes that an execution of `reservations` names, as JSON.
(SELECT json_group_array(x.sandbox_id) FROM (SELECT n.sandbox_id FROM reservation_sandboxes n
    WHERE n.reservation = reservations.reservation ORDER BY n.sandbox_id) x) AS sandboxes

-- name: named_sandboxes [postgresql]
COALESCE((SELECT CAST(json_agg(n.sandbox_id ORDER BY n.sandbox_id) AS TEXT) FROM reservation_sandboxes n
    WHERE n.reservation = reservations.reservation), '[]') AS sandboxes

-- name: feature_of_meter
-- The feature of a meter in a window (S5); NULL without one. A range of sizes never contains a meter.
(SELECT m.feature FROM mappings m WHERE m.memory_mb = k.meter AND m.kind = 'exact' AND m.start_ms <= k.window_ms
    ORDER BY m.start_ms DESC, m.mapping_id DESC LIMIT 1)

-- name: charging
-- The times in which metrics of the guard cost credit: from each row of terms to the next, with the event type or
-- feature of the mapping that the metric counts.
(SELECT g.metric, g.counts, g.start_ms, g.end_ms FROM (
    SELECT metric, COALESCE(counts, metric) AS counts, price_micro, at_ms AS start_ms,
        COALESCE(LEAD(at_ms) OVER (PARTITION BY metric ORDER BY number), {forever_ms}) AS end_ms
    FROM guard_metrics) g
WHERE g.price_micro > 0)

-- name: forever_ms
4503599627370496

-- name: charged_by
-- The metric that forbids a feature for the type `k.event_type` of the meter `k.meter`, from the window `k.window_ms`
-- on. With the feature, Drawdown would bill use for which the guard also charges (`billed_once`). NULL if no metric
-- forbids it, or the type has a feature.
CASE WHEN {feature_of_meter} IS NULL THEN (SELECT MIN(c.metric) FROM {charging} c WHERE c.counts = k.event_type
    AND c.end_ms > k.window_ms AND c.start_ms < COALESCE((SELECT MIN(n.start_ms) FROM mappings n
        WHERE n.memory_mb = k.meter AND n.kind = 'exact' AND n.start_ms > k.window_ms), {forever_ms})) END

-- name: said_by
-- The moment, the actor and the reason of a recorded action `x`, or of a row `k`.
' at ' || x.at_ms || ' by ' || x.actor || ': ' || x.reason

-- name: kept_by
' at ' || k.at_ms || ' by ' || k.actor || ': ' || k.reason

-- name: was_withdrawn
-- Return a row if the event `i` was withdrawn, by its id of either channel. The other id must have the same
-- organisation.
SELECT 1 FROM withdrawals w WHERE w.sample_id IN (i.sample_id, i.other_id)
    AND (w.sample_id = i.sample_id OR w.org_id = i.org_id)

-- name: beginning_of [postgresql]
-- Return the first rows of a query. PostgreSQL plans it as if all rows were read.
WITH found AS MATERIALIZED ({asked}) SELECT * FROM found LIMIT :most

-- name: told_balances
-- The reported differences of balances that no person has acknowledged.
SELECT provider, customer_id, feature, org_id, told_qty, told_ms, scale, unsure_qty FROM balance_marks
WHERE (told_qty <> 0 OR unsure_qty <> 0)
