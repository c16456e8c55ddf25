"""One organisation's usage, and its sealed part, by feature, day, sandbox, project or subject. Reads only.

Guarantee: used is the sum of the samples in force, mapped as the seal maps them. Where samples were pruned, below the
floor, it is their sealed quantity, which is the same (invariant 1). Each grouping has the same sums. Nothing is cut: a
table that would be too long is refused.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.catalog.mapping import SECONDS, UNITS, mapping_rows, segments

MAX_DAYS: Final = 400
MAX_ROWS: Final = 100_000
BY: Final = ("feature", "day", "sandbox", "project", "subject")
OF_SAMPLES: Final = ("sandbox", "project", "subject")
"""What samples alone say, and no push."""
SQL = queries(__file__)


@dataclass(frozen=True)
class UsageRow:
    """One line: base units of `feature` ('': what has none; then seconds, of event types units). `what`: the day (UTC),
    or the sandbox, project or subject ('': no event said one, or the window's samples were pruned). `sealed` None: no
    push says for which of them it is."""

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
        raise UsageError("usage is counted in windows of five minutes: `from` and `to` lie on their boundaries")
    if not 0 < to_ms - from_ms <= MAX_DAYS * DAY_MS:
        raise UsageError(f"the range is empty or longer than {MAX_DAYS} days: `to` lies after `from`")
    floor = int(require_org(connection, org_id).floor_ms)
    rules = mapping_rows(connection)
    units = {row.feature: row.unit for row in sorted(rules, key=lambda row: row.start_ms) if row.feature is not None}
    values = {
        "org_id": org_id,
        "from_ms": from_ms,
        "samples_from_ms": max(from_ms, floor),
        "floor_ms": floor,
        "to_ms": to_ms,
        "at_most": MAX_ROWS + 1,
        "segments": [asdict(segment) for segment in segments(rules)],
    }
    slots = {
        "grouping": "by_day" if by == "day" else "by_label",
        "label": f"its_{by}" if by in OF_SAMPLES else "no_label",
        "of_event": "with_event" if by in ("project", "subject") else "",
        "shown": "nothing_more" if by in OF_SAMPLES else "all_sealed",
    }
    found = SQL.run(connection, "usage", values, **slots).all()
    if len(found) > MAX_ROWS:
        raise UsageError(f"these are more than {MAX_ROWS:,} rows: choose a shorter range")
    rows = [
        UsageRow(
            _day(row.what) if by == "day" else str(row.what),
            str(row.feature),
            UNITS if row.of_events else units.get(row.feature, SECONDS),
            int(row.used),
            None if by in OF_SAMPLES else int(row.sealed),
        )
        for row in found
    ]
    return UsageReport(org_id, by, from_ms, to_ms, floor > from_ms, rows, _carried(connection, org_id))


def _carried(connection: sa.Connection, org_id: str) -> list[Carried]:
    """One for each feature at each customer the organisation ever was, so they are few."""
    found = SQL.run(connection, "carried", {"org_id": org_id, "at_most": MAX_ROWS})
    return [Carried(**row._mapping) for row in found]


def _day(text: str) -> str:
    return datetime.fromtimestamp(int(text) // 1000, UTC).date().isoformat()
