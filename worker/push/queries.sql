-- The statements of the outbox: claim, settle, look up, adopt and void pushes.
--
-- Guarantee: each statement finds its rows by their key or by the index on open pushes, so settled pushes do not slow
-- it. `state IN {open_states}` repeats the condition of that index word for word. Otherwise SQLite reads all pushes.

-- name: push_ids
{rows :push_ids (window_ms bigint, org_id text, feature text, revision bigint)}

-- name: is_of_updated_push
-- The statement updates `pushes`. `x` has the primary key of each push.
pushes.window_ms = x.window_ms AND pushes.org_id = x.org_id AND pushes.feature = x.feature
    AND pushes.revision = x.revision

-- name: skip_locked [postgresql]
FOR UPDATE OF p SKIP LOCKED

-- name: skip_locked [sqlite]

-- name: hold_push [postgresql]
FOR UPDATE OF p

-- name: hold_push [sqlite]

-- name: is_not_paused
(SELECT COUNT(*) FROM provider_states s WHERE s.provider = :provider AND s.paused_ms IS NOT NULL) = 0

-- name: may_be_sent
p.provider = :provider AND p.state IN {open_states} AND p.state = 'due' AND o.stopped_at_ms IS NULL
    AND o.bucket BETWEEN :lo AND :hi AND {is_not_paused}

-- name: claim
-- `due_at_ms` is also the end of the lease. If the claimer has not settled a push by then, the push is due again. Rule
-- P2 is checked here as well, because a process may have slept since it expired old pushes. MATERIALIZED selects once.
-- A plan that selects again for each row would claim more than the limit.
WITH x AS MATERIALIZED (
    SELECT p.window_ms, p.org_id, p.feature, p.revision FROM pushes p JOIN orgs o ON o.org_id = p.org_id
    WHERE {may_be_sent} AND (p.first_attempt_ms IS NULL OR p.first_attempt_ms > :oldest_attempt_ms)
    {first} LIMIT :at_most {skip_locked}
)
UPDATE pushes SET claim_owner = :claim_owner, due_at_ms = :lease_end_ms, attempts = pushes.attempts + 1,
    first_attempt_ms = COALESCE(pushes.first_attempt_ms, :now_ms)
FROM x WHERE {is_of_updated_push}
RETURNING pushes.window_ms, pushes.org_id, pushes.feature, pushes.revision, pushes.key, pushes.customer_id,
    pushes.sent_qty, pushes.attempts, pushes.wire_key, pushes.first_attempt_ms, pushes.sealed_at_ms

-- name: longest_due
AND p.due_at_ms <= :now_ms ORDER BY p.due_at_ms

-- name: newest_unsent
-- In this order organisations take turns, because each has one push per window and feature. The condition repeats that
-- of its index word for word. The `+` keeps the planner from the index on the due time. A push that is proven unsent
-- counts as never sent.
AND p.first_attempt_ms IS NULL AND p.provider <> 'embedded' AND +p.due_at_ms <= :now_ms ORDER BY p.window_ms DESC

-- name: reads_before
-- A customer without credit may have a grant that no read has shown yet. A former customer is not read any more.
SELECT o.org_id, o.projection_read_ms, o.runs_out_ms,
    o.balance_read_ms IS NULL OR o.is_halted OR COALESCE(o.balance_micro, 1) <= 0 AS unread,
    CASE WHEN a.provider = :provider THEN a.customer_id END AS customer_id
FROM orgs o LEFT JOIN assignments a ON a.org_id = o.org_id AND {is_assigned_now} WHERE o.org_id IN :org_ids

-- name: begin_attempts
INSERT INTO attempts (window_ms, org_id, feature, revision, attempt, started_ms, owner, sent_qty)
SELECT window_ms, org_id, feature, revision, attempts, :now_ms, :claim_owner, sent_qty FROM pushes
WHERE provider = :provider AND state IN {open_states} AND state = 'due' AND due_at_ms = :lease_end_ms
    AND claim_owner = :claim_owner

-- name: expire
-- After this time, the provider may have forgotten a key, and another send could bill twice (rule P2). The same holds
-- if the window is now too old for the provider.
UPDATE pushes SET state = :state, settled_ms = :now_ms, due_at_ms = :now_ms,
    last_error = 'the provider may have forgotten the key: it is looked up, and never sent blind'
WHERE provider = :provider AND state IN {open_states} AND state = 'due' AND due_at_ms <= :now_ms
    AND first_attempt_ms IS NOT NULL AND (first_attempt_ms <= :oldest_attempt_ms OR window_ms < :oldest_window_ms)

-- name: lost
-- Organisations with a send that has no response after its lease, and without a read since. The provider may have
-- charged the send, so the credit in later responses may include the charge. A read counts the push until the push is
-- settled.
SELECT DISTINCT p.org_id FROM pushes p JOIN orgs o ON o.org_id = p.org_id
WHERE p.provider = :provider AND p.state IN {open_states} AND p.state = 'due' AND p.due_at_ms <= :now_ms
    AND p.first_attempt_ms IS NOT NULL AND o.projection_due_ms IS NULL
    AND COALESCE(o.projection_read_ms, 0) < p.due_at_ms
    AND EXISTS (SELECT 1 FROM attempts x WHERE {is_of_push} AND x.attempt = p.attempts AND x.outcome IS NULL)

-- name: reject_unsendable
-- Reject a push that exceeds the provider's declared limits. Such a push was never sent, so a person can decide.
UPDATE pushes SET state = 'rejected', settled_ms = :now_ms, last_error = CASE WHEN window_ms < :oldest_window_ms
    THEN 'not sent: the provider takes nothing dated more than ' || :days || ' days back'
    ELSE 'not sent: the provider takes no quantity above ' || :largest_qty END
WHERE provider = :provider AND state IN {open_states} AND state = 'due' AND due_at_ms <= :now_ms
    AND first_attempt_ms IS NULL
    AND (window_ms < :oldest_window_ms OR sent_qty > :largest_qty OR sent_qty < -:largest_qty)
