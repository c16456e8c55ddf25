-- Pushes against their attempts, voids, carries and assignments (invariants 2, 3, 5 and 6).
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

-- name: proven_attempts
attempts

-- name: attempts_since
(SELECT * FROM attempts WHERE window_ms >= :since_ms)

-- name: push
-- The columns of a push `p` that a breach names.
p.org_id, p.window_ms, p.feature, p.key, p.state, p.sent_qty

-- name: void
-- The void of a push `p`, if it has one.
LEFT JOIN voids v ON {void_of_push}

-- name: void_of_push
v.window_ms = p.window_ms AND v.org_id = p.org_id AND v.feature = p.feature AND v.revision = p.revision

-- name: attempt_of_push
t.window_ms = p.window_ms AND t.org_id = p.org_id AND t.feature = p.feature AND t.revision = p.revision

-- name: adoption_of_push
a.window_ms = p.window_ms AND a.org_id = p.org_id AND a.feature = p.feature AND a.revision = p.revision

-- name: assigned
-- The assignment in force in the window of a push `p`.
a.start_ms <= p.window_ms AND (a.end_ms IS NULL OR p.window_ms < a.end_ms)

-- name: by_person
-- If a person settled a push, the action is on record under the push's key.
EXISTS (SELECT 1 FROM operator_actions x WHERE x.target = p.key AND x.action IN ('push_resolve', 'push_retry'))

-- name: carry
-- Invariant 2. Rule S10, for pushes that are not voided.
SELECT 'carry_sum' AS what, q.*, CAST(NULL AS BIGINT) AS window_ms FROM (
    SELECT org_id, provider, customer_id, feature, {sums}, SUM(carry) AS carry
    FROM (
        SELECT p.org_id, p.provider, p.customer_id, p.feature, p.sealed_qty AS sealed, p.sent_qty AS sent, 0 AS carry
        FROM pushes p {void} WHERE v.org_id IS NULL
        UNION ALL SELECT org_id, provider, customer_id, feature, sealed_qty, sent_qty, 0 FROM folded_pushes
        WHERE state <> 'voided'
        UNION ALL SELECT org_id, provider, customer_id, feature, 0, 0, carry_qty FROM carries
    ) sides GROUP BY org_id, provider, customer_id, feature
) q WHERE q.sealed <> q.sent + q.carry

-- name: sums [postgresql]
SUM(sealed) AS sealed, SUM(sent) AS sent

-- name: sums [sqlite]
-- SQLite's SUM fails on an overflow, which one bad organisation can cause. Parts of the sum do not overflow.
(SUM(sealed / 1000000) * 1000000 + SUM(sealed % 1000000)) AS sealed,
(SUM(sent / 1000000) * 1000000 + SUM(sent % 1000000)) AS sent

-- name: state
SELECT 'push_state' AS what, {push} FROM {proven_pushes} p WHERE (p.state <> 'voided' AND (p.state = 'carried') <> (p.sent_qty = 0)
        AND NOT (p.state = 'queued' AND p.attempts = 0
            AND EXISTS (SELECT 1 FROM losses l WHERE p.window_ms < l.until_ms)))
    OR (p.state = 'shadow' AND p.attempts > 0)

-- name: shadow
-- A push in shadow is of a window before its provider's cut-over.
SELECT 'shadow_after_end' AS what, {push}, s.live_from_ms
FROM pushes p LEFT JOIN provider_states s ON s.provider = p.provider
WHERE p.state = 'shadow' AND (s.live_from_ms IS NULL OR p.window_ms >= s.live_from_ms)

-- name: key
SELECT 'push_key' AS what, q.* FROM (
    SELECT {push}, 'usage:' || p.org_id || ':' || p.window_ms || ':' || p.feature
        || CASE WHEN p.revision > 0 THEN ':r' || p.revision ELSE '' END AS wanted
    FROM {proven_pushes} p
) q WHERE q.key <> q.wanted

-- name: twice
SELECT 'duplicate_acceptance' AS what, MIN(org_id) AS org_id, MIN(window_ms) AS window_ms, MIN(feature) AS feature, key,
    COUNT(*) AS pushes
FROM {proven_pushes} WHERE state = 'accepted' GROUP BY key HAVING COUNT(*) > 1

-- name: revisions
SELECT 'revision_gap' AS what, org_id, window_ms, feature, COUNT(*) AS pushes, MAX(revision) AS highest
FROM {proven_pushes} GROUP BY window_ms, org_id, feature HAVING MIN(revision) <> 0 OR MAX(revision) <> COUNT(*) - 1

-- name: adopted
SELECT 'adoption_state' AS what, a.org_id, a.window_ms, a.feature, p.key, p.state, p.attempts
FROM adoptions a LEFT JOIN pushes p ON {adoption_of_push} LEFT JOIN orgs o ON o.org_id = a.org_id
WHERE (p.org_id IS NULL AND a.window_ms >= COALESCE(o.floor_ms, 0))
    OR p.attempts <> 0 OR p.state NOT IN ('accepted', 'rejected', 'voided') OR TRIM(a.evidence) = ''

