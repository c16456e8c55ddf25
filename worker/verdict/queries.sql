-- Verdicts: due reads of providers, their responses, and the effect of overrides on organisations.

-- name: in_force_now
a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)

-- name: mark_for_projection [postgresql]
-- Rows are locked in the order of their ids first. Otherwise two such transactions could deadlock.
UPDATE orgs SET projection_due_ms = {earliest_ask}, refresh_requests = refresh_requests + 1
FROM (SELECT o.org_id FROM orgs o WHERE o.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} r)
    ORDER BY o.org_id FOR NO KEY UPDATE) held WHERE orgs.org_id = held.org_id

-- name: mark_for_projection [sqlite]
UPDATE orgs SET projection_due_ms = {earliest_ask}, refresh_requests = refresh_requests + 1
WHERE org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} r)

-- name: read_twice
-- The rows are locked, because this transaction has marked them.
UPDATE orgs SET refresh_deadline_ms = :twice WHERE org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} r)

-- name: projections_due
-- The due reads. First come requested reads of running organisations, the least credit first. Then come requested reads
-- of halted organisations, the longest wait first. The watch requests reads of all halted organisations repeatedly. So
-- in the order of credit, organisations that paid would never be read. Last come organisations without a request, after
-- their refresh deadline. An index gives each order, because there may be many rows.
SELECT d.org_id, d.customer_id, d.asks, d.read_before_ms, d.balance_before_ms,
    EXISTS (SELECT 1 FROM ledger_accounts w WHERE w.next_due_ms = 0) AS wallets_wait
FROM (SELECT * FROM ({running}) r UNION ALL SELECT * FROM ({halted}) h UNION ALL SELECT * FROM ({in_turn}) t) d
ORDER BY d.part, d.place, d.since_ms LIMIT :at_most

-- name: due_columns
o.org_id, a.customer_id, o.refresh_requests AS asks, o.projection_read_ms AS read_before_ms,
    o.balance_read_ms AS balance_before_ms

-- name: askable_at
-- SQLite keeps the order of a CROSS JOIN. Otherwise it would begin with all customers of the provider.
FROM orgs o CROSS JOIN assignments a
WHERE a.org_id = o.org_id AND {in_force_now} AND a.provider = :provider AND a.customer_id <> ''
    AND o.bucket BETWEEN :lo AND :hi AND (:org_id = '' OR o.org_id = :org_id)
    AND o.org_id NOT IN (SELECT r.org_id FROM {rows :passed (org_id text)} r)

-- name: running
SELECT 0 AS part, COALESCE(o.balance_micro, 0) AS place, o.projection_due_ms AS since_ms, {due_columns}
{askable_at} AND o.projection_due_ms <= :now_ms AND o.is_halted = FALSE
ORDER BY COALESCE(o.balance_micro, 0), o.projection_due_ms LIMIT :at_most

-- name: halted
SELECT 1 AS part, o.projection_due_ms AS place, o.projection_due_ms AS since_ms, {due_columns}
{askable_at} AND o.projection_due_ms <= :now_ms AND o.is_halted = TRUE
ORDER BY o.projection_due_ms LIMIT :at_most

-- name: in_turn
SELECT 2 AS part, o.refresh_deadline_ms AS place, o.refresh_deadline_ms AS since_ms, {due_columns}
{askable_at} AND o.refresh_deadline_ms <= :now_ms AND o.projection_due_ms IS NULL
ORDER BY o.refresh_deadline_ms LIMIT :at_most

-- name: halted_by_credit
SELECT o.org_id FROM orgs o JOIN assignments a ON a.org_id = o.org_id AND a.provider = :provider AND a.customer_id <> ''
    AND {in_force_now}
WHERE o.is_halted AND NOT o.operator_halt AND o.override_halted IS NULL AND o.projection_due_ms IS NULL
    AND o.bucket BETWEEN :lo AND :hi

-- name: oldest_reads
ORDER BY COALESCE(o.projection_read_ms, 0) LIMIT :at_most

-- name: halted_unread
{halted_by_credit} AND COALESCE(o.projection_read_ms, 0) <= :read_ms {oldest_reads}