RETURNING org_id

-- name: sent_before
-- Pushes with an earlier attempt that may have arrived, because its response is missing or does not exclude that.
SELECT x.window_ms, x.org_id, x.feature, x.revision FROM attempts x JOIN pushes p ON {is_of_push}
WHERE p.provider = :provider AND p.state IN {open_states} AND p.state = 'due'
    AND p.due_at_ms = :lease_end_ms AND p.claim_owner = :claim_owner AND x.attempt < p.attempts
    AND (x.outcome IS NULL OR x.outcome NOT IN ('retry', 'rejected', 'absent'))

-- name: keep_wire_keys
UPDATE pushes SET wire_key = x.wire_key
FROM {rows :wire_keys (window_ms bigint, org_id text, feature text, revision bigint, wire_key text)} x
WHERE {is_of_updated_push} AND pushes.wire_key IS NULL

-- name: settlements
{rows :settlements (window_ms bigint, org_id text, feature text, revision bigint, attempt bigint, state text,
    due_at_ms bigint, outcome text, error text, unsent bigint, credit_cost text)}

-- name: settle
-- A worker writes a response that proves acceptance, even if another worker has the claim. Only the claimer writes any
-- other response. A refusal that came after the attempt began stays, because the response shows an earlier state.
-- `|| ''` keeps the planner from the index on open pushes. Otherwise, with old statistics, each batch would read a
-- whole backlog by that index, and not its own rows by their key.
UPDATE pushes SET state = x.state, due_at_ms = x.due_at_ms, settled_ms = :now_ms, last_error = x.error,
    first_attempt_ms = CASE WHEN x.unsent = 1 THEN NULL ELSE pushes.first_attempt_ms END, credit_cost = x.credit_cost
FROM {settlements} x
WHERE {is_of_updated_push}
    AND (pushes.state || '' IN ('due', 'queued') AND pushes.claim_owner = :claim_owner
        OR pushes.state || '' IN ('due', 'queued', 'rejected', 'in_doubt') AND x.state = 'accepted'
            AND x.attempt > COALESCE(pushes.refused_attempts, 0))
{changed}

-- name: to_draw
-- The columns that a draw on a wallet needs. They are returned only for providers with charges that a wallet mirrors.
RETURNING pushes.window_ms, pushes.key, pushes.customer_id, pushes.feature, pushes.sent_qty, pushes.state

-- name: finish_attempts
-- The present number of attempts shows whether a later attempt had begun. Clocks of two workers cannot show this.
UPDATE attempts SET finished_ms = :now_ms, outcome = p.outcome, detail = p.error, attempts_then = (
    SELECT x.attempts FROM pushes x WHERE {is_of_push})
FROM {settlements} p
WHERE attempts.window_ms = p.window_ms AND attempts.org_id = p.org_id AND attempts.feature = p.feature
    AND attempts.revision = p.revision AND attempts.attempt = p.attempt

-- name: claim_lookups
-- MATERIALIZED selects once, as in `claim`.
WITH x AS MATERIALIZED (
    SELECT p.window_ms, p.org_id, p.feature, p.revision FROM pushes p JOIN orgs o ON o.org_id = p.org_id
    WHERE p.provider = :provider AND p.state IN {open_states} AND p.state IN ('queued', 'in_doubt')
        AND p.due_at_ms <= :now_ms AND o.stopped_at_ms IS NULL AND o.bucket BETWEEN :lo AND :hi
    ORDER BY p.due_at_ms LIMIT :at_most {skip_locked}
)
UPDATE pushes SET claim_owner = :claim_owner, due_at_ms = :lease_end_ms, lookups = pushes.lookups + 1
FROM x WHERE {is_of_updated_push}
RETURNING pushes.window_ms, pushes.org_id, pushes.feature, pushes.revision

-- name: claim_with_them
-- One balance shows all charges of a customer, so all due pushes of the claimed customers are looked up together. This
-- includes pushes of other organisations and shards that are billed as the same customer.
WITH x AS MATERIALIZED (
    SELECT p.window_ms, p.org_id, p.feature, p.revision FROM pushes p JOIN orgs o ON o.org_id = p.org_id
    WHERE p.provider = :provider AND p.state IN {open_states} AND p.state IN ('queued', 'in_doubt')
        AND p.due_at_ms <= :now_ms AND o.stopped_at_ms IS NULL
        AND p.customer_id IN (SELECT c.customer_id FROM pushes c
            WHERE c.provider = :provider AND c.state IN {open_states} AND c.state IN ('queued', 'in_doubt')
                AND c.due_at_ms = :lease_end_ms AND c.claim_owner = :claim_owner)
    ORDER BY p.customer_id, p.feature, p.due_at_ms LIMIT :at_most {skip_locked}
)
UPDATE pushes SET claim_owner = :claim_owner, due_at_ms = :lease_end_ms, lookups = pushes.lookups + 1
FROM x WHERE {is_of_updated_push}

-- name: claimed_lookups
-- If an attempt was refused because the key is known, or is proven not to have arrived, the provider cannot apply it
-- later.
SELECT p.*,
    COALESCE((SELECT MAX(x.started_ms) FROM attempts x WHERE {is_of_push}
        AND (x.outcome IS NULL OR x.outcome IN ('unknown', 'queued', 'accepted'))), p.first_attempt_ms,
        p.sealed_at_ms) AS last_sent_ms,
    EXISTS (SELECT 1 FROM attempts x WHERE {is_of_push}
        AND x.outcome IN ('queued', 'duplicate', 'rejected')) AS claimed,
    {arrivals} AS arrivals, (SELECT o.floor_ms FROM orgs o WHERE o.org_id = p.org_id) AS floor_ms,
    (SELECT MAX(o.revision) FROM pushes o WHERE o.window_ms = p.window_ms AND o.org_id = p.org_id
        AND o.feature = p.feature) AS newest
