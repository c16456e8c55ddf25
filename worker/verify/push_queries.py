"""Pushes against their attempts, voids, carries and assignments (invariants 2, 3, 5 and 6).

Guarantee and notation as in `verify_sql`.
"""

from typing import Final

from drawdown.worker.verify.words import IN_LEDGER, NONE, PUSH, VOID, same

# What a person settled is on record under the push's key.
_PERSON: Final = (
    "EXISTS (SELECT 1 FROM operator_actions x WHERE x.target = p.key AND x.action IN ('push_resolve', 'push_retry'))"
)

# Invariant 2. Rule S10, over the pushes that stand.
CARRY: Final = f"""
SELECT 'carry' AS what, q.*, CAST(NULL AS BIGINT) AS window_ms FROM (
    SELECT org_id, provider, customer_id, feature, WIDE(sealed) AS sealed, WIDE(sent) AS sent, SUM(carry) AS carry
    FROM (
        SELECT p.org_id, p.provider, p.customer_id, p.feature, p.sealed_qty AS sealed, p.sent_qty AS sent, 0 AS carry
        FROM pushes p {VOID} WHERE v.org_id IS NULL
        UNION ALL SELECT org_id, provider, customer_id, feature, 0, 0, carry_qty FROM carries
    ) sides GROUP BY org_id, provider, customer_id, feature
) q WHERE q.sealed <> q.sent + q.carry
"""

STATE: Final = f"""
SELECT 'state' AS what, {PUSH} FROM pushes p WHERE (p.state <> 'voided' AND (p.state = 'carried') <> (p.sent_qty = 0)
        AND NOT (p.state = 'queued' AND p.attempts = 0
            AND EXISTS (SELECT 1 FROM losses l WHERE p.window_ms < l.until_ms)))
    OR (p.state = 'shadow' AND p.attempts > 0)
"""

# Only what lies before a provider went live is sealed and never sent.
SHADOW: Final = f"""
SELECT 'shadow' AS what, {PUSH}, s.live_from_ms
FROM pushes p LEFT JOIN provider_states s ON s.provider = p.provider
WHERE p.state = 'shadow' AND (s.live_from_ms IS NULL OR p.window_ms >= s.live_from_ms)
"""

KEY: Final = f"""
SELECT 'key' AS what, q.* FROM (
    SELECT {PUSH}, 'usage:' || p.org_id || ':' || p.window_ms || ':' || p.feature
        || CASE WHEN p.revision > 0 THEN '\\:r' || p.revision ELSE '' END AS wanted
    FROM pushes p
) q WHERE q.key <> q.wanted
"""

TWICE: Final = """
SELECT 'twice' AS what, MIN(org_id) AS org_id, MIN(window_ms) AS window_ms, MIN(feature) AS feature, key,
    COUNT(*) AS pushes
FROM pushes WHERE state = 'accepted' GROUP BY key HAVING COUNT(*) > 1
"""

REVISIONS: Final = """
SELECT 'revisions' AS what, org_id, window_ms, feature, COUNT(*) AS pushes, MAX(revision) AS highest
FROM pushes GROUP BY window_ms, org_id, feature HAVING MIN(revision) <> 0 OR MAX(revision) <> COUNT(*) - 1
"""

ADOPTED: Final = f"""
SELECT 'adopted' AS what, a.org_id, a.window_ms, a.feature, p.key, p.state, p.attempts
FROM adoptions a LEFT JOIN pushes p ON {same("p", "a")} LEFT JOIN orgs o ON o.org_id = a.org_id
WHERE (p.org_id IS NULL AND a.window_ms >= COALESCE(o.floor_ms, 0))
    OR p.attempts <> 0 OR p.state NOT IN ('accepted', 'rejected', 'voided') OR TRIM(a.evidence) = ''
"""

