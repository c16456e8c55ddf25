"""The seal's statements, named and described, for both databases.
`{scope}` narrows samples to some organisations (used only while a bad one is being found), `{segments}` stands for
the mapping as a list of values, `{sent}` for what of the owed quantity is sent (rule S10); the rest is `seal_plans`.

Guarantee: samples are aggregated first and joined after; every join that could drop usage is an outer one (S6).
"""

from typing import Final

from drawdown.worker.seal.arrivals import NOW

# Rule S1: this is the seal's first statement; whatever is read about these buckets is read later.
LOCK: Final = """
SELECT id, watermark_ms, cursor, in_flight, epoch, sweep_began_ms, sweep_next_ms FROM buckets
WHERE id BETWEEN :lo AND :hi ORDER BY id {for_update}
"""

WORK_TABLES: Final = {
    "postgresql": (
        'CREATE TEMP TABLE seal_work (org_id text COLLATE "C", window_ms bigint, memory_mb bigint, seconds bigint, '
        "samples bigint) ON COMMIT DROP",
    ),
    "sqlite": (
        "CREATE TEMP TABLE IF NOT EXISTS seal_work (org_id text, window_ms bigint, memory_mb bigint, seconds bigint, "
        "samples bigint)",
        "DELETE FROM seal_work",
    ),
}

_FRESH: Final = "s.ts >= :pack AND s.ts < :horizon"

# Windows at or above :pack are read whole. Below it only arrivals are, to learn which windows they make dirty.
AGGREGATE: Final = """
INSERT INTO seal_work (org_id, window_ms, memory_mb, seconds, samples)
SELECT org_id, window_ms, memory_mb, SUM(seconds), COUNT(*)
FROM (SELECT s.org_id, s.ts - s.ts % 300000 AS window_ms, s.memory_mb, {seconds} AS seconds
    FROM usage_samples s
    WHERE {where} AND s.problem IS NULL {scope} {apart}) used
GROUP BY 1, 2, 3
"""

# Rule S2: the scan of arrivals and the next cursor are one statement, so they share one snapshot. Whatever that
# snapshot cannot see yet is in flight, or at or above the cursor, and is scanned next time; `{later}` is that.
SCAN: Final = {
    "postgresql": (
        f"""
WITH moved AS (
    UPDATE buckets SET cursor = greatest(buckets.cursor, seen.cursor), in_flight = seen.in_flight FROM ({NOW}) seen
    WHERE id BETWEEN :lo AND :hi
)"""
        + AGGREGATE.replace("{where}", f"(({_FRESH}) OR ({{later}} AND s.ts < :pack))"),
    ),
    # SQLite: one writer at a time, so the whole transaction is one snapshot; each scan uses its own index.
    "sqlite": (
        """
UPDATE buckets SET cursor = COALESCE((SELECT MAX(arrival) + 1 FROM usage_samples), 0)
WHERE id BETWEEN :lo AND :hi AND cursor < COALESCE((SELECT MAX(arrival) + 1 FROM usage_samples), 0)""",
        AGGREGATE.replace("{where}", _FRESH)
        .replace("s.ts - s.ts % 300000", "{fresh_window}")
        .replace("1, 2, 3", "{fresh_keys}"),
        AGGREGATE.replace("{where}", "s.arrival >= :cursor AND +s.ts < :pack"),
    ),
}


# Rule S4: what arrived below the floor is too late for good, and stays countable.
ANY_BELOW_FLOOR: Final = """
SELECT 1 FROM seal_work w JOIN orgs o ON o.org_id = w.org_id
WHERE w.window_ms < :pack AND w.window_ms < o.floor_ms LIMIT 1
"""

BELOW_FLOOR: Final = """
INSERT INTO late_quarantine (sample_id, org_id, found_ms)
SELECT s.id, s.org_id, :now FROM usage_samples s JOIN orgs o ON o.org_id = s.org_id
WHERE {later} AND s.problem IS NULL AND s.ts < o.floor_ms AND o.bucket BETWEEN :lo AND :hi
ON CONFLICT DO NOTHING
"""

LATE_IS_DIRTY: Final = """
INSERT INTO dirty_windows (org_id, window_ms)
SELECT DISTINCT w.org_id, w.window_ms FROM seal_work w JOIN orgs o ON o.org_id = w.org_id
WHERE w.window_ms < :pack AND w.window_ms >= o.floor_ms AND o.bucket BETWEEN :lo AND :hi
ON CONFLICT DO NOTHING
"""