FROM pushes p
WHERE p.provider = :provider AND p.state IN {open_states} AND p.state IN ('queued', 'in_doubt')
    AND p.claim_owner = :claim_owner AND p.due_at_ms = :lease_end_ms ORDER BY p.window_ms, p.key

-- name: voided_of_claimed
-- Revisions of the claimed pushes' windows that were voided because the provider did not have them. If reconcile adopted
-- an excess of the window since, that excess can be their charge.
SELECT v.*, p.revision AS of_revision FROM pushes p
JOIN pushes v ON v.window_ms = p.window_ms AND v.org_id = p.org_id AND v.feature = p.feature AND v.state = 'voided'
    AND v.provider = p.provider AND v.customer_id = p.customer_id
JOIN voids o ON o.window_ms = v.window_ms AND o.org_id = v.org_id AND o.feature = v.feature AND o.revision = v.revision
WHERE p.provider = :provider AND p.state IN {open_states} AND p.state IN ('queued', 'in_doubt')
    AND p.claim_owner = :claim_owner AND p.due_at_ms = :lease_end_ms AND o.evidence_kind = 'absent'
    AND NOT EXISTS (SELECT 1 FROM adoptions d WHERE d.window_ms = v.window_ms AND d.org_id = v.org_id
        AND d.feature = v.feature AND d.kind = 'excess' AND d.at_ms >= o.at_ms)
ORDER BY v.window_ms, v.key

-- name: adopted_keys
-- Keys of a window that a push in force has.
SELECT wire_key FROM pushes
WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND state <> 'voided' AND wire_key IS NOT NULL

-- name: adopted_excess
SELECT 1 FROM adoptions
WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND kind = 'excess' AND at_ms >= :voided_ms

-- name: keep_wire_key
UPDATE pushes SET wire_key = :wire_key WHERE {this_push}

-- name: settle_lookup
-- A worker writes a response that proves acceptance, even if another worker has the claim. If the push was refused,
-- only the claimer writes it, because an earlier lookup shows the state before the refusal.
UPDATE pushes SET state = :state, due_at_ms = :due_at_ms, settled_ms = :now_ms, last_error = :last_error,
    looked_up_ms = :looked_up_ms, lookup_answer = :lookup_answer, credit_cost = CAST(:credit_cost AS TEXT),
    first_attempt_ms = CASE WHEN :never_sent = 1 THEN NULL
        ELSE COALESCE(first_attempt_ms, CAST(:first_sent_ms AS BIGINT)) END
WHERE {this_push}
    AND (state IN ('queued', 'in_doubt') AND claim_owner = :claim_owner
        OR state IN ('due', 'queued', 'rejected', 'in_doubt') AND :state = 'accepted' AND refused_attempts IS NULL)

-- name: note_lookup
UPDATE pushes SET looked_up_ms = :looked_up_ms, lookup_answer = :lookup_answer WHERE {this_push}

-- name: hold_if_claimed
-- Keep the row locked. Otherwise, another worker could write a late response between this statement and the void.
SELECT 1 FROM pushes p WHERE {this_push} AND state IN ('queued', 'in_doubt') AND claim_owner = :claim_owner {hold_push}

-- name: others_untold
-- Other unknown pushes, which may lead to an adoption. An absent push that waits only for others cannot lead to one, so
-- it is left out.
SELECT 1 FROM pushes o WHERE o.provider = :provider AND o.state IN {open_states}
    AND o.state = 'queued' AND o.org_id = :org_id AND o.customer_id = :customer_id AND o.feature = :feature
    AND o.attempts = 0 AND (o.settled_ms IS NULL OR COALESCE(o.last_error, '') NOT IN (:others_first, :others))
    AND (o.window_ms <> :window_ms OR o.revision <> :revision) LIMIT 1

-- name: adopted_since
SELECT 1 FROM adoptions x JOIN pushes p ON {is_of_push}
WHERE x.org_id = :org_id AND x.feature = :feature AND p.provider = :provider AND p.customer_id = :customer_id
    AND x.at_ms >= :sealed_at_ms LIMIT 1

-- name: known_by_events
-- The charges of a customer by events in a span, as this database has them. A charge by hand, or a charge that only a
-- balance shows, does not have an event.
SELECT CAST(COALESCE(SUM(p.sent_qty), 0) AS BIGINT) FROM pushes p
WHERE p.provider = :provider AND p.customer_id = :customer_id AND p.feature = :feature AND p.state = 'accepted'
    AND p.window_ms >= :from_ms AND p.window_ms < :until_ms AND NOT p.by_hand AND COALESCE(p.lookup_answer, '') <> 'drawn'
    AND NOT EXISTS (SELECT 1 FROM adoptions x WHERE {is_of_push} AND x.kind = 'drawn')

-- name: find_pushes
SELECT p.* FROM {push_ids} x JOIN pushes p ON {is_of_push} {held}

-- name: rejected_of
SELECT p.* FROM {rows :windows (org_id text, window_ms bigint)} x
JOIN pushes p ON p.window_ms = x.window_ms AND p.org_id = x.org_id WHERE p.state = 'rejected' {hold_push}

-- name: folded
SELECT 1 FROM folded_pushes WHERE day_ms = :day_ms AND org_id = :org_id AND feature = :feature LIMIT 1

-- name: keys_from
SELECT key FROM pushes
WHERE (window_ms, org_id, feature, revision) >= (:window_ms, :org_id, :feature, :revision)
ORDER BY window_ms ASC, org_id ASC, feature ASC, revision ASC LIMIT :at_most

-- name: keys_before
SELECT key FROM pushes
WHERE (window_ms, org_id, feature, revision) < (:window_ms, :org_id, :feature, :revision)
ORDER BY window_ms DESC, org_id DESC, feature DESC, revision DESC LIMIT :at_most