# Invariant 3. A push's biller is the one assigned to its window, whatever became of the push.
BILLER: Final = f"""
SELECT 'biller' AS what, {PUSH}, p.provider, p.customer_id, COALESCE((
    SELECT MAX(a.provider || ' as ' || a.customer_id) FROM assignments a WHERE a.org_id = p.org_id
        AND a.start_ms <= p.window_ms AND (a.end_ms IS NULL OR p.window_ms < a.end_ms)), 'nobody') AS assigned
FROM pushes p WHERE NOT EXISTS (
    SELECT 1 FROM assignments a WHERE a.org_id = p.org_id AND a.provider = p.provider
        AND a.customer_id = p.customer_id AND a.provider NOT IN ('legacy', 'none') AND a.start_ms <= p.window_ms
        AND (a.end_ms IS NULL OR p.window_ms < a.end_ms))
"""

ASSIGNED: Final = f"""
SELECT CASE WHEN q.end_ms < q.next_ms THEN 'assigned_never' ELSE 'assigned_twice' END AS what, q.*, {NONE} FROM (
    SELECT org_id, start_ms, end_ms, LEAD(start_ms) OVER (PARTITION BY org_id ORDER BY start_ms) AS next_ms
    FROM assignments
) q WHERE q.next_ms IS NOT NULL AND (q.end_ms IS NULL OR q.end_ms <> q.next_ms)
"""

# Who bills is what the record of actions said last. A tick assigns newcomers by itself (`--new-org-provider`), under
# their own id, or without one.
UNSAID: Final = f"""
SELECT 'unsaid' AS what, a.org_id, {NONE}, a.start_ms, a.provider, a.customer_id, q.provider AS said, q.customer
FROM assignments a LEFT JOIN (
    SELECT x.action, x.target, CAST(SAID(x.start_ms) AS BIGINT) AS start_ms, SAID(x.provider) AS provider,
        SAID(x.customer) AS customer, ROW_NUMBER() OVER (
            PARTITION BY x.target, CAST(SAID(x.start_ms) AS BIGINT) ORDER BY x.action_id DESC) AS back
    FROM operator_actions x WHERE x.action IN ('org_assign', 'org_customer', 'org_assign_cancel')
) q ON q.target = a.org_id AND q.start_ms = a.start_ms AND q.back = 1 AND q.action <> 'org_assign_cancel'
WHERE (q.target IS NULL AND NOT (a.actor = 'drawdown' AND a.customer_id IN ('', a.org_id)))
    OR a.provider <> q.provider OR a.customer_id <> q.customer
"""

# A customer is one organisation's at a time; and so is a wallet, which is the same for all who keep balances here.
SHARED: Final = f"""
WITH here AS (SELECT 'embedded' AS provider UNION {IN_LEDGER}),
taken AS (SELECT a.*, CASE WHEN h.provider IS NULL THEN a.provider ELSE 'a wallet' END AS place
    FROM assignments a LEFT JOIN here h ON h.provider = a.provider
    WHERE a.customer_id <> '' AND a.provider NOT IN ('legacy', 'none'))
SELECT CASE WHEN c.provider = a.provider THEN 'shared' ELSE 'shared_wallet' END AS what, a.org_id, {NONE}, a.provider,
    a.customer_id, c.org_id AS other, c.provider AS elsewhere
FROM taken a JOIN taken c ON c.customer_id = a.customer_id AND c.place = a.place
WHERE c.org_id <> a.org_id AND (c.end_ms IS NULL OR a.start_ms < c.end_ms)
    AND (a.end_ms IS NULL OR c.start_ms < a.end_ms)
"""

# Invariant 5. Attempts are on record before a byte leaves, for pushes that were committed before.
ATTEMPT: Final = f"""
SELECT CASE WHEN p.org_id IS NULL THEN 'no_push' WHEN t.sent_qty <> p.sent_qty THEN 'other_bytes'
        ELSE 'sent_carried' END AS what,
    t.org_id, t.window_ms, t.feature, t.attempt, t.sent_qty AS sent, p.sent_qty
FROM attempts t LEFT JOIN pushes p ON {same("p", "t")} LEFT JOIN orgs o ON o.org_id = t.org_id
WHERE (p.org_id IS NULL AND t.window_ms >= COALESCE(o.floor_ms, 0)) OR t.sent_qty <> p.sent_qty OR p.state = 'carried'
"""

