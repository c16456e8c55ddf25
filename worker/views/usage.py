"""What one organisation used, and what of it was sealed, by feature, day or sandbox. Reads only.

Guarantee: used is the sum of the samples in force, mapped as the seal maps them; where they were pruned, below the
floor, it is what was sealed of them, which is the same (invariant 1). Each grouping has the same sums. Nothing is cut:
a table that would be too long is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from drawdown.schema import plans
from drawdown.schema.audit import require_org
from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.catalog.mapping import mapping_rows, segments, segments_sql

MAX_DAYS: Final = 400
MAX_ROWS: Final = 100_000
BY: Final = {
    "feature": "CAST('' AS TEXT)",
    "day": f"CAST(window_ms - window_ms % {DAY_MS} AS TEXT)",
    "sandbox": "COALESCE(sandbox_id, '')",
}
# A push lies at its window and organisation: one look for each window, however many organisations there are.
_USAGE: Final = """
WITH RECURSIVE windows (window_ms) AS (
    SELECT CAST(:from_ms AS BIGINT) UNION ALL SELECT window_ms + 300000 FROM windows WHERE window_ms + 300000 < :to_ms
),
segments (lo, hi, start_ms, end_ms, feature, unit) AS ({segments}),
taken AS (
    SELECT s.ts - s.ts % 300000 AS window_ms, s.sandbox_id, s.memory_mb, SUM(s.interval_s) AS seconds
    FROM usage_samples s LEFT JOIN withdrawals w ON w.sample_id = s.id
    WHERE s.org_id = :org AND s.ts >= :first_ms AND s.ts < :to_ms AND s.problem IS NULL AND w.sample_id IS NULL
    GROUP BY 1, 2, 3
),
lines AS (
    SELECT t.window_ms, t.sandbox_id, COALESCE(g.feature, '') AS feature,
        CASE WHEN g.unit = 'mb_s' THEN t.memory_mb ELSE 1 END * t.seconds AS used, 0 AS sealed
    FROM taken t LEFT JOIN segments g ON t.memory_mb BETWEEN g.lo AND g.hi AND t.window_ms >= g.start_ms
        AND t.window_ms < g.end_ms
    UNION ALL
    SELECT q.window_ms, NULL, q.feature, CASE WHEN q.window_ms < :floor_ms THEN q.sealed_qty ELSE 0 END, q.sealed_qty
    FROM windows w {then} pushes q ON q.window_ms = w.window_ms AND q.org_id = :org AND q.state <> 'voided'
)
SELECT {key} AS what, feature, SUM(used) AS used, SUM(sealed) AS sealed FROM lines
WHERE used <> 0 OR {shown} GROUP BY 1, 2 ORDER BY 1, 2 LIMIT :most
"""


@dataclass(frozen=True)
class UsageRow:
    """One line: base units of `feature` ('': sizes that have none; then seconds). `what`: the day (UTC) or the sandbox
    ('': windows whose samples were pruned). `sealed` None: no push says for which sandbox it is."""

    what: str
    feature: str
    unit: str
    used: int
    sealed: int | None


@dataclass(frozen=True)
class Carried:
    """Base units that are sealed and wait for a whole unit of their provider (rule S10), as of now. Below 0: more was
    sent than is sealed by now."""

    provider: str
    customer_id: str
    feature: str
    quantity: int


@dataclass(frozen=True)
class UsageReport:
    """The usage of an organisation in [from_ms, to_ms), whether windows in it were pruned, and what is carried now."""

    org_id: str
    by: str
    from_ms: int
    to_ms: int
    pruned: bool
    rows: list[UsageRow]
    carried: list[Carried]


def read_usage(connection: sa.Connection, org_id: str, from_ms: int, to_ms: int, by: str) -> UsageReport:
    """What was used in windows of [from_ms, to_ms), both on window boundaries.

    Errors: UnknownId for the organisation; UsageError for a range that is empty, longer than MAX_DAYS or off the
    windows' boundaries, a grouping there is not, or more than MAX_ROWS rows.
    """
    if by not in BY:
        raise UsageError(f"--by {by!r}: there is {', '.join(BY)}")
    if from_ms % WINDOW_MS or to_ms % WINDOW_MS:
        raise UsageError("usage is counted in windows of five minutes: --from and --to lie on their boundaries")
    if not 0 < to_ms - from_ms <= MAX_DAYS * DAY_MS:
        raise UsageError(f"the range is empty or longer than {MAX_DAYS} days: --to lies after --from")
    floor = int(require_org(connection, org_id).floor_ms)
    rules = mapping_rows(connection)
    units = {row.feature: row.unit for row in sorted(rules, key=lambda one: one.start_ms) if row.feature is not None}
    text = (
        _USAGE.replace("{segments}", segments_sql(segments(rules)))
        .replace("{then}", plans.THEN[connection.dialect.name])
        .replace("{key}", BY[by])
        .replace("{shown}", "1 = 0" if by == "sandbox" else "sealed <> 0")
    )
    values = {
        "org": org_id,
        "from_ms": from_ms,
        "first_ms": max(from_ms, floor),
        "floor_ms": floor,
        "to_ms": to_ms,
        "most": MAX_ROWS + 1,
    }
    found = connection.execute(sa.text(text), values).all()
    if len(found) > MAX_ROWS:
        raise UsageError(f"these are more than {MAX_ROWS:,} rows: choose a shorter range")
    rows = [
        UsageRow(
            _day(row.what) if by == "day" else str(row.what),
            str(row.feature),
            units.get(row.feature, "s"),
            int(row.used),
            None if by == "sandbox" else int(row.sealed),
        )
        for row in found
    ]
    return UsageReport(org_id, by, from_ms, to_ms, floor > from_ms, rows, _carried(connection, org_id))


def _carried(connection: sa.Connection, org_id: str) -> list[Carried]:
    """One for each feature at each customer the organisation ever was, so they are few."""
    found = connection.execute(
        sa.text(
            "SELECT provider, customer_id, feature, carry_qty FROM carries WHERE org_id = :org AND carry_qty <> 0 "
            "ORDER BY 1, 2, 3 LIMIT :most"
        ),
        {"org": org_id, "most": MAX_ROWS},
    )
    return [Carried(*row) for row in found]


def _day(text: str) -> str:
    return datetime.fromtimestamp(int(text) // 1000, UTC).date().isoformat()