-- name: newest_unanswered
SELECT p.window_ms, p.org_id, p.feature, p.revision, MAX(x.started_ms) AS newest_ms
FROM {push_ids} p JOIN attempts x ON {is_of_push} WHERE x.outcome IS NULL OR x.outcome = 'unknown'
GROUP BY p.window_ms, p.org_id, p.feature, p.revision

-- name: change
-- Change the delivery state of pushes. `to`: one of the next three fragments.
UPDATE pushes SET {to} FROM {push_ids} x WHERE {is_of_updated_push}

-- name: to_voided
state = 'voided', settled_ms = :now_ms

-- name: to_accepted
-- A person resolves the pushes as accepted. A push that the provider had rejected was billed by hand.
by_hand = (state = 'rejected'), state = 'accepted', settled_ms = :now_ms

-- name: to_due
due_at_ms = :now_ms

-- name: arrivals_of
SELECT {arrivals} FROM pushes p WHERE {this_push}

-- name: take_back
UPDATE pushes SET state = :state, claim_owner = NULL, refused_attempts = attempts, settled_ms = :now_ms,
    due_at_ms = :due_at_ms, last_error = :reason
WHERE {this_push}

-- name: newest_revision
SELECT MAX(revision) FROM pushes WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature

-- name: windows_to_seal_again
{rows :windows (org_id text, window_ms bigint)} r WHERE 1 = 1

-- name: void
INSERT INTO voids (window_ms, org_id, feature, revision, attempts_then, evidence, at_ms, evidence_kind, actor, reason)
SELECT window_ms, org_id, feature, revision, attempts_then, evidence, :at_ms, :evidence_kind, :actor, :reason
FROM {rows :voids (window_ms bigint, org_id text, feature text, revision bigint, attempts_then bigint, evidence text)} r
WHERE 1 = 1

-- name: add_to_carries
INSERT INTO carries (org_id, provider, customer_id, feature, carry_qty)
SELECT org_id, provider, customer_id, feature, carry_qty
FROM {rows :carries (org_id text, provider text, customer_id text, feature text, carry_qty bigint)} r WHERE 1 = 1
ON CONFLICT (org_id, provider, customer_id, feature) DO UPDATE SET carry_qty = carries.carry_qty + excluded.carry_qty

-- name: floors
SELECT o.org_id, o.floor_ms FROM {rows :orgs (org_id text)} w JOIN orgs o ON o.org_id = w.org_id

-- name: billed_as
-- The organisations that are billed as this customer now.
SELECT org_id FROM assignments WHERE provider = :provider AND customer_id = :customer_id AND start_ms <= :now_ms
    AND (end_ms IS NULL OR :now_ms < end_ms)

-- name: key_of_wire_key
SELECT key FROM pushes WHERE wire_key = :wire_key AND provider = :provider ORDER BY revision DESC LIMIT 1

-- name: with_wallet
-- The given customers that have a grant in the embedded ledger.
SELECT w.id FROM {rows :customers (id text)} w WHERE EXISTS (SELECT 1 FROM ledger_entries e
    WHERE e.to_account = 'wallet:' || w.id AND e.kind = 'grant' {by_its_key})

-- name: make_charges [postgresql]
CREATE TEMP TABLE charges_work (window_ms bigint, org_id text COLLATE "C", feature text COLLATE "C", revision bigint,
    key text COLLATE "C", account_id text COLLATE "C", quantity bigint, rate_ms bigint, amount_micro bigint) ON COMMIT DROP

-- name: make_charges [sqlite]
CREATE TEMP TABLE IF NOT EXISTS charges_work (window_ms bigint, org_id text, feature text, revision bigint, key text,
    account_id text, quantity bigint, rate_ms bigint, amount_micro bigint);
DELETE FROM charges_work

-- name: price
-- The price as in `Rate.price`, rounded half away from zero.
(ABS(p.sent_qty) * r.micro_credits * 2 + r.per_quantity) / (2 * r.per_quantity)

-- name: first_rate
-- As in `wallet.charge` (S11), a revision uses the rate of the first charge of its window, even if the rate has changed
-- since.
CASE WHEN p.revision > 0 THEN (SELECT COALESCE(e.rate_ms, (SELECT MAX(q.start_ms) FROM ledger_rates q
        WHERE q.feature = e.feature AND q.start_ms <= e.ts AND q.at_ms <= e.at_ms))
    FROM ledger_entries e WHERE e.from_account = 'wallet:' || p.customer_id AND e.ts >= p.window_ms
        AND e.ts < p.window_ms + {window_length_ms} AND e.kind = 'usage' AND e.feature = p.feature
    ORDER BY e.at_ms, e.key LIMIT 1) END

-- name: pick_charges
-- Pushes that were never sent, at the rate of their window. CASE first checks that the price fits in 64 bits, and then
-- compares the price with the largest entry.
INSERT INTO charges_work (window_ms, org_id, feature, revision, key, account_id, quantity, rate_ms, amount_micro)
SELECT p.window_ms, p.org_id, p.feature, p.revision, p.key, 'wallet:' || p.customer_id, p.sent_qty, r.start_ms,
    CASE WHEN p.sent_qty < 0 THEN -1 ELSE 1 END * ({price})
FROM pushes p JOIN orgs o ON o.org_id = p.org_id
JOIN ledger_rates r ON r.feature = p.feature AND r.start_ms = COALESCE({first_rate}, (SELECT MAX(q.start_ms)
    FROM ledger_rates q WHERE q.feature = p.feature AND q.start_ms <= p.window_ms))
WHERE {may_be_sent} AND p.due_at_ms <= :now_ms AND p.attempts = 0 AND p.wire_key IS NULL
    AND CASE WHEN r.micro_credits <= :most_rate AND r.per_quantity <= :most_rate
            AND p.sent_qty BETWEEN -(:most_product / (2 * r.micro_credits + 1)) AND :most_product / (2 * r.micro_credits + 1)
        THEN {price} <= :most_entry_micro ELSE 1 = 0 END