# The first attempt's time is compared alone, and where no lookup made the push due: a claim waits until its push is
# due, and the seal made it due by its own clock, so no two clocks are compared. Later attempts may follow one that was
# set back. A minute is no breach.
# What was queued, not answered, or whose sender died is accepted by a lookup only, and none of its attempts shows it.
# What may have been sent in a history that was lost is looked up first, and may be in doubt without an attempt (R1).
ATTEMPTS: Final = f"""
SELECT CASE WHEN p.attempts <> COALESCE(t.tries, 0) OR t.lowest <> 1 OR t.highest <> t.tries THEN 'numbers'
        WHEN t.first_ms < p.sealed_at_ms - 60000 THEN 'early' ELSE 'unproven' END AS what,
    {PUSH}, p.attempts, p.sealed_at_ms, COALESCE(t.tries, 0) AS tries, t.lowest, t.highest, t.first_ms
FROM pushes p LEFT JOIN (
    SELECT window_ms, org_id, feature, revision, COUNT(*) AS tries, MIN(attempt) AS lowest, MAX(attempt) AS highest,
        MIN(CASE WHEN attempt = 1 THEN started_ms END) AS first_ms,
        MAX(CASE WHEN outcome IN ('accepted', 'duplicate') THEN 1 ELSE 0 END) AS proven
    FROM attempts GROUP BY window_ms, org_id, feature, revision
) t ON {same("t", "p")}
WHERE p.attempts <> COALESCE(t.tries, 0) OR t.lowest <> 1 OR t.highest <> t.tries
    OR ((p.lookups = 0 AND (t.first_ms < p.sealed_at_ms - 60000 OR (p.state = 'accepted' AND COALESCE(t.proven, 0) = 0))
        OR (p.lookups = 0 AND p.state IN ('rejected', 'in_doubt') AND t.tries IS NULL
            AND p.last_error NOT LIKE 'not sent:%'))
        AND NOT {_PERSON} AND NOT EXISTS (SELECT 1 FROM adoptions x WHERE {same("x", "p")}))
"""

# Invariant 6, by the order of what was written, never by two clocks: an answer and a void say how many attempts there
# were by then. A first attempt that met a key known already put its push in doubt (rule R1). One whose claim had passed
# on by then did not: there were two attempts when its answer was written.
RESENT: Final = f"""
SELECT 'resent' AS what, {PUSH}, t.finished_ms AS doubt_ms, n.started_ms
FROM attempts t JOIN attempts n ON {same("n", "t")} AND n.attempt = 2 JOIN pushes p ON {same("p", "t")}
WHERE t.attempt = 1 AND t.outcome = 'duplicate' AND t.attempts_then = 1 AND p.lookups = 0 AND NOT {_PERSON}
"""

NO_EVIDENCE: Final = f"""
SELECT 'no_evidence' AS what, {PUSH} FROM pushes p {VOID}
WHERE (p.state = 'voided' AND v.org_id IS NULL) OR TRIM(v.evidence) = ''
"""

VOID_OF_NOTHING: Final = f"""
SELECT CASE WHEN p.org_id IS NULL THEN 'void_of_nothing' ELSE 'not_voided' END AS what, v.org_id, v.window_ms,
    v.feature, v.revision, p.key, p.state
FROM voids v LEFT JOIN pushes p ON {same("p", "v")} LEFT JOIN orgs o ON o.org_id = v.org_id
WHERE p.state <> 'voided' OR (p.org_id IS NULL AND v.window_ms >= COALESCE(o.floor_ms, 0))
"""

SENT_VOID: Final = f"""
SELECT 'sent_void' AS what, {PUSH}, v.at_ms, t.started_ms
FROM voids v JOIN attempts t ON {same("t", "v")} AND t.attempt > v.attempts_then JOIN pushes p ON {same("p", "v")}
"""
