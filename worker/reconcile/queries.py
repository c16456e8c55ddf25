"""What we say was charged, for `reconcile`. Quantities are base units; a day is UTC's.

Guarantee: what only a balance showed (adopted as `drawn`) is no event over there, so it is left out where events are
compared, and counted where balances are. What a person billed by hand may be among the events or beside them.
"""

from typing import Final

from drawdown.worker.push.rows import ARRIVALS

_DRAWN: Final = """EXISTS (SELECT 1 FROM adoptions x WHERE x.window_ms = p.window_ms AND x.org_id = p.org_id
    AND x.feature = p.feature AND x.revision = p.revision AND x.kind = 'drawn')"""
_SUMS: Final = f"""
    CAST(SUM(CASE WHEN p.state = 'accepted' AND NOT {_DRAWN} THEN p.sent_qty ELSE 0 END) AS BIGINT) AS accepted,
    CAST(SUM(CASE WHEN p.state = 'accepted' AND p.by_hand THEN p.sent_qty ELSE 0 END) AS BIGINT) AS by_hand,
    CAST(SUM(CASE WHEN p.state = 'shadow' THEN p.sent_qty ELSE 0 END) AS BIGINT) AS shadow,
    SUM(CASE WHEN p.state IN ('due', 'queued', 'in_doubt') THEN 1 ELSE 0 END) AS unsettled,
    MAX(CASE WHEN p.state = 'accepted' THEN COALESCE(p.settled_ms, p.sealed_at_ms) ELSE 0 END) AS settled_ms"""

OURS: Final = f"""
SELECT p.window_ms - p.window_ms % 86400000 AS day_ms, p.org_id, p.customer_id, p.feature,
    CASE WHEN p.window_ms >= :live THEN 1 ELSE 0 END AS live, MIN(a.start_ms) AS begins_ms,
    MAX(COALESCE(a.end_ms, 9000000000000000)) AS ends_ms, MIN(COALESCE(p.first_attempt_ms, p.sealed_at_ms)) AS sent_ms,
    {_SUMS}
FROM pushes p JOIN assignments a ON a.org_id = p.org_id AND a.start_ms <= p.window_ms
    AND (a.end_ms IS NULL OR p.window_ms < a.end_ms)
WHERE p.provider = :provider AND p.window_ms >= :from_ms AND p.window_ms < :to_ms AND (:org = '' OR p.org_id = :org)
    AND p.state NOT IN ('voided', 'carried')
GROUP BY 1, 2, 3, 4, 5
HAVING MAX(COALESCE(p.settled_ms, p.sealed_at_ms)) >= :since
ORDER BY 1, 2, 3, 4, 5
"""

# The last revision is read too, so that whatever was sealed or settled meanwhile shows.
BY_WINDOW: Final = """
SELECT p.window_ms, {sums}, COUNT(*) AS pushes, MAX(p.revision) AS last,
    (SELECT o.floor_ms FROM orgs o WHERE o.org_id = :org) AS floor_ms FROM pushes p
WHERE p.provider = :provider AND p.window_ms >= :from_ms AND p.window_ms < :to_ms AND p.org_id = :org
    AND p.customer_id = :customer AND p.feature = :feature AND p.state NOT IN ('voided', 'carried')
GROUP BY 1 ORDER BY 1
""".replace("{sums}", _SUMS)

# What was adopted under a key of ours is dated over there as the push was that had the key before it.
ACCEPTED: Final = f"""
SELECT p.*, COALESCE((SELECT MIN(o.revision) FROM pushes o WHERE o.window_ms = p.window_ms AND o.org_id = p.org_id
    AND o.feature = p.feature AND COALESCE(o.wire_key, o.key) = p.wire_key), p.revision) AS dated_as,
    {ARRIVALS} AS arrivals, (SELECT o.floor_ms FROM orgs o WHERE o.org_id = p.org_id) AS floor_ms
FROM pushes p
WHERE p.provider = :provider AND p.window_ms >= :from_ms AND p.window_ms < :to_ms AND p.org_id = :org
    AND p.customer_id = :customer AND p.feature = :feature AND p.state = 'accepted' AND NOT {_DRAWN}
    AND (p.attempts > 0 OR p.wire_key IS NOT NULL) AND NOT p.by_hand ORDER BY p.window_ms, p.revision
"""

# What may have been drawn without an event of its own: pushes that may have arrived more than once, or that may have
# arrived, and were voided because no event was found. Below the floor nothing could be given back.
SENT_AGAIN: Final = """
SELECT s.*, CASE WHEN s.state = 'accepted' THEN s.arrived - 1 ELSE s.arrived END * s.sent_qty AS may_be
FROM (SELECT p.*, (SELECT COUNT(*) FROM attempts t WHERE t.window_ms = p.window_ms AND t.org_id = p.org_id
        AND t.feature = p.feature AND t.revision = p.revision
        AND (t.outcome IS NULL OR t.outcome NOT IN ('retry', 'rejected'))) AS arrived
    FROM pushes p
    WHERE p.provider = :provider AND p.customer_id = :customer AND p.feature = :feature AND p.sent_qty > 0
        AND (p.state = 'accepted' AND p.attempts > 1 OR p.state = 'voided' AND p.attempts > 0)
        AND COALESCE(p.settled_ms, p.sealed_at_ms) >= :since AND p.window_ms >= (SELECT o.floor_ms FROM orgs o
            WHERE o.org_id = p.org_id)
        AND NOT EXISTS (SELECT 1 FROM adoptions x WHERE x.window_ms = p.window_ms AND x.org_id = p.org_id
            AND x.feature = p.feature AND x.kind = 'drawn')) s
WHERE s.arrived > CASE WHEN s.state = 'accepted' THEN 1 ELSE 0 END
ORDER BY s.window_ms, s.revision
"""

KEEP: Final = """
INSERT INTO reconciliations (day_ms, org_id, provider, customer_id, feature, ours_qty, theirs_qty, verdict, at_ms)
VALUES (:day_ms, :org_id, :provider, :customer_id, :feature, :ours, :theirs, :verdict, :now)
ON CONFLICT (day_ms, org_id, provider, customer_id, feature) DO UPDATE SET ours_qty = excluded.ours_qty,
    theirs_qty = excluded.theirs_qty, verdict = excluded.verdict, at_ms = excluded.at_ms
"""