ORDER BY p.due_at_ms LIMIT :at_most {skip_locked}

-- name: by_key [postgresql]
-- The planner does not know the number of rows in the work table. Pushes and wallets must be read by their keys, even
-- if statistics show few rows.
SELECT set_config('enable_hashjoin', 'off', TRUE), set_config('enable_mergejoin', 'off', TRUE)

-- name: by_turn [postgresql]
-- Due pushes are read in the order of their index, and only one portion of them. If statistics show few pushes,
-- PostgreSQL would sort them, and each portion would read a whole backlog. If they show few organisations, it would
-- read all of them for each push.
SELECT set_config('enable_sort', 'off', TRUE), set_config('enable_seqscan', 'off', TRUE)

-- name: end_by_turn [postgresql]
SET LOCAL enable_sort TO DEFAULT;
SET LOCAL enable_seqscan TO DEFAULT

-- name: post_charges
-- Entries and wallets are inserted in the order of their keys, because all transactions lock in this order.
INSERT INTO ledger_accounts (account_id) SELECT DISTINCT account_id FROM charges_work WHERE 1 = 1
ORDER BY account_id ON CONFLICT (account_id) DO NOTHING;
INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor,
    reason, rate_ms)
SELECT key, 'usage', account_id, 'revenue:' || feature, amount_micro, feature, quantity, window_ms, :now_ms, 'drawdown',
    'usage', rate_ms
FROM charges_work WHERE 1 = 1 ORDER BY key ON CONFLICT (key) DO NOTHING

-- name: move_charges [postgresql]
SELECT COUNT(*) FROM (SELECT 1 FROM ledger_accounts WHERE account_id IN (SELECT account_id FROM charges_work)
    ORDER BY account_id FOR UPDATE) q;
{move_charged}

-- name: move_charges [sqlite]
{move_charged}

-- name: move_charged
-- This is the same change as `move` of the ledger.
UPDATE ledger_accounts SET balance_micro = balance_micro - r.amount,
    next_due_ms = CASE WHEN r.first_ms < lots_over_ms OR (deferred_micro > 0 AND r.amount < 0) THEN 0
        ELSE next_due_ms END
FROM (SELECT account_id, CAST(SUM(amount_micro) AS BIGINT) AS amount, MIN(window_ms) AS first_ms FROM charges_work
    GROUP BY account_id) r
WHERE ledger_accounts.account_id = r.account_id

-- name: charged_beyond
SELECT 1 FROM ledger_accounts WHERE account_id IN (SELECT account_id FROM charges_work)
    AND balance_micro NOT BETWEEN -:most AND :most LIMIT 1

-- name: settle_charges
INSERT INTO attempts (window_ms, org_id, feature, revision, attempt, started_ms, owner, sent_qty, finished_ms, outcome,
    attempts_then)
SELECT window_ms, org_id, feature, revision, 1, :now_ms, :claim_owner, quantity, :now_ms, 'accepted', 1
FROM charges_work;
UPDATE pushes SET state = 'accepted', claim_owner = :claim_owner, due_at_ms = :now_ms, attempts = 1,
    first_attempt_ms = :now_ms, settled_ms = :now_ms, last_error = NULL
FROM charges_work x WHERE {is_of_updated_push}

-- name: charged_orgs
SELECT DISTINCT org_id FROM charges_work ORDER BY org_id

-- The figures to compare with a customer's balance, and the reported differences.

-- name: accounted
-- A push belongs to the balance's present cycle if it was settled in this cycle. If the push was sent just before the
-- cycle began, or was billed by hand, the balance may include it or not. `from_ms`: the earliest possible start of the
-- cycle. A push that may have arrived is open until it is settled. If a person voided a negative push that was sent, a
-- part of it may have been given back. Autumn gives back at most the drawn quantity, and not always with an event. A
-- charge was made at one of the costs from `first` to `last`, because the exact times of charges and of changes are
-- unknown. `fresh` is the amount that counts in the cycle since the last comparison.
{with_changes}
SELECT p.customer_id, p.pool, p.feature, p.org_id, p.first, p.last, p.credit_cost, SUM(p.attempts) AS attempts,
    SUM(CASE WHEN p.open = 1 THEN 1 ELSE 0 END) AS open,
    CAST(SUM(CASE WHEN p.open = 1 AND p.sent_qty > 0 THEN p.sent_qty ELSE 0 END) AS BIGINT) AS open_above,
    CAST(SUM(CASE WHEN p.open = 1 AND p.sent_qty < 0 THEN p.sent_qty ELSE 0 END) AS BIGINT) AS open_below,
    CAST(SUM(p.accepted) AS BIGINT) AS accepted,
    CAST(SUM(CASE WHEN p.at_ms >= p.from_ms THEN p.accepted ELSE 0 END) AS BIGINT) AS ours,
    CAST(SUM(CASE WHEN p.sure = 1 THEN p.accepted WHEN p.at_ms >= p.from_ms - :apart_ms AND p.accepted < 0
        THEN p.accepted ELSE 0 END + CASE WHEN p.at_ms >= p.from_ms - :apart_ms THEN p.cut ELSE 0 END) AS BIGINT) AS least,
    CAST(SUM(CASE WHEN p.sure = 1 THEN p.accepted WHEN p.at_ms >= p.from_ms - :apart_ms AND p.accepted < 0
        THEN p.accepted ELSE 0 END) AS BIGINT) AS least_accepted,
    CAST(SUM(CASE WHEN p.sure = 1 THEN p.accepted WHEN p.at_ms >= p.from_ms - :apart_ms AND p.accepted > 0
        THEN p.accepted ELSE 0 END) AS BIGINT) AS most,
    CAST(SUM(CASE WHEN p.since_mark = 1 AND p.accepted > 0 THEN p.accepted ELSE 0 END) AS BIGINT) AS hand_above,
    CAST(SUM(CASE WHEN p.since_mark = 1 AND p.accepted < 0 THEN p.accepted WHEN p.since_mark = 1 THEN p.cut ELSE 0 END)
        AS BIGINT) AS hand_below,
    CAST(SUM(CASE WHEN p.fresh = 1 AND p.accepted > 0 THEN p.accepted ELSE 0 END) AS BIGINT) AS fresh_above,
    CAST(SUM(CASE WHEN p.fresh = 1 AND p.accepted < 0 THEN p.accepted ELSE 0 END) AS BIGINT) AS fresh_below,
    MAX(CASE WHEN p.state = 'accepted' THEN p.at_ms ELSE 0 END) AS newest_ms
