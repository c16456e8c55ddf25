"""The ledger against pushes, rates and what was granted (invariants 2 and 5).

Guarantee and notation as in `verify_sql`.
"""

from typing import Final

from drawdown.worker.verify.words import IN_LEDGER, NONE, PUSH, VOID

# The ledger is ours, so what it charged and what we call accepted are compared both ways (2), and nothing may be
# charged that was not sent (5).
_OTHERWISE: Final = """(e.from_account <> 'wallet:' || p.customer_id OR e.to_account <> 'revenue:' || p.feature
        OR e.feature <> p.feature OR e.quantity <> p.sent_qty OR e.ts - e.ts % 300000 <> p.window_ms)"""
CHARGED: Final = f"""
SELECT CASE WHEN e.key IS NULL THEN 'not_charged' WHEN p.attempts = 0 THEN 'charged_unsent'
        WHEN {_OTHERWISE} THEN 'charged_otherwise' ELSE 'charged_in_vain' END AS what,
    {PUSH}, p.customer_id, e.from_account, e.to_account, e.quantity, e.ts
FROM pushes p {VOID} LEFT JOIN ledger_entries e ON e.key = p.key AND e.kind = 'usage'
WHERE p.provider = 'embedded' AND ((e.key IS NULL AND p.state = 'accepted' AND v.org_id IS NULL)
    OR (e.key IS NOT NULL AND (p.attempts = 0 OR p.state IN ('voided', 'rejected', 'carried') OR v.org_id IS NOT NULL
        OR {_OTHERWISE})))
"""

# What was given back ends in `:back`, and what was drawn anew in `:redrawn`, once each time. A feature may be called so
# too: what follows the window is its name. A control character, which ids do not hold, stands for `:redrawn` while
# those at the end are cut.
_FORWARD: Final = (
    "CASE WHEN key LIKE '%\\:back' AND key NOT LIKE '%\\:' || ts || '\\:back' THEN SUBSTR(key, 8, LENGTH(key) - 12) "
    "ELSE SUBSTR(key, 8) END"
)
_DRAWN: Final = f"""(
    SELECT CASE WHEN cut LIKE '%\\:' || ts THEN cut || '\\:redrawn' ELSE cut END AS mirrored, e.*
    FROM (SELECT REPLACE(RTRIM(REPLACE({_FORWARD}, '\\:redrawn', '\x1f'), '\x1f'), '\x1f', '\\:redrawn') AS cut, f.*
        FROM ledger_entries f WHERE kind = 'usage' AND key LIKE 'mirror:%') e
)"""

# Where balances lie in the ledger, by the terms in force and by those that a person changed.
_IN_LEDGER: Final = f"""({IN_LEDGER}
    UNION SELECT target FROM operator_actions
        WHERE action = 'provider_accept' AND details LIKE '%balance_in_ledger___ true%')"""

# Whose wallet it is.
_OWNERS: Final = f"""(SELECT 'wallet:' || customer_id AS account_id, MAX(org_id) AS org_id FROM assignments
    WHERE customer_id <> '' AND (provider = 'embedded' OR provider IN {_IN_LEDGER}) GROUP BY 1)"""

# What is billed where there is no hard stop is drawn from a wallet too: once while it is accepted, else not at all;
# each time of the push's own customer, feature, quantity and window.
MIRRORED: Final = f"""
SELECT CASE WHEN p.org_id IS NULL THEN 'mirrored_nothing' WHEN i.provider IS NULL THEN 'mirrored_elsewhere'
        WHEN q.drawn <> CASE WHEN p.state = 'accepted' THEN p.sent_qty ELSE 0 END THEN 'mirrored'
        ELSE 'mirrored_otherwise' END AS what,
    p.org_id, p.window_ms, p.feature, q.mirrored AS key, p.state, p.sent_qty, p.provider, p.customer_id,
    q.drawn AS quantity
FROM (
    SELECT mirrored, SUM(quantity) AS drawn, MIN(ABS(quantity)) AS least, MAX(ABS(quantity)) AS most, MIN(ts) AS first,
        MAX(ts) AS last, MIN(from_account) AS wallet, MAX(from_account) AS other_wallet, MIN(to_account) AS revenue,
        MAX(to_account) AS other_revenue, MIN(feature) AS feature, MAX(feature) AS other_feature
    FROM {_DRAWN} d GROUP BY mirrored
) q LEFT JOIN pushes p ON p.key = q.mirrored LEFT JOIN {_IN_LEDGER} i ON i.provider = p.provider
WHERE p.org_id IS NULL OR i.provider IS NULL OR q.drawn <> CASE WHEN p.state = 'accepted' THEN p.sent_qty ELSE 0 END
    OR q.least <> ABS(p.sent_qty) OR q.most <> ABS(p.sent_qty) OR q.first <> p.window_ms OR q.last <> p.window_ms
    OR q.wallet <> 'wallet:' || p.customer_id OR q.other_wallet <> q.wallet
    OR q.revenue <> 'revenue:' || p.feature OR q.other_revenue <> q.revenue
    OR q.feature <> p.feature OR q.other_feature <> q.feature
"""