# A stopped organisation's samples are left out of the scan that adds up, but not out of what has arrived.
STOPPED_IS_DIRTY: Final = """
INSERT INTO dirty_windows (org_id, window_ms)
SELECT DISTINCT s.org_id, s.ts - s.ts % 300000
FROM usage_samples s JOIN orgs o ON o.org_id = s.org_id
WHERE {later} AND s.problem IS NULL AND s.ts < :pack AND s.ts >= o.floor_ms
    AND o.stopped_at_ms IS NOT NULL AND o.bucket BETWEEN :lo AND :hi
ON CONFLICT DO NOTHING
"""

ANY_LAGGARD: Final = """
SELECT 1 FROM orgs WHERE held_watermark_ms < :upto AND stopped_at_ms IS NULL AND bucket BETWEEN :lo AND :hi
UNION ALL SELECT 1 FROM buckets WHERE watermark_ms < :upto AND id BETWEEN :lo AND :hi LIMIT 1
"""

# Whoever is behind the pack is not scanned with it (13.5 times the cost, measured): its windows become dirty ones.
LAGGARDS_ARE_DIRTY: Final = """
INSERT INTO dirty_windows (org_id, window_ms)
SELECT DISTINCT s.org_id, s.ts - s.ts % 300000
FROM (SELECT o.org_id, COALESCE(o.held_watermark_ms, b.watermark_ms) AS watermark_ms
      FROM orgs o JOIN buckets b ON b.id = o.bucket
      WHERE b.id BETWEEN :lo AND :hi AND o.stopped_at_ms IS NULL
        AND COALESCE(o.held_watermark_ms, b.watermark_ms) < :upto) o
JOIN usage_samples s ON s.org_id = o.org_id AND s.ts >= o.watermark_ms AND s.ts < :upto
WHERE s.problem IS NULL {scope}
ON CONFLICT DO NOTHING
"""

DROP_PARTIAL: Final = "DELETE FROM seal_work WHERE window_ms < :pack"

_DIRTY: Final = """
FROM dirty_windows d {then} orgs o ON o.org_id = d.org_id AND o.bucket BETWEEN :lo AND :hi
    AND o.stopped_at_ms IS NULL AND d.window_ms >= o.floor_ms
"""
_DIRTY_WHERE: Final = "WHERE d.window_ms < :pack AND d.window_ms < :horizon {dirty_scope}"

SCAN_DIRTY: Final = f"""
INSERT INTO seal_work (org_id, window_ms, memory_mb, seconds, samples)
SELECT d.org_id, d.window_ms, s.memory_mb, SUM(s.interval_s), COUNT(*)
{_DIRTY} {{look}} usage_samples s {{by}} s.org_id = d.org_id AND s.ts >= d.window_ms AND s.ts < d.window_ms + 300000
    AND s.problem IS NULL {{end_s}}
{_DIRTY_WHERE}
GROUP BY 1, 2, 3
"""

WITHDRAWN: Final = """
INSERT INTO seal_work (org_id, window_ms, memory_mb, seconds, samples)
SELECT s.org_id, s.ts - s.ts % 300000, s.memory_mb, -SUM(s.interval_s), -COUNT(*)
FROM withdrawals s WHERE s.ts >= :pack AND s.ts < :horizon {scope}
GROUP BY 1, 2, 3
"""

WITHDRAWN_DIRTY: Final = f"""
INSERT INTO seal_work (org_id, window_ms, memory_mb, seconds, samples)
SELECT d.org_id, d.window_ms, s.memory_mb, -SUM(s.interval_s), -COUNT(*)
{_DIRTY} {{look}} withdrawals s {{by}} s.org_id = d.org_id AND s.ts >= d.window_ms AND s.ts < d.window_ms + 300000
    {{end_s}}
{_DIRTY_WHERE}
GROUP BY 1, 2, 3
"""

_MAPPED: Final = """
segments (lo, hi, start_ms, end_ms, feature, unit) AS ({segments}),
mapped (memory_mb, start_ms, end_ms, feature, unit) AS ({mapped})"""

# PostgreSQL takes two of three rows to fail a comparison of columns, and after three of them it expects hundreds of
# rows where there are 40,000, and looks each up by index. Of an expression unlike a constant it expects nothing.
_ABOVE_FLOOR: Final = "CASE WHEN w.window_ms < o.floor_ms THEN 1 ELSE 0 END <> 1"

# A replay leaves alone what the next tick will seal as fresh.
BELOW_WATERMARK: Final = """AND w.window_ms < COALESCE(o.held_watermark_ms,
    (SELECT b.watermark_ms FROM buckets b WHERE b.id = o.bucket))"""

