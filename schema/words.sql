-- Pieces that many statements share. Every `.sql` file may use them.

-- name: open_states
-- States of a push that is not decided: its quantity may still be sent, or a person has to say what became of it.
('due', 'queued', 'in_doubt', 'rejected')

-- name: until_credit
-- A push that took nothing, as its customer has no credit, or gave nothing back, as there was no balance that was drawn
-- on: it is billed again once the provider shows credit. A push that was refused after it had been accepted is none: its
-- time says when it may be voided.
(state = 'rejected' AND due_at_ms > settled_ms AND refused_attempts IS NULL)

-- name: awaits_credit
-- One of these that no person decides about. What is owed to a customer who never pays again would wait for good: a
-- person sees it at once, and may settle it first.
({until_credit} AND sent_qty > 0)

-- name: open_state
-- The state of an open push, with those that wait for their customer's credit apart.
CASE WHEN {awaits_credit} THEN 'awaiting_credit' ELSE state END

-- name: unbilled
-- Values of a provider that stand for nobody: usage is kept and billed by nobody here.
('legacy', 'none')

-- name: window_length_ms
300000

-- name: most_memory_mb
-- Above the largest memory size there are meters alone: a meter stands for an event type.
16777216

-- name: seconds_and_units
-- Of usage that is pending: seconds of sandboxes, and units of event types, which are never added up.
SUM(CASE WHEN memory_mb > {most_memory_mb} THEN 0 ELSE seconds END) AS seconds,
SUM(CASE WHEN memory_mb > {most_memory_mb} THEN seconds ELSE 0 END) AS units

-- name: in_segment
-- What usage `u` is of the mapping's segment `g`. A meter is a segment alone, and there may be thousands: the first
-- condition is one that is looked up.
CASE WHEN u.memory_mb > {most_memory_mb} THEN u.memory_mb ELSE 0 END
    = CASE WHEN g.lo > {most_memory_mb} THEN g.lo ELSE 0 END AND u.memory_mb BETWEEN g.lo AND g.hi

-- name: is_of_push
-- `p` is a push, or what is asked about one; `x` is whatever else names it by the primary key of a push: an attempt, an
-- adoption, a void, a row of values.
x.window_ms = p.window_ms AND x.org_id = p.org_id AND x.feature = p.feature AND x.revision = p.revision

-- name: this_push
-- The one push with the bound primary key.
window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND revision = :revision

-- name: arrivals
-- How many attempts of the push `p` may have arrived, if one of them may have charged. What was refused may be on
-- record there, and stand for what a later attempt charged.
(SELECT CASE WHEN SUM(CASE WHEN x.outcome = 'rejected' THEN 0 ELSE 1 END) > 0 THEN COUNT(*) ELSE 0 END
    FROM attempts x WHERE {is_of_push}
    AND (x.outcome IS NULL OR x.outcome IN ('unknown', 'queued', 'accepted', 'rejected')))

-- name: earliest_ask
-- When a requested read of an organisation is due. A second request does not delay an earlier one: otherwise a machine
-- with a clock that is ahead would keep machines with right clocks from reading at all.
CASE WHEN projection_due_ms < :now_ms THEN projection_due_ms ELSE :now_ms END

-- name: by_key_alone [postgresql]
-- A statement of its own. What follows in the transaction is looked up by keys: PostgreSQL would read all of 20,000
-- organisations for 128; and without hash joins alone, all pushes for each of those, where there seemed to be few. Not
-- where a work table is read, which has no key.
SELECT set_config('enable_hashjoin', 'off', TRUE), set_config('enable_mergejoin', 'off', TRUE),
    set_config('enable_seqscan', 'off', TRUE)

-- name: end_by_key [postgresql]
-- One way there and back.
SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT; SET LOCAL enable_seqscan TO DEFAULT

-- name: by_its_key [postgresql]
-- Ends an EXISTS: a subquery that ends so is asked about each row, by its index. Else PostgreSQL makes a join of it, and
-- reads a whole table for a few keys.
OFFSET 0