-- name: held_unread
-- Organisations that an estimate halted. After `hold_ms`, any credit is enough to resume them. The query returns those
-- that were not read since then, so it finds each once for each halt.
{halted_by_credit} AND o.halt_reason = 'estimate' AND o.halted_at <= :now_ms - :hold_ms
    AND COALESCE(o.projection_read_ms, 0) < o.halted_at + :hold_ms {oldest_reads}

-- name: put_off
UPDATE orgs SET projection_due_ms = :projection_due_ms WHERE org_id = :org_id AND refresh_requests = :refresh_requests

-- name: with_rejected
-- This repeats, word for word, the condition of the index on pushes that need a person.
SELECT DISTINCT org_id FROM pushes WHERE state IN ('in_doubt', 'rejected') AND state = 'rejected'
    AND provider = :provider AND org_id IN :org_ids

-- name: is_doubted
SELECT 1 FROM incarnation WHERE doubted_ms IS NOT NULL

-- name: write_verdicts [postgresql]
-- The rows are locked. One round trip writes all of them.
{by_key_alone};
UPDATE orgs SET is_halted = x.is_halted, halted_at = x.halted_at, halt_reason = x.halt_reason,
    max_concurrent_sandboxes = x.max_concurrent_sandboxes, projection_read_ms = x.projection_read_ms,
    projection_due_ms = x.projection_due_ms, balance_micro = x.balance_micro, balance_read_ms = x.balance_read_ms,
    "plan" = x."plan", unconfirmed_micro = x.unconfirmed_micro, unread_since_ms = x.unread_since_ms, watch_due_ms = x.watch_due_ms,
    resume_above_micro = x.resume_above_micro, refresh_deadline_ms = x.refresh_deadline_ms, refused = x.refused,
    feature_limits = x.feature_limits
FROM {rows :verdicts (org_id text, is_halted boolean, halted_at bigint, halt_reason text, max_concurrent_sandboxes integer,
    projection_read_ms bigint, projection_due_ms bigint, balance_micro bigint, balance_read_ms bigint, "plan" text,
    unconfirmed_micro bigint, unread_since_ms bigint, watch_due_ms bigint, resume_above_micro bigint, refresh_deadline_ms bigint,
    refused text, feature_limits text)} x
WHERE orgs.org_id = x.org_id;
{end_by_key}

-- name: write_verdicts [sqlite]
-- SQLite updates one row at a time, because JSON would change a figure that is too large.
UPDATE orgs SET is_halted = :is_halted, halted_at = :halted_at, halt_reason = :halt_reason,
    max_concurrent_sandboxes = :max_concurrent_sandboxes, projection_read_ms = :projection_read_ms,
    projection_due_ms = :projection_due_ms, balance_micro = :balance_micro, balance_read_ms = :balance_read_ms,
    plan = :plan, unconfirmed_micro = :unconfirmed_micro, unread_since_ms = :unread_since_ms, watch_due_ms = :watch_due_ms,
    resume_above_micro = :resume_above_micro, refresh_deadline_ms = :refresh_deadline_ms, refused = :refused,
    feature_limits = :feature_limits
WHERE org_id = :org_id

-- name: note_verdict
INSERT INTO projections (org_id, read_ms, at_ms, is_halted, max_concurrent_sandboxes, reason, balance_micro,
    unaccepted_micro, unsealed_micro, held_micro)
VALUES (:org_id, :read_ms, :at_ms, :is_halted, :max_concurrent_sandboxes, :reason, :balance_micro,
    :unaccepted_micro, :unsealed_micro, :held_micro)

-- name: end_overrides
UPDATE orgs SET projection_due_ms = :now_ms, refresh_requests = refresh_requests + 1,
    override_halted = NULL, override_max_concurrent = NULL, override_until_ms = NULL
WHERE override_until_ms <= :now_ms AND bucket BETWEEN :lo AND :hi RETURNING org_id

-- name: halted_and_exempt
SELECT org_id FROM orgs WHERE is_halted AND NOT operator_halt AND (override_halted IS NULL OR NOT override_halted)
    AND billing_provider IN {unbilled} AND bucket BETWEEN :lo AND :hi

-- name: gated
SELECT billing_provider, is_halted, halt_reason, max_concurrent_sandboxes, projection_read_ms, "plan",
    projection_read_ms IS NULL AND override_halted IS NULL AS unknown,
    override_halted IS NOT NULL OR override_max_concurrent IS NOT NULL AS overridden