# The one idea: owed = used - sealed and not voided, for each (organisation, window, feature).
OWED: Final = f"""
WITH {_MAPPED},
prior AS (
    SELECT p.org_id, p.window_ms, p.feature, p.state, p.sealed_qty, p.revision
    FROM pushes p JOIN orgs o ON o.org_id = p.org_id AND o.bucket BETWEEN :lo AND :hi
    WHERE p.window_ms >= :pack AND p.window_ms < :horizon {{prior_scope}}
    UNION ALL
    SELECT p.org_id, p.window_ms, p.feature, p.state, p.sealed_qty, p.revision
    {_DIRTY} {{look}} pushes p {{by}} p.org_id = d.org_id AND p.window_ms = d.window_ms {{end_p}}
    {_DIRTY_WHERE}
),
owed AS (
    SELECT window_ms, org_id, feature, CAST(SUM(quantity) AS BIGINT) AS quantity, MAX(revision) + 1 AS revision
    FROM (
        SELECT w.window_ms, w.org_id, m.feature, -1 AS revision,
            CASE WHEN m.unit = 'mb_s' THEN w.seconds * w.memory_mb ELSE w.seconds END AS quantity
        FROM seal_work w LEFT JOIN mapped m
            ON m.memory_mb = w.memory_mb AND w.window_ms >= m.start_ms AND w.window_ms < m.end_ms
        WHERE COALESCE(m.feature, '') <> '' -- so written that PostgreSQL does not underrate the join a hundredfold
        UNION ALL
        SELECT window_ms, org_id, feature, revision, CASE WHEN state = 'voided' THEN 0 ELSE -sealed_qty END FROM prior
    ) both_sides
    GROUP BY window_ms, org_id, feature
    HAVING SUM(quantity) <> 0
),
billed AS (
    SELECT w.window_ms, w.org_id, w.feature, w.revision, w.quantity, a.provider, a.customer_id,
        CASE WHEN {{shadow}} THEN 1 ELSE 0 END AS shadow
    FROM owed w
    JOIN orgs o ON o.org_id = w.org_id AND o.bucket BETWEEN :lo AND :hi AND o.stopped_at_ms IS NULL
        AND {_ABOVE_FLOOR}
    LEFT JOIN assignments a ON a.org_id = w.org_id AND a.start_ms <= w.window_ms
        AND (a.end_ms IS NULL OR w.window_ms < a.end_ms)
    WHERE COALESCE(a.provider, 'none') NOT IN ('legacy', 'none') AND a.customer_id <> ''
        AND a.provider IN ({{known}}) {{below_watermark}}
)
"""

SEAL: Final = (
    """
INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key,
    sealed_at_ms, seal_id, state, due_at_ms)
"""
    + OWED
    + """
SELECT window_ms, org_id, feature, revision, provider, customer_id, quantity, sent_qty,
    'usage:' || org_id || ':' || window_ms || ':' || feature
        || CASE WHEN revision > 0 THEN '\\:r' || revision ELSE '' END,
    :now, :seal_id, CASE WHEN shadow = 1 AND sent_qty <> 0 THEN 'shadow'
        WHEN sent_qty = 0 AND NOT ({lost}) THEN 'carried' {else} END, :now
FROM ({sent}) sized
"""
)

SENT_WHOLE: Final = "SELECT billed.*, quantity AS sent_qty FROM billed"

# Rule S10. Running totals of (carry + sealed), cut to whole units; where negatives are not taken, never falling.
# What is sealed in shadow is never sent, so it leaves nothing over for what is.
SENT_CARRIED: Final = """
SELECT r.*, CASE WHEN r.unit IS NULL THEN r.quantity ELSE r.unit * (r.units
    - COALESCE(LAG(r.units) OVER (PARTITION BY r.org_id, r.provider, r.customer_id, r.feature, r.shadow
        ORDER BY r.window_ms), 0)) END AS sent_qty
FROM (
    SELECT c.*, CASE WHEN c.negatives = 1 THEN c.floored ELSE
        MAX(CASE WHEN c.floored > 0 THEN c.floored ELSE 0 END)
            OVER (PARTITION BY c.org_id, c.provider, c.customer_id, c.feature, c.shadow
                ORDER BY c.window_ms) END AS units
    FROM (
        SELECT t.*, (t.total - ((t.total % t.unit) + t.unit) % t.unit) / t.unit AS floored
        FROM (
            SELECT l.*, CASE WHEN l.shadow = 0 THEN COALESCE(f.unit, p.unit) END AS unit, p.negatives,
                COALESCE(k.carry_qty, 0) + CAST(SUM(l.quantity) OVER (PARTITION BY l.org_id, l.provider,
                l.customer_id, l.feature, l.shadow ORDER BY l.window_ms) AS BIGINT) AS total
            FROM billed l
            LEFT JOIN ({terms}) p ON p.provider = l.provider AND p.feature = ''
            LEFT JOIN ({terms}) f ON f.provider = l.provider AND f.feature = l.feature
            LEFT JOIN carries k ON k.org_id = l.org_id AND k.provider = l.provider
                AND k.customer_id = l.customer_id AND k.feature = l.feature
        ) t
    ) c
) r
"""