-- name: by_its_key [sqlite]

-- name: insert_dirty_windows
-- `windows`: what follows FROM, with a WHERE.
INSERT INTO dirty_windows (org_id, window_ms) SELECT DISTINCT org_id, window_ms FROM {windows} ON CONFLICT DO NOTHING

-- name: dirty_windows_read
-- The dirty windows of the shard that a seal computes again, `d`, with their organisations, `o`: each of them and what
-- is looked up by it below, while `{is_dirty}`.
dirty_windows d {each_then} orgs o ON o.org_id = d.org_id AND o.bucket BETWEEN :lo AND :hi
    AND o.stopped_at_ms IS NULL AND d.window_ms >= o.floor_ms

-- name: is_dirty
d.window_ms < :watermark_ms AND d.window_ms < :horizon_ms {dirty_scope}

-- name: each_then [postgresql]
-- From a few dirty windows to what lies in them. SQLite, which knows of no table how big it is, might begin with all
-- pushes there ever were; of a cross join it keeps the order.
JOIN

-- name: each_then [sqlite]
CROSS JOIN

-- name: look_up [postgresql]
-- Each of those few rows is looked up by the whole of its key. PostgreSQL, where it last found a table empty (dirty
-- windows come and go), would read by the organisation alone and compare times afterwards: all that somebody ever used,
-- 20 s for a thousand late samples among three million. A subquery about the row, not pulled up, leaves no choice.
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
-- Of the organisations :org_ids those that :provider bills now, each with its customer. One scan of the key finds all
-- of them; a look-up of each takes three times as long.
(SELECT a.org_id, a.customer_id FROM assignments a WHERE a.org_id IN :org_ids AND a.provider = :provider
    AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms))

-- name: billed_now [sqlite]
-- Use the index of ids: the requested ids are few, and SQLite would begin with all customers of the provider.
(SELECT a.org_id, a.customer_id FROM assignments a WHERE a.org_id IN :org_ids AND +a.provider = :provider
    AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms))

-- name: customers_billed
-- The same by itself, without a join with the requested customers: without statistics PostgreSQL would compare each of
-- them with all customers of the provider.
SELECT a.org_id, a.customer_id FROM {billed_now} a

-- name: arrived_since
-- Of samples `s`: those that came after the ones before :cursor were looked at (S2).
s.arrival >= :cursor

-- name: arrived_since_or_in_flight
-- The same, where transactions of PostgreSQL were in flight then.
(s.arrival >= :cursor OR s.arrival IN :in_flight)

-- name: unseen_by_some [postgresql]
-- Of samples `s`: the seal of some bucket has not looked at them (S2).
(s.arrival >= (SELECT MIN(cursor) FROM buckets)
    OR s.arrival = ANY (ARRAY(SELECT DISTINCT unnest(in_flight) FROM buckets)))

-- name: unseen_by_some [sqlite]
s.arrival >= (SELECT MIN(cursor) FROM buckets)

-- name: settlements_now
-- Settlements as they stand at :now_ms, by time and rows alone: no job moves them from one state to the next.
-- `of_settlements`: a condition on the settlement `s` and its run `r`.
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

-- name: available_micro
-- Of a wallet, `Wallet.available_micro`: the balance without what is held, and without what is left of lots that are
-- over. What runs that go on have reserved of those is theirs: it is taken off once.
CASE WHEN over_micro = 0 OR balance_micro - held_micro >= over_micro THEN balance_micro - held_micro - over_micro
    WHEN balance_micro >= held_micro AND balance_micro >= over_micro THEN 0
    WHEN held_micro > over_micro THEN balance_micro - held_micro ELSE balance_micro - over_micro END + overdraft_micro

-- name: may_have_used
-- Whether there may be usage of an organisation (`o`, in its bucket `b`, billed by `a`) that is not charged yet.
(EXISTS (SELECT 1 FROM usage_samples s WHERE {is_unsealed})
    OR EXISTS (SELECT 1 FROM dirty_windows d WHERE d.org_id = o.org_id) OR {has_open})