FROM (
    SELECT p.customer_id, w.pool, p.feature, p.org_id, p.state, p.attempts, p.sent_qty, p.credit_cost, w.from_ms,
        {costs_seen},
        CASE WHEN COALESCE(p.settled_ms, p.sealed_at_ms) >= w.from_ms - :apart_ms
            AND COALESCE(p.settled_ms, p.sealed_at_ms) >= w.mark_ms - :apart_ms THEN 1 ELSE 0 END AS fresh,
        CASE WHEN (p.by_hand OR p.state = 'voided') AND COALESCE(p.settled_ms, p.sealed_at_ms) >= w.mark_ms - :apart_ms
            THEN 1 ELSE 0 END AS since_mark,
        CASE WHEN p.state = 'voided' AND p.sent_qty < 0 AND p.attempts > 0 AND EXISTS (SELECT 1 FROM voids x
            WHERE {is_of_push} AND x.evidence_kind = 'operator') THEN p.sent_qty ELSE 0 END AS cut,
        COALESCE(p.settled_ms, p.sealed_at_ms) AS at_ms,
        CASE WHEN p.state = 'accepted' THEN p.sent_qty ELSE 0 END AS accepted,
        CASE WHEN p.state IN ('queued', 'in_doubt') OR p.state = 'due' AND p.attempts > 0 THEN 1 ELSE 0 END AS open,
        CASE WHEN NOT p.by_hand AND COALESCE({first_sent}, (SELECT MIN(x.at_ms) FROM adoptions x
            WHERE {is_of_push} AND x.kind = 'drawn'), p.window_ms) >= w.since_ms + :apart_ms
            OR w.since_ms = 0 AND NOT p.by_hand THEN 1 ELSE 0 END AS sure
    FROM {rows :pairs (customer_id text, feature text, pool text, since_ms bigint, from_ms bigint, mark_ms bigint)} w
    JOIN pushes p ON p.customer_id = w.customer_id AND p.feature = w.feature
    WHERE p.provider = :provider
) p GROUP BY p.customer_id, p.pool, p.feature, p.org_id, p.first, p.last, p.credit_cost

-- name: with_changes
WITH changes (feature, confirmed_ms, at_ms) AS MATERIALIZED (SELECT feature, confirmed_ms, at_ms
    FROM {rows :changes (feature text, confirmed_ms bigint, at_ms bigint)} r)

-- name: costs_seen
-- `first`: the number of changes of the feature's cost that certainly came before a charge. `last`: the number that may
-- have come before the charge. The times of the changes allow for clocks that differ.
(SELECT COUNT(*) FROM changes c WHERE c.feature = p.feature
    AND c.at_ms <= COALESCE({first_sent}, p.settled_ms, p.sealed_at_ms)) AS first,
(SELECT COUNT(*) FROM changes c WHERE c.feature = p.feature
    AND c.confirmed_ms <= COALESCE(p.settled_ms, p.sealed_at_ms)) AS last

-- name: first_sent
-- When a push was first sent. A push that was adopted at another quantity was sent as the push that it replaces.
COALESCE(p.first_attempt_ms, (SELECT MIN(s.first_attempt_ms) FROM pushes s WHERE s.window_ms = p.window_ms
    AND s.org_id = p.org_id AND s.feature = p.feature AND s.revision < p.revision
    AND COALESCE(s.wire_key, s.key) = p.wire_key))

-- name: unsure
-- Pushes that a balance may include or not, and pushes that were charged while their cost changed. `accounted` has them
-- in sums. `mark_ms`: the last comparison; 0: none. Among the uncertain pushes, those that a person decided come last.
{with_changes}
SELECT p.feature, p.sent_qty, p.first, p.last, p.credit_cost, p.is_unsure, p.is_unsure * p.decided AS decided FROM (
    SELECT p.feature, p.sent_qty, p.credit_cost, {costs_seen}, CASE WHEN {is_unsure} THEN 1 ELSE 0 END AS is_unsure,
        CASE WHEN p.by_hand THEN 1 ELSE 0 END AS decided,
        COALESCE(p.settled_ms, p.sealed_at_ms) AS at_ms
    FROM pushes p
    WHERE p.provider = :provider AND p.customer_id = :customer_id AND p.feature IN :features AND p.state = 'accepted'
        AND p.sent_qty <> 0
) p WHERE p.is_unsure = 1 OR p.first < p.last AND p.at_ms >= :mark_ms - :apart_ms AND p.at_ms >= :from_ms - :apart_ms
ORDER BY CASE WHEN p.is_unsure = 1 AND p.decided = 1 THEN 1 WHEN p.is_unsure = 1 OR p.credit_cost IS NULL THEN 0 ELSE 2 END
LIMIT :at_most

-- name: is_unsure
(:mark_ms > 0 AND p.by_hand AND COALESCE(p.settled_ms, p.sealed_at_ms) >= :mark_ms - :apart_ms
    OR :mark_ms = 0 AND COALESCE(p.settled_ms, p.sealed_at_ms) >= :from_ms - :apart_ms
        AND (p.by_hand OR :since_ms > 0 AND COALESCE({first_sent}, (SELECT MIN(x.at_ms) FROM adoptions x
            WHERE {is_of_push} AND x.kind = 'drawn'), p.window_ms) < :since_ms + :apart_ms))