-- name: biller
-- Invariant 3. A push's biller is the biller assigned to its window, for any outcome of the push.
SELECT 'push_biller' AS what, {push}, p.provider, p.customer_id, COALESCE((
    SELECT MAX(a.provider || ' as ' || a.customer_id) FROM assignments a WHERE a.org_id = p.org_id
        AND {assigned}), 'none') AS assigned
FROM {proven_pushes} p WHERE NOT EXISTS (
    SELECT 1 FROM assignments a WHERE a.org_id = p.org_id AND a.provider = p.provider
        AND a.customer_id = p.customer_id AND a.provider NOT IN {unbilled} AND {assigned})

-- name: folded_biller
-- The biller of folded pushes was assigned to their organisation on that day.
SELECT 'folded_biller' AS what, f.org_id, f.day_ms AS window_ms, f.feature, f.pushes, f.provider, f.customer_id
FROM folded_pushes f WHERE NOT EXISTS (
    SELECT 1 FROM assignments a WHERE a.org_id = f.org_id AND a.provider = f.provider AND a.customer_id = f.customer_id
        AND a.start_ms < f.day_ms + 86400000 AND (a.end_ms IS NULL OR a.end_ms > f.day_ms))

-- name: assignments
SELECT CASE WHEN q.end_ms < q.next_ms THEN 'assignment_gap' ELSE 'assignment_overlap' END AS what, q.*, {no_window} FROM (
    SELECT org_id, start_ms, end_ms, LEAD(start_ms) OVER (PARTITION BY org_id ORDER BY start_ms) AS next_ms
    FROM assignments
) q WHERE q.next_ms IS NOT NULL AND (q.end_ms IS NULL OR q.end_ms <> q.next_ms)

-- name: assignment_unrecorded
-- The provider is that of the last recorded action. A tick assigns new organisations itself (`--new-org-provider`),
-- under their own id or without a customer.
SELECT 'assignment_audit_mismatch' AS what, a.org_id, {no_window}, a.start_ms, a.provider, a.customer_id, q.provider AS said, q.customer
FROM assignments a LEFT JOIN (
    SELECT x.action, x.target, CAST({said_start} AS BIGINT) AS start_ms, {said_provider} AS provider,
        {said_customer} AS customer, ROW_NUMBER() OVER (
            PARTITION BY x.target, CAST({said_start} AS BIGINT) ORDER BY x.action_id DESC) AS back
    FROM operator_actions x WHERE x.action IN ('org_assign', 'org_customer', 'org_assign_cancel')
) q ON q.target = a.org_id AND q.start_ms = a.start_ms AND q.back = 1 AND q.action <> 'org_assign_cancel'
WHERE (q.target IS NULL AND NOT (a.actor = 'drawdown' AND a.customer_id IN ('', a.org_id)))
    OR a.provider <> q.provider OR a.customer_id <> q.customer

-- name: said_start [postgresql]
-- The values in a person's action `x`.
(CAST(x.details AS json) ->> 'start_ms')

-- name: said_start [sqlite]
json_extract(x.details, '$.start_ms')

-- name: said_provider [postgresql]
(CAST(x.details AS json) ->> 'provider')

-- name: said_provider [sqlite]
json_extract(x.details, '$.provider')

-- name: said_customer [postgresql]
(CAST(x.details AS json) ->> 'customer')

-- name: said_customer [sqlite]
json_extract(x.details, '$.customer')

-- name: attempt
-- Invariant 5. An attempt is committed before a byte leaves, for a push that was committed before.
SELECT CASE WHEN p.org_id IS NULL THEN 'attempt_without_push' WHEN t.sent_qty <> p.sent_qty THEN 'attempt_quantity'
        ELSE 'attempt_of_carried_push' END AS what,
    t.org_id, t.window_ms, t.feature, t.attempt, t.sent_qty AS sent, p.sent_qty
FROM {proven_attempts} t LEFT JOIN pushes p ON {attempt_of_push} LEFT JOIN orgs o ON o.org_id = t.org_id
WHERE (p.org_id IS NULL AND t.window_ms >= COALESCE(o.floor_ms, 0)) OR t.sent_qty <> p.sent_qty OR p.state = 'carried'