FROM orgs
WHERE org_id = :org_id

-- name: biller
SELECT a.provider FROM assignments a WHERE a.org_id = :org_id AND {in_force_now}

-- name: may_ask
-- Both conditions are in one statement, so that only one of several simultaneous requests gets the row. A request with
-- a time in the future counts, because clocks of machines differ. If this time is later than `busy_until_ms`, a clock
-- was corrected since, and the request does not count.
INSERT INTO gate_asks (org_id, asked_ms, busy_until_ms) VALUES (:org_id, :now_ms, :busy_until_ms)
ON CONFLICT (org_id) DO UPDATE SET asked_ms = :now_ms, busy_until_ms = :busy_until_ms
WHERE (gate_asks.asked_ms <= :earlier_ms AND COALESCE(gate_asks.busy_until_ms, 0) <= :now_ms)
    OR gate_asks.asked_ms > :busy_until_ms
RETURNING org_id

-- name: asked
UPDATE gate_asks SET busy_until_ms = NULL WHERE org_id = :org_id AND asked_ms = :asked_ms

-- name: rates
SELECT feature, start_ms, micro, per_quantity, balance, actor, reason FROM provider_rates WHERE provider = :provider
ORDER BY feature, start_ms

-- name: rates_of_all
-- The rates of all providers, each with the balance that it draws on.
SELECT provider, feature, start_ms, micro, per_quantity, balance FROM provider_rates

-- name: policies
SELECT plan, policy FROM provider_when_down WHERE provider = :provider

-- name: rounds
SELECT round_ms, rounds FROM watch_state

-- name: touch
UPDATE watch_state SET rounds = rounds

-- name: note_round
UPDATE watch_state SET round_ms = :now_ms, rounds = rounds + 1

-- name: explained
-- The query returns a row if credit after a halt does not prove the estimate wrong. Either usage was withdrawn since
-- the halt, or executions reserved the credit at the halt.
SELECT 1 AS one WHERE EXISTS (SELECT 1 FROM withdrawals w WHERE w.org_id = :org_id AND w.at_ms >= :halted_at)
    OR EXISTS (SELECT 1 FROM (SELECT * FROM projections WHERE org_id = :org_id ORDER BY projection_id DESC LIMIT 1) j
        WHERE j.held_micro > 0 AND j.balance_micro > j.unaccepted_micro + j.unsealed_micro)

-- name: wrong_estimates
SELECT COUNT(*) FROM projections WHERE reason = 'estimate_wrong'

-- name: unread_orgs
SELECT COALESCE(billing_provider, '') AS provider, COUNT(*) AS orgs, MIN(unread_since_ms) AS since_ms,
    MIN(org_id) AS first_org FROM orgs
WHERE unread_since_ms IS NOT NULL GROUP BY 1 ORDER BY 1

-- name: note_reads
INSERT INTO provider_reads (provider, outcome, reads) VALUES (:provider, :outcome, :reads)
ON CONFLICT (provider, outcome) DO UPDATE SET reads = provider_reads.reads + excluded.reads

-- The levels of balances, and the billers for notices of balances.

-- name: standing
-- The present biller and customer of each organisation, its low level, and its open episodes.
SELECT o.org_id, a.provider, a.customer_id, {low_level} AS low_micro,
    EXISTS (SELECT 1 FROM balance_episodes e WHERE e.org_id = o.org_id AND e.level = 'low' AND e.ended_ms IS NULL)
        AS is_low,
    EXISTS (SELECT 1 FROM balance_episodes e WHERE e.org_id = o.org_id AND e.level = 'exhausted'
        AND e.ended_ms IS NULL) AS is_exhausted
FROM {rows :orgs (org_id text)} o LEFT JOIN assignments a ON a.org_id = o.org_id
    AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)

-- name: end_episode
UPDATE balance_episodes SET ended_ms = :now_ms WHERE org_id = :org_id AND level = :level AND ended_ms IS NULL

-- name: begin_episode
INSERT INTO balance_episodes (org_id, level, episode, begun_ms)
SELECT :org_id, :level, COALESCE(MAX(episode), 0) + 1, :now_ms FROM balance_episodes
WHERE org_id = :org_id AND level = :level RETURNING episode