# Who had a wallet a day before a push was accepted, and its feature a rate, was drawn on for it: two hosts' clocks do
# not differ by that. Before its feature had a rate, and for more than an entry may hold, nothing is drawn.
UNDRAWN: Final = f"""
SELECT 'undrawn' AS what, {PUSH}, p.customer_id
FROM pushes p JOIN {_IN_LEDGER} i ON i.provider = p.provider
JOIN (SELECT to_account, MIN(at_ms) AS at_ms FROM ledger_entries WHERE kind = 'grant' GROUP BY to_account) g
    ON g.to_account = 'wallet:' || p.customer_id
LEFT JOIN ledger_entries e ON e.key = 'mirror:' || p.key
WHERE p.state = 'accepted' AND p.sent_qty <> 0 AND e.key IS NULL AND g.at_ms < p.settled_ms - 86400000
    AND EXISTS (SELECT 1 FROM ledger_rates r WHERE r.feature = p.feature AND r.start_ms <= p.window_ms
        AND r.at_ms < p.settled_ms - 86400000)
    AND NOT EXISTS (SELECT 1 FROM ledger_rates r WHERE r.feature = p.feature AND r.start_ms <= p.window_ms
        AND (CAST(ABS(p.sent_qty) / r.per_quantity AS NUMERIC) + 1) * r.micro_credits > 1000000000000000)
"""

# What is given back is what was drawn, whatever the rate card says by then.
GIVEN_BACK: Final = f"""
SELECT 'given_back' AS what, w.org_id, e.ts - e.ts % 300000 AS window_ms, e.feature, e.key, e.amount_micro,
    d.amount_micro AS drawn
FROM ledger_entries e LEFT JOIN ledger_entries d ON d.key = SUBSTR(e.key, 1, LENGTH(e.key) - 5)
LEFT JOIN {_OWNERS} w ON w.account_id = e.from_account
WHERE e.kind = 'usage' AND e.key LIKE 'mirror:%\\:back' AND e.key NOT LIKE '%\\:' || e.ts || '\\:back'
    AND (d.key IS NULL OR d.amount_micro <> -e.amount_micro)
"""

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
SELECT 'granted' AS what, w.org_id, {NONE}, q.key, q.said, q.account AS said_account, e.amount_micro, e.to_account,
    e.from_account
FROM (SELECT SAID(x.key) AS key, CAST(SAID(x.amount_micro) AS BIGINT) AS said, 'wallet:' || x.target AS account
    FROM operator_actions x WHERE x.action = 'ledger_grant') q
LEFT JOIN ledger_entries e ON e.key = q.key AND e.kind = 'grant' LEFT JOIN {_OWNERS} w ON w.account_id = q.account
WHERE e.key IS NULL OR e.amount_micro <> q.said OR e.to_account <> q.account OR e.from_account <> 'source:grants'
"""

UNGRANTED: Final = f"""
SELECT 'ungranted' AS what, w.org_id, {NONE}, e.key, e.amount_micro, e.to_account
FROM ledger_entries e LEFT JOIN {_OWNERS} w ON w.account_id = e.to_account
WHERE e.kind = 'grant' AND e.key NOT IN (
    SELECT SAID(x.key) FROM operator_actions x WHERE x.action = 'ledger_grant' AND SAID(x.key) IS NOT NULL)
"""
