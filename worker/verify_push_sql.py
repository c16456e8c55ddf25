"""Pushes against their attempts, voids, carries, assignments and the ledger (invariants 2, 3, 5 and 6).

Guarantee and notation as in `verify_sql`.
"""

from typing import Final

from drawdown.worker.verify_words_sql import NONE, same

_PUSH: Final = "p.org_id, p.window_ms, p.feature, p.key, p.state, p.sent_qty"
_VOID: Final = f"LEFT JOIN voids v ON {same('v', 'p')}"
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
        FROM pushes p {_VOID} WHERE v.org_id IS NULL
        UNION ALL SELECT org_id, provider, customer_id, feature, 0, 0, carry_qty FROM carries
    ) sides GROUP BY org_id, provider, customer_id, feature
) q WHERE q.sealed <> q.sent + q.carry
"""

STATE: Final = f"""
SELECT 'state' AS what, {_PUSH} FROM pushes p WHERE (p.state <> 'voided' AND (p.state = 'carried') <> (p.sent_qty = 0)
        AND NOT (p.state = 'queued' AND p.attempts = 0
            AND EXISTS (SELECT 1 FROM losses l WHERE p.window_ms < l.until_ms)))
    OR (p.state = 'shadow' AND p.attempts > 0)
"""

# Only what lies before a provider went live is sealed and never sent.
SHADOW: Final = f"""
SELECT 'shadow' AS what, {_PUSH}, s.live_from_ms
FROM pushes p LEFT JOIN provider_states s ON s.provider = p.provider
WHERE p.state = 'shadow' AND (s.live_from_ms IS NULL OR p.window_ms >= s.live_from_ms)
"""

KEY: Final = f"""
SELECT 'key' AS what, q.* FROM (
    SELECT {_PUSH}, 'usage:' || p.org_id || ':' || p.window_ms || ':' || p.feature
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

# The ledger is ours, so what it charged and what we call accepted are compared both ways (2), and nothing may be
# charged that was not sent (5).
CHARGED: Final = f"""
SELECT CASE WHEN e.key IS NULL THEN 'not_charged' WHEN p.attempts = 0 THEN 'charged_unsent'
        WHEN e.from_account <> 'wallet:' || p.customer_id OR e.feature <> p.feature OR e.quantity <> p.sent_qty
        THEN 'charged_otherwise' ELSE 'charged_in_vain' END AS what,
    {_PUSH}, p.customer_id, e.from_account, e.quantity
FROM pushes p {_VOID} LEFT JOIN ledger_entries e ON e.key = p.key AND e.kind = 'usage'
WHERE p.provider = 'embedded' AND ((e.key IS NULL AND p.state = 'accepted' AND v.org_id IS NULL)
    OR (e.key IS NOT NULL AND (p.attempts = 0 OR p.state IN ('voided', 'rejected', 'carried') OR v.org_id IS NOT NULL
        OR e.from_account <> 'wallet:' || p.customer_id OR e.feature <> p.feature OR e.quantity <> p.sent_qty)))
"""

# What was given back ends in `:back`, and what was drawn anew in `:redrawn`, once each time. A feature may be called so
# too: what follows the window is its name. A control character, which ids do not hold, stands for `:redrawn` while those
# at the end are cut.
_FORWARD: Final = (
    "CASE WHEN key LIKE '%\\:back' AND key NOT LIKE '%\\:' || ts || '\\:back' THEN SUBSTR(key, 8, LENGTH(key) - 12) "
    "ELSE SUBSTR(key, 8) END"
)
_DRAWN: Final = f"""(
    SELECT CASE WHEN cut LIKE '%\\:' || ts THEN cut || '\\:redrawn' ELSE cut END AS mirrored, e.*
    FROM (SELECT REPLACE(RTRIM(REPLACE({_FORWARD}, '\\:redrawn', '\x1f'), '\x1f'), '\x1f', '\\:redrawn') AS cut, f.*
        FROM ledger_entries f WHERE kind = 'usage' AND key LIKE 'mirror:%') e
)"""

# What is billed where there is no hard stop is drawn from a wallet too: once while it is accepted, else not at all.
MIRRORED: Final = f"""
SELECT CASE WHEN p.org_id IS NULL THEN 'mirrored_nothing' ELSE 'mirrored' END AS what, p.org_id, p.window_ms, p.feature,
    q.mirrored AS key, p.state, p.sent_qty, q.drawn AS quantity
FROM (SELECT mirrored, SUM(quantity) AS drawn FROM {_DRAWN} d GROUP BY mirrored) q
LEFT JOIN pushes p ON p.key = q.mirrored
WHERE p.org_id IS NULL OR q.drawn <> CASE WHEN p.state = 'accepted' THEN p.sent_qty ELSE 0 END
"""

ADOPTED: Final = f"""
SELECT 'adopted' AS what, a.org_id, a.window_ms, a.feature, p.key, p.state, p.attempts
FROM adoptions a LEFT JOIN pushes p ON {same("p", "a")} LEFT JOIN orgs o ON o.org_id = a.org_id
WHERE (p.org_id IS NULL AND a.window_ms >= COALESCE(o.floor_ms, 0))
    OR p.attempts <> 0 OR p.state NOT IN ('accepted', 'rejected', 'voided') OR TRIM(a.evidence) = ''
"""

_OWNERS: Final = """(SELECT 'wallet:' || customer_id AS account_id, MAX(org_id) AS org_id FROM assignments
    WHERE provider = 'embedded' GROUP BY 1)"""

# Pushes have no index by key, so both sides are grouped and not joined.
UNCOMMITTED: Final = f"""
SELECT 'uncommitted' AS what, w.org_id, e.ts - e.ts % 300000 AS window_ms, e.feature, e.key, e.quantity
FROM (
    SELECT key FROM (
        SELECT key, 1 AS entries, 0 AS pushes FROM ledger_entries WHERE kind = 'usage' AND key NOT LIKE 'mirror:%'
        UNION ALL SELECT key, 0, 1 FROM pushes WHERE provider = 'embedded'
    ) sides GROUP BY key HAVING SUM(entries) > 0 AND SUM(pushes) = 0
) q JOIN ledger_entries e ON e.key = q.key
LEFT JOIN {_OWNERS} w ON w.account_id = e.from_account LEFT JOIN orgs o ON o.org_id = w.org_id
WHERE e.ts >= COALESCE(o.floor_ms, 0)
"""

BALANCE: Final = f"""
SELECT 'balance' AS what, w.org_id, {NONE}, q.account_id, q.kept, q.lines FROM (
    SELECT account_id, SUM(kept) AS kept, WIDE(line) AS lines FROM (
        SELECT account_id, balance_micro AS kept, 0 AS line FROM ledger_accounts
        UNION ALL SELECT from_account, 0, -amount_micro FROM ledger_entries
        UNION ALL SELECT to_account, 0, amount_micro FROM ledger_entries
    ) sides GROUP BY account_id
) q LEFT JOIN {_OWNERS} w ON w.account_id = q.account_id WHERE q.kept <> q.lines
"""

BOOKS: Final = f"""
SELECT 'books' AS what, CAST(NULL AS TEXT) AS org_id, {NONE}, q.kept
FROM (SELECT WIDE(balance_micro) AS kept FROM ledger_accounts) q WHERE q.kept <> 0
"""

# Every charge again: the amount is what the quantity costs, half a micro-credit up or down, by a rate of the feature
# that had begun by then. A rate may be set for a time that is over, so that which of them was known is not claimed.
# ABS(q) = n * per + rest: products stay small.
_PART: Final = "(ABS(e.amount_micro) - CAST(ABS(e.quantity) / r.per_quantity AS NUMERIC) * r.micro_credits)"
_ASKED: Final = "(2 * CAST(ABS(e.quantity) % r.per_quantity AS NUMERIC) * r.micro_credits + r.per_quantity)"
PRICED: Final = f"""
SELECT 'priced' AS what, w.org_id, e.ts - e.ts % 300000 AS window_ms, e.feature, e.key, e.quantity, e.amount_micro
FROM ledger_entries e LEFT JOIN {_OWNERS} w ON w.account_id = e.from_account
WHERE e.kind = 'usage' AND NOT EXISTS (
    SELECT 1 FROM ledger_rates r WHERE r.feature = e.feature AND r.start_ms <= e.ts
        AND (e.amount_micro = 0 OR (e.amount_micro < 0) = (e.quantity < 0))
        AND 2 * r.per_quantity * {_PART} <= {_ASKED} AND {_ASKED} < 2 * r.per_quantity * ({_PART} + 1))
"""

# Credit that was given is what the record of actions says, to whom it says; and none was given beside it.
GRANTED: Final = f"""
SELECT 'granted' AS what, w.org_id, {NONE}, q.key, q.said, q.account AS said_account, e.amount_micro, e.to_account
FROM (SELECT SAID(x.key) AS key, CAST(SAID(x.amount_micro) AS BIGINT) AS said, 'wallet:' || x.target AS account
    FROM operator_actions x WHERE x.action = 'ledger_grant') q
LEFT JOIN ledger_entries e ON e.key = q.key AND e.kind = 'grant' LEFT JOIN {_OWNERS} w ON w.account_id = q.account
WHERE e.key IS NULL OR e.amount_micro <> q.said OR e.to_account <> q.account
"""

UNGRANTED: Final = f"""
SELECT 'ungranted' AS what, w.org_id, {NONE}, e.key, e.amount_micro, e.to_account
FROM ledger_entries e LEFT JOIN {_OWNERS} w ON w.account_id = e.to_account
WHERE e.kind = 'grant' AND e.key NOT IN (
    SELECT SAID(x.key) FROM operator_actions x WHERE x.action = 'ledger_grant' AND SAID(x.key) IS NOT NULL)
"""

# Invariant 3. A push's biller is the one assigned to its window, whatever became of the push.
BILLER: Final = f"""
SELECT 'biller' AS what, {_PUSH}, p.provider, p.customer_id, COALESCE((
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

SHARED: Final = f"""
SELECT 'shared' AS what, a.org_id, {NONE}, a.provider, a.customer_id, c.org_id AS other
FROM assignments a JOIN assignments c ON c.provider = a.provider AND c.customer_id = a.customer_id
WHERE c.org_id <> a.org_id AND a.customer_id <> '' AND a.provider NOT IN ('legacy', 'none')
    AND (c.end_ms IS NULL OR a.start_ms < c.end_ms) AND (a.end_ms IS NULL OR c.start_ms < a.end_ms)
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
ATTEMPTS: Final = f"""
SELECT CASE WHEN p.attempts <> COALESCE(t.tries, 0) OR t.lowest <> 1 OR t.highest <> t.tries THEN 'numbers'
        WHEN t.first_ms < p.sealed_at_ms - 60000 THEN 'early' ELSE 'unproven' END AS what,
    {_PUSH}, p.attempts, p.sealed_at_ms, COALESCE(t.tries, 0) AS tries, t.lowest, t.highest, t.first_ms
FROM pushes p LEFT JOIN (
    SELECT window_ms, org_id, feature, revision, COUNT(*) AS tries, MIN(attempt) AS lowest, MAX(attempt) AS highest,
        MIN(CASE WHEN attempt = 1 THEN started_ms END) AS first_ms,
        MAX(CASE WHEN outcome IN ('accepted', 'duplicate') THEN 1 ELSE 0 END) AS proven
    FROM attempts GROUP BY window_ms, org_id, feature, revision
) t ON {same("t", "p")}
WHERE p.attempts <> COALESCE(t.tries, 0) OR t.lowest <> 1 OR t.highest <> t.tries
    OR ((p.lookups = 0 AND (t.first_ms < p.sealed_at_ms - 60000 OR (p.state = 'accepted' AND COALESCE(t.proven, 0) = 0))
        OR (p.state IN ('rejected', 'in_doubt') AND t.tries IS NULL AND p.last_error NOT LIKE 'not sent:%'))
        AND NOT {_PERSON} AND NOT EXISTS (SELECT 1 FROM adoptions x WHERE {same("x", "p")}))
"""

# Invariant 6, by the order of what was written, never by two clocks: an answer and a void say how many attempts there
# were by then. A first attempt that met a key known already put its push in doubt (rule R1). One whose claim had passed
# on by then did not: there were two attempts when its answer was written.
RESENT: Final = f"""
SELECT 'resent' AS what, {_PUSH}, t.finished_ms AS doubt_ms, n.started_ms
FROM attempts t JOIN attempts n ON {same("n", "t")} AND n.attempt = 2 JOIN pushes p ON {same("p", "t")}
WHERE t.attempt = 1 AND t.outcome = 'duplicate' AND t.attempts_then = 1 AND p.lookups = 0 AND NOT {_PERSON}
"""

NO_EVIDENCE: Final = f"""
SELECT 'no_evidence' AS what, {_PUSH} FROM pushes p {_VOID}
WHERE (p.state = 'voided' AND v.org_id IS NULL) OR TRIM(v.evidence) = ''
"""

VOID_OF_NOTHING: Final = f"""
SELECT CASE WHEN p.org_id IS NULL THEN 'void_of_nothing' ELSE 'not_voided' END AS what, v.org_id, v.window_ms,
    v.feature, v.revision, p.key, p.state
FROM voids v LEFT JOIN pushes p ON {same("p", "v")} LEFT JOIN orgs o ON o.org_id = v.org_id
WHERE p.state <> 'voided' OR (p.org_id IS NULL AND v.window_ms >= COALESCE(o.floor_ms, 0))
"""

SENT_VOID: Final = f"""
SELECT 'sent_void' AS what, {_PUSH}, v.at_ms, t.started_ms
FROM voids v JOIN attempts t ON {same("t", "v")} AND t.attempt > v.attempts_then JOIN pushes p ON {same("p", "v")}
"""