-- name: is_unsealed
s.org_id = o.org_id AND s.ts >= o.floor_ms AND s.ts >= COALESCE(o.held_watermark_ms, b.watermark_ms, 0)

-- name: has_open
EXISTS (SELECT 1 FROM pushes q WHERE q.provider = a.provider AND q.state IN {open_states} AND q.org_id = o.org_id)

-- name: low_level
-- At which balance the organisation `o` is low: by its own level, also where that is none, or by everybody's.
(SELECT l.low_micro FROM balance_levels l WHERE l.org_id IN (o.org_id, '') ORDER BY l.org_id DESC LIMIT 1)

-- name: named_sandboxes [sqlite]
-- The sandboxes that a run of `reservations` names, as JSON.
(SELECT json_group_array(x.sandbox_id) FROM (SELECT n.sandbox_id FROM reservation_sandboxes n
    WHERE n.reservation = reservations.reservation ORDER BY n.sandbox_id) x) AS sandboxes

-- name: named_sandboxes [postgresql]
COALESCE((SELECT CAST(json_agg(n.sandbox_id ORDER BY n.sandbox_id) AS TEXT) FROM reservation_sandboxes n
    WHERE n.reservation = reservations.reservation), '[]') AS sandboxes

-- name: feature_of_meter
-- What a meter makes in a window (S5): NULL for nothing. No tier holds a meter.
(SELECT m.feature FROM mappings m WHERE m.memory_mb = k.meter AND m.kind = 'exact' AND m.start_ms <= k.window_ms
    ORDER BY m.start_ms DESC, m.mapping_id DESC LIMIT 1)

-- name: charging
-- When metrics of the guard cost credit: each from its terms to the next ones, with the event type or feature of the
-- mapping that it counts.
(SELECT g.metric, g.counts, g.start_ms, g.end_ms FROM (
    SELECT metric, COALESCE(counts, metric) AS counts, price_micro, at_ms AS start_ms,
        COALESCE(LEAD(at_ms) OVER (PARTITION BY metric ORDER BY number), {forever_ms}) AS end_ms
    FROM guard_metrics) g
WHERE g.price_micro > 0)

-- name: forever_ms
4503599627370496

-- name: charged_by
-- The metric because of which nothing may make a feature of the type `k.event_type`, of the meter `k.meter`, in the window
-- `k.window_ms`: what made one would go on to where the guard charges for it (`billed_once`). NULL where nothing keeps
-- it from that, or something makes one.
CASE WHEN {feature_of_meter} IS NULL THEN (SELECT MIN(c.metric) FROM {charging} c WHERE c.counts = k.event_type
    AND c.end_ms > k.window_ms AND c.start_ms < COALESCE((SELECT MIN(n.start_ms) FROM mappings n
        WHERE n.memory_mb = k.meter AND n.kind = 'exact' AND n.start_ms > k.window_ms), {forever_ms})) END

-- name: said_by
-- Who said it, when and why: on the record of actions, and as a row keeps it.
' at ' || x.at_ms || ' by ' || x.actor || ': ' || x.reason

-- name: kept_by
' at ' || k.at_ms || ' by ' || k.actor || ': ' || k.reason

-- name: was_withdrawn
-- The event `i`, whichever way it was sent then: the id of the other way counts where its organisation is the same.
SELECT 1 FROM withdrawals w WHERE w.sample_id IN (i.sample_id, i.other_id)
    AND (w.sample_id = i.sample_id OR w.org_id = i.org_id)

-- name: beginning_of [postgresql]
-- What a question finds, no further than so many rows: planned as if read to the end, and fetched at once.
WITH found AS MATERIALIZED ({asked}) SELECT * FROM found LIMIT :most

-- name: told_balances
-- The reported differences of balances that no person has acknowledged.
SELECT provider, customer_id, feature, org_id, told_qty, told_ms, scale, unsure_qty FROM balance_marks
WHERE (told_qty <> 0 OR unsure_qty <> 0)