CARRY: Final = """
INSERT INTO carries (org_id, provider, customer_id, feature, carry_qty)
SELECT org_id, provider, customer_id, feature, CAST(SUM(sealed_qty - sent_qty) AS BIGINT) FROM pushes
WHERE seal_id = :seal_id AND window_ms >= :first GROUP BY 1, 2, 3, 4 HAVING SUM(sealed_qty - sent_qty) <> 0
ON CONFLICT (org_id, provider, customer_id, feature)
DO UPDATE SET carry_qty = carries.carry_qty + excluded.carry_qty
"""

FORGET_PENDING: Final = (
    """
DELETE FROM pending_usage WHERE window_ms >= :pack AND window_ms < :horizon
    AND EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = pending_usage.org_id AND o.bucket BETWEEN :lo AND :hi)
    {pending_scope}
""",
    f"""
DELETE FROM pending_usage WHERE (window_ms, org_id) IN (SELECT d.window_ms, d.org_id {_DIRTY} {_DIRTY_WHERE})
""",
)

# Rule S6: usage that no feature or assignment covers is kept, with the reason.
PENDING: Final = f"""
INSERT INTO pending_usage (window_ms, org_id, memory_mb, reason, seconds, samples)
WITH {_MAPPED}
SELECT w.window_ms, w.org_id, w.memory_mb,
    CASE WHEN m.memory_mb IS NULL AND a.org_id IS NOT NULL THEN 'no_mapping'
        WHEN a.customer_id = '' THEN 'no_customer' WHEN a.org_id IS NOT NULL THEN 'no_provider'
        WHEN o.registered THEN 'no_assignment' ELSE 'unknown_org' END,
    CAST(SUM(w.seconds) AS BIGINT), CAST(SUM(w.samples) AS BIGINT)
FROM seal_work w
JOIN orgs o ON o.org_id = w.org_id AND o.bucket BETWEEN :lo AND :hi AND o.stopped_at_ms IS NULL
    AND {_ABOVE_FLOOR}
LEFT JOIN assignments a ON a.org_id = w.org_id AND a.start_ms <= w.window_ms
    AND (a.end_ms IS NULL OR w.window_ms < a.end_ms)
LEFT JOIN mapped m ON m.memory_mb = w.memory_mb AND w.window_ms >= m.start_ms AND w.window_ms < m.end_ms
WHERE a.org_id IS NULL OR (a.provider NOT IN ('legacy', 'none') AND (m.memory_mb IS NULL
    OR (m.feature <> '' AND (a.customer_id = '' OR a.provider NOT IN ({{known}})))))
GROUP BY 1, 2, 3, 4 HAVING SUM(w.samples) <> 0
"""

FORGET_DIRTY: Final = """
DELETE FROM dirty_windows WHERE window_ms < :horizon AND EXISTS (SELECT 1 FROM orgs o
    WHERE o.org_id = dirty_windows.org_id AND o.bucket BETWEEN :lo AND :hi AND o.stopped_at_ms IS NULL) {pending_scope}
"""

ADVANCE: Final = "UPDATE buckets SET watermark_ms = :horizon WHERE id BETWEEN :lo AND :hi AND watermark_ms < :horizon"

# An organisation that was held back has caught up with its bucket, or comes as far as the horizon.
CAUGHT_UP: Final = """
UPDATE orgs SET held_watermark_ms = CASE
    WHEN :horizon >= (SELECT b.watermark_ms FROM buckets b WHERE b.id = orgs.bucket) THEN NULL
    WHEN :horizon > held_watermark_ms THEN :horizon ELSE held_watermark_ms END
WHERE bucket BETWEEN :lo AND :hi AND held_watermark_ms IS NOT NULL AND stopped_at_ms IS NULL {pending_scope}
"""