-- name: attempts
-- The time of the first attempt is compared only for a push that no person resolved or retried, and that was neither
-- looked up nor adopted. A claim waits until its push is due by the clock of its seal, so a minute is allowed. Later
-- attempts are not compared, because a clock may be set back. If a push was queued or not answered, or its sender died,
-- only a lookup accepts it, and its attempts do not show that. If a lost history may have sent a push, Drawdown looks
-- the push up first. If the provider does not have a lookup, the push is in doubt without an attempt (R1).
SELECT CASE WHEN p.attempts <> COALESCE(t.tries, 0) OR t.lowest <> 1 OR t.highest <> t.tries THEN 'attempt_numbers'
        WHEN t.first_ms < p.sealed_at_ms - 60000 THEN 'attempt_before_seal' ELSE 'push_without_proof' END AS what,
    {push}, p.attempts, p.sealed_at_ms, COALESCE(t.tries, 0) AS tries, t.lowest, t.highest, t.first_ms
FROM {proven_pushes} p LEFT JOIN (
    SELECT window_ms, org_id, feature, revision, COUNT(*) AS tries, MIN(attempt) AS lowest, MAX(attempt) AS highest,
        MIN(CASE WHEN attempt = 1 THEN started_ms END) AS first_ms,
        MAX(CASE WHEN outcome IN ('accepted', 'duplicate') THEN 1 ELSE 0 END) AS proven
    FROM {proven_attempts} GROUP BY window_ms, org_id, feature, revision
) t ON {attempt_of_push}
WHERE p.attempts <> COALESCE(t.tries, 0) OR t.lowest <> 1 OR t.highest <> t.tries
    OR ((p.lookups = 0 AND (t.first_ms < p.sealed_at_ms - 60000 OR (p.state = 'accepted' AND COALESCE(t.proven, 0) = 0))
        OR (p.lookups = 0 AND p.state IN ('rejected', 'in_doubt') AND t.tries IS NULL
            AND COALESCE(p.last_error, '') NOT LIKE 'not sent:%'
            AND (p.state = 'rejected' OR NOT EXISTS (SELECT 1 FROM losses l WHERE p.window_ms < l.until_ms))))
        AND NOT {by_person} AND NOT EXISTS (SELECT 1 FROM adoptions a WHERE {adoption_of_push}))

-- name: resent
-- Invariant 6, by the order of writes and not by clocks. An answer and a void record the number of attempts at that
-- time. If the provider already knew the key of a first attempt, the push was put in doubt (rule R1). If another worker
-- had taken over the claim before, the number was two when the answer was written.
SELECT 'send_in_doubt' AS what, {push}, t.finished_ms AS doubt_ms, n.started_ms
FROM attempts t JOIN attempts n ON n.window_ms = t.window_ms AND n.org_id = t.org_id AND n.feature = t.feature
    AND n.revision = t.revision AND n.attempt = 2
JOIN pushes p ON {attempt_of_push}
WHERE t.attempt = 1 AND t.outcome = 'duplicate' AND t.attempts_then = 1 AND p.lookups = 0 AND NOT {by_person}

-- name: unaccepted
-- An answer that proves acceptance makes its push accepted in the same transaction. The exceptions are voided pushes,
-- and pushes that a person took back since.
SELECT 'unstored_acceptance' AS what, {push}, t.attempt, t.finished_ms
FROM {proven_attempts} t JOIN pushes p ON {attempt_of_push}
WHERE t.outcome = 'accepted' AND p.state NOT IN ('accepted', 'voided') AND t.attempt > COALESCE(p.refused_attempts, 0)

-- name: push_waits
-- A due push waits at most two days. A push with an open outcome waits at most 40 days, which are 36 days and time for
-- lookups.
SELECT 'push_wait' AS what, {push}, p.due_at_ms, CAST(:now_ms AS BIGINT) AS moment_ms
FROM {proven_pushes} p WHERE p.state IN ('due', 'queued', 'in_doubt') AND p.due_at_ms > CAST(:now_ms AS BIGINT)
    + CASE WHEN p.state = 'due' THEN 2 ELSE 40 END * CAST(86400000 AS BIGINT)

-- name: no_evidence
SELECT 'void_without_evidence' AS what, {push} FROM {proven_pushes} p {void}
WHERE (p.state = 'voided' AND v.org_id IS NULL) OR TRIM(v.evidence) = ''

-- name: void_of_nothing
SELECT CASE WHEN p.org_id IS NULL THEN 'void_without_push' ELSE 'void_state' END AS what, v.org_id, v.window_ms,
    v.feature, v.revision, p.key, p.state
FROM voids v LEFT JOIN pushes p ON {void_of_push} LEFT JOIN orgs o ON o.org_id = v.org_id
WHERE p.state <> 'voided' OR (p.org_id IS NULL AND v.window_ms >= COALESCE(o.floor_ms, 0))

-- name: sent_void
SELECT 'send_after_void' AS what, {push}, v.at_ms, t.started_ms
FROM voids v JOIN attempts t ON t.window_ms = v.window_ms AND t.org_id = v.org_id AND t.feature = v.feature
    AND t.revision = v.revision AND t.attempt > v.attempts_then
JOIN pushes p ON {void_of_push}