-- name: marks
-- The last comparison of each balance, in any cycle. `cycle_ms`: the start of that cycle, if the present cycle began at
-- its end.
SELECT m.customer_id, m.feature, m.since_ms, m.apart_qty, m.at_ms, m.scale, m.accepted_qty, m.used_qty, m.left_qty,
    m.cycle_left_qty, m.ends_ms, m.own_units, CASE WHEN m.ends_ms = w.since_ms THEN m.since_ms ELSE 0 END AS cycle_ms
FROM {rows :pairs (customer_id text, feature text, since_ms bigint)} w
JOIN balance_marks m ON m.provider = :provider AND m.customer_id = w.customer_id AND m.feature = w.feature

-- name: between
-- Charges between a comparison and the start of the next cycle. At least `sure` and at most `above` were charged.
-- `below` may have been given back, or was voided. `disturbs`: 1 if a push gave back, was billed by hand, was voided or
-- is still open.
{with_changes}
SELECT p.customer_id, p.pool, p.feature, p.first, p.last, p.credit_cost,
    CAST(SUM(CASE WHEN p.is_sure = 1 THEN p.sent_qty ELSE 0 END) AS BIGINT) AS sure,
    CAST(SUM(CASE WHEN p.sent_qty > 0 THEN p.sent_qty ELSE 0 END) AS BIGINT) AS above,
    CAST(SUM(CASE WHEN p.sent_qty < 0 THEN -p.sent_qty WHEN p.state = 'voided' THEN p.sent_qty ELSE 0 END) AS BIGINT) AS below,
    MAX(CASE WHEN p.is_plain = 1 THEN 0 ELSE 1 END) AS disturbs
FROM (
    SELECT w.customer_id, w.pool, p.feature, p.sent_qty, p.state, p.credit_cost, {costs_seen},
        CASE WHEN {is_plain} THEN 1 ELSE 0 END AS is_plain,
        CASE WHEN {is_plain} AND p.first_attempt_ms >= w.mark_ms + 2 * :apart_ms
            AND COALESCE(p.settled_ms, p.sealed_at_ms) < w.since_ms - :apart_ms THEN 1 ELSE 0 END AS is_sure
    FROM {rows :pairs (customer_id text, feature text, pool text, since_ms bigint, mark_ms bigint)} w
    JOIN pushes p ON p.customer_id = w.customer_id AND p.feature = w.feature
    WHERE p.provider = :provider AND (
        p.state = 'accepted' AND COALESCE(p.settled_ms, p.sealed_at_ms) >= w.mark_ms
            AND COALESCE({first_sent}, p.settled_ms, p.sealed_at_ms) < w.since_ms + :apart_ms
        OR p.state IN ('due', 'queued', 'in_doubt') AND p.first_attempt_ms < w.since_ms + :apart_ms
        OR p.state = 'voided' AND p.first_attempt_ms < w.since_ms + :apart_ms
            AND EXISTS (SELECT 1 FROM voids x WHERE {is_of_push} AND x.at_ms >= w.mark_ms))
) p GROUP BY p.customer_id, p.pool, p.feature, p.first, p.last, p.credit_cost

-- name: is_plain
(p.state = 'accepted' AND NOT p.by_hand AND p.sent_qty > 0 AND p.first_attempt_ms IS NOT NULL)

-- name: unseen
-- Charges that may have drawn on ended parts of a balance after reads last showed these parts. They are charges without
-- a response, the last charges before these reads, and charges that gave back.
SELECT w.customer_id, w.pool, p.feature,
    CAST(SUM(CASE WHEN p.sent_qty > 0 AND EXISTS (SELECT 1 FROM attempts x WHERE {is_of_push}
        AND (x.outcome IS NULL OR x.outcome IN ('unknown', 'queued'))) THEN p.sent_qty ELSE 0 END) AS BIGINT) AS unanswered,
    CAST(SUM(CASE WHEN p.sent_qty > 0 AND COALESCE(p.settled_ms, p.sealed_at_ms) > w.last_after_ms
        AND COALESCE(p.settled_ms, p.sealed_at_ms) <= w.last_to_ms THEN p.sent_qty ELSE 0 END) AS BIGINT) AS last_charged,
    CAST(SUM(CASE WHEN p.sent_qty < 0 THEN -p.sent_qty ELSE 0 END) AS BIGINT) AS given_back
FROM {rows :pairs (customer_id text, feature text, pool text, since_ms bigint, to_ms bigint, last_after_ms bigint,
    last_to_ms bigint)} w
JOIN pushes p ON p.customer_id = w.customer_id AND p.feature = w.feature
WHERE p.provider = :provider AND p.first_attempt_ms IS NOT NULL AND p.first_attempt_ms < w.to_ms
    AND COALESCE(p.settled_ms, p.sealed_at_ms) >= w.since_ms
GROUP BY w.customer_id, w.pool, p.feature

-- name: write_marks
INSERT INTO balance_marks (customer_id, feature, since_ms, apart_qty, org_id, told_qty, told_ms, scale, unsure_qty,
    accepted_qty, used_qty, left_qty, cycle_left_qty, ends_ms, own_units, provider, at_ms)
SELECT customer_id, feature, since_ms, apart_qty, org_id, told_qty, told_ms, scale, unsure_qty, accepted_qty, used_qty,
    left_qty, cycle_left_qty, ends_ms, own_units, :provider, :at_ms
FROM {rows :marks (customer_id text, feature text, since_ms bigint, apart_qty bigint, org_id text, told_qty bigint,
    told_ms bigint, scale bigint, unsure_qty bigint, accepted_qty bigint, used_qty bigint, left_qty bigint,
    cycle_left_qty bigint, ends_ms bigint, own_units text)} r WHERE 1 = 1
ON CONFLICT (provider, customer_id, feature) DO UPDATE SET since_ms = excluded.since_ms,
    apart_qty = excluded.apart_qty, at_ms = excluded.at_ms, org_id = excluded.org_id,
    told_qty = CASE WHEN ABS(balance_marks.told_qty * 1.0 * excluded.scale / balance_marks.scale) + ABS(excluded.told_qty)
        > 9e18 THEN excluded.told_qty
        ELSE balance_marks.told_qty * (excluded.scale / balance_marks.scale) + excluded.told_qty END,
    unsure_qty = CASE WHEN balance_marks.unsure_qty * 1.0 * excluded.scale / balance_marks.scale + excluded.unsure_qty > 9e18
        THEN excluded.unsure_qty
        ELSE balance_marks.unsure_qty * (excluded.scale / balance_marks.scale) + excluded.unsure_qty END,
    scale = excluded.scale, accepted_qty = excluded.accepted_qty, used_qty = excluded.used_qty,
    left_qty = excluded.left_qty, cycle_left_qty = excluded.cycle_left_qty, ends_ms = excluded.ends_ms,
    own_units = excluded.own_units, told_ms = COALESCE(excluded.told_ms, balance_marks.told_ms)

-- name: taken_back
-- Settled pushes that were taken back because a balance did not show them. Their usage is billed again.
SELECT p.key, MIN(q.key) AS adopted FROM {rows :keys (key text)} w JOIN pushes p ON p.key = w.key
JOIN adoptions x ON x.window_ms = p.window_ms AND x.org_id = p.org_id AND x.feature = p.feature AND x.kind = 'drawn'
JOIN pushes q ON q.window_ms = x.window_ms AND q.org_id = x.org_id AND q.feature = x.feature
    AND q.revision = x.revision
WHERE q.sent_qty = -p.sent_qty AND q.sealed_at_ms >= p.settled_ms GROUP BY p.key

-- name: own_up_to_lost
-- Update only marks of a later comparison that misses at least this quantity. Otherwise, the balance shows that the
-- pushes were drawn.
UPDATE balance_marks SET apart_qty = balance_marks.apart_qty + v.sent_qty
FROM {rows :lost (provider text, customer_id text, feature text, sent_qty bigint, settled_ms bigint,
    scale bigint)} v
WHERE balance_marks.provider = v.provider AND balance_marks.customer_id = v.customer_id
    AND balance_marks.feature = v.feature AND balance_marks.at_ms >= v.settled_ms
    AND balance_marks.since_ms <= v.settled_ms AND balance_marks.scale = v.scale
    AND (v.sent_qty > 0 AND balance_marks.apart_qty <= -v.sent_qty
        OR v.sent_qty < 0 AND balance_marks.apart_qty >= -v.sent_qty)

-- Rejected pushes that wait for credit.

-- name: waiting
-- Pushes that were rejected for lack of credit, of customers with credit for their feature in a later read. After a
-- change of the provider, the balance is not read yet. The statement repeats the condition of the index of pushes that
-- need a person word for word, so due pushes do not slow it. With each refusal, a window waits twice as long. After
-- `most_give_backs` revisions, a person decides about a push that gives back.
SELECT p.* FROM pushes p JOIN orgs o ON o.org_id = p.org_id
WHERE p.state IN ('in_doubt', 'rejected') AND {until_credit} AND p.due_at_ms <= :now_ms
    AND (p.sent_qty > 0 OR p.revision < :most_give_backs)
    AND p.window_ms >= o.floor_ms AND o.bucket BETWEEN :lo AND :hi AND o.stopped_at_ms IS NULL
    AND {pays_now} AND o.unread_since_ms IS NULL AND o.projection_read_ms > p.settled_ms
    AND o.balance_read_ms > p.settled_ms AND (o.balance_micro IS NULL OR o.balance_micro > 0)
    AND (o.refused IS NULL OR REPLACE(o.refused, '"' || p.feature || '"', '') = o.refused)
    AND :now_ms - p.settled_ms >= CASE WHEN p.revision < 9 AND :first_wait_ms * (1 << p.revision) < :longest_wait_ms
        THEN :first_wait_ms * (1 << p.revision) ELSE :longest_wait_ms END
ORDER BY p.window_ms, p.org_id, p.feature, p.revision LIMIT :at_most {held}

-- name: pays_now
-- True if the organisation's balance is that of the push's customer.
o.billing_provider = p.provider AND EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = p.org_id
    AND a.provider = p.provider AND a.customer_id = p.customer_id AND {is_assigned_now})

-- name: unread
-- Organisations with such pushes, and without a read of the balance for `first_wait_ms`.
SELECT DISTINCT o.org_id FROM pushes p JOIN orgs o ON o.org_id = p.org_id
WHERE p.state IN ('in_doubt', 'rejected') AND {until_credit} AND p.due_at_ms <= :now_ms
    AND (p.sent_qty > 0 OR p.revision < :most_give_backs)
    AND o.bucket BETWEEN :lo AND :hi AND o.stopped_at_ms IS NULL AND {pays_now}
    AND o.projection_due_ms IS NULL AND COALESCE(o.projection_read_ms, 0) <= :now_ms - :first_wait_ms
ORDER BY 1 LIMIT :at_most

-- Webhooks of providers, each event once.

-- name: taken
SELECT state FROM webhooks WHERE provider = :provider AND event_id = :event_id AND state <> 'failed'

-- name: store
INSERT INTO webhooks (provider, event_id, received_ms, body_sha256, state, attempts, error)
VALUES (:provider, :event_id, :received_ms, :body_sha256, :state, 1, :error)
ON CONFLICT (provider, event_id) DO UPDATE SET state = :state, attempts = webhooks.attempts + 1, error = :error,
    received_ms = :received_ms
WHERE webhooks.state = 'failed' RETURNING attempts

-- name: forget
DELETE FROM webhooks WHERE received_ms < :before_ms
