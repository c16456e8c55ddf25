"""Return an organisation's usage with its sealed part, and its samples.

The usage is grouped by feature, day, sandbox, project or subject. Reads only.

Guarantee: `used` is the sum of the samples in force, mapped as the seal maps them. Below the floor, where samples may
be pruned, `used` is the sealed quantity. It equals that sum (invariant 1), except for exempt usage (provider `legacy`
or `none`), which is never sealed. All groupings have the same total. A report is never cut. If it would be too long, it
is refused. All pages together are the whole report. A page reads only its own rows from the database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import require_org
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS, WINDOW_MS, window_of
from drawdown.worker.catalog.mapping import SECONDS, UNITS, MappingRow, mapping_rows, segments
from drawdown.worker.sources.samples.quarantine import MAX_ROWS as MAX_SAMPLES
from drawdown.worker.sources.samples.quarantine import SampleRow, row_of

SQL = queries(__file__)

MAX_DAYS: Final = 400
"""Most days of one usage report."""
MAX_ROWS: Final = 100_000
"""Most rows of one usage report."""
BY: Final = ("feature", "day", "sandbox", "project", "subject")
OF_SAMPLES: Final = ("sandbox", "project", "subject")
"""Groupings that samples have, and pushes do not have."""


@dataclass(frozen=True)
class UsageRow:
    """One row of a report, in base units of a feature.

    `used`: by samples. `sealed`: by pushes. `feature` '': usage without a feature, in seconds or units of event types.
    `group`: the day (UTC), sandbox, project or subject. `group` is '' if the report is by feature, if the events lack
    such a label, or if the samples were pruned. `sealed` None: pushes do not have this grouping.
    """

    group: str
    feature: str
    unit: str
    used: int
    sealed: int | None


@dataclass(frozen=True)
class Carried:
    """Sealed base units that wait, because their provider bills whole units (S10).

    `quantity` below 0: Drawdown sent more than is sealed.
    """

    provider: str
    customer_id: str
    feature: str
    quantity: int


@dataclass(frozen=True)
class UsageReport:
    """The usage of an organisation in [from_ms, to_ms), and its present carries.

    `pruned`: samples of some windows in the range were pruned.
    """

    org_id: str
    by: str
    from_ms: int
    to_ms: int
    pruned: bool
    rows: list[UsageRow]
    carried: list[Carried]


@dataclass(frozen=True)
class Place:
    """The key of a row in a report, after which a page begins.

    If the report is by day, `group` is the day as in the row.
    """

    group: str
    feature: str
    unit: str


def until_now(now_ms: int) -> int:
    """Return the end of the current window, the default end of a range, in ms."""
    return window_of(now_ms) + WINDOW_MS


def last_days(now_ms: int, days: int) -> tuple[int, int]:
    """Return the range of the last days, in milliseconds.

    The range is that of `drawdown usage --from 7d` for 7 days.
    """
    return window_of(now_ms) - days * DAY_MS, until_now(now_ms)


def read_usage(connection: sa.Connection, org_id: str, from_ms: int, to_ms: int, by: str) -> UsageReport:
    """Return the usage of windows in [from_ms, to_ms), both on window boundaries.

    Errors: UnknownId for the organisation. UsageError for a range that is empty, longer than MAX_DAYS, off the windows'
    boundaries, or that splits a folded day. UsageError for an unknown grouping, or more than MAX_ROWS rows.
    """
    found, is_more = usage_page(connection, org_id, from_ms, to_ms, by, most=MAX_ROWS)
    if is_more:
        raise UsageError(f"the range has more than {MAX_ROWS:,} rows. Choose a shorter range")
    return found


def usage_page(
    connection: sa.Connection, org_id: str, from_ms: int, to_ms: int, by: str, *, most: int, after: Place | None = None
) -> tuple[UsageReport, bool]:
    """Return a report with at most `most` rows after `after`.

    The second value is True if more rows follow. `after` is valid even if its row no longer exists. Errors: as
    `read_usage`, but not for many rows. UsageError for an invalid `after`.
    """
    if by not in BY:
        raise UsageError(f"invalid --by {quote_value(by)}: expected one of {', '.join(BY)}")
    _require_range(from_ms, to_ms)
    floor = _floor(connection, org_id)
    _require_whole_days(connection, org_id, [ms for ms in (from_ms, to_ms) if ms < floor])
    rules = mapping_rows(connection)
    units = _units(rules)
    begin_ms = from_ms
    group: str | int = "" if after is None else after.group
    if by == "day" and after is not None:
        group = _day_ms(after.group)
        begin_ms = max(from_ms, group)  # do not sum up the days of earlier pages again
    values = {
        "org_id": org_id,
        "from_ms": begin_ms,
        "samples_from_ms": max(begin_ms, floor),
        "floor_ms": floor,
        "to_ms": to_ms,
        "at_most": most + 1,
        "segments": [asdict(segment) for segment in segments(rules)],
        **_begins(group, after),
    }
    found = SQL.run(connection, "usage", values, **_slots(by, after)).all()
    rows = [
        UsageRow(
            _day(int(row.what)) if by == "day" else str(row.what),
            str(row.feature),
            UNITS if row.of_events else units.get(row.feature, SECONDS),
            int(row.used),
            None if by in OF_SAMPLES else int(row.sealed),
        )
        for row in found[:most]
    ]
    report = UsageReport(org_id, by, from_ms, to_ms, floor > from_ms, rows, _carried(connection, org_id))
    return report, len(found) > most


def _require_range(from_ms: int, to_ms: int) -> None:
    """Refuse a range that is empty, too long, or off the windows' boundaries.

    The longest range is MAX_DAYS. Errors: UsageError.
    """
    if from_ms % WINDOW_MS or to_ms % WINDOW_MS:
        text = (
            f"invalid range {show_time(from_ms)} to {show_time(to_ms)}: expected window boundaries (multiples of five "
            "minutes)"
        )
        raise UsageError(text, at="from_ms" if from_ms % WINDOW_MS else "to_ms")
    if to_ms <= from_ms:
        raise UsageError(
            f"invalid range {show_time(from_ms)} to {show_time(to_ms)}: its end must be later than its start. Without "
            "--to, it ends now",
            at="to_ms",
        )
    if to_ms - from_ms > MAX_DAYS * DAY_MS:
        text = f"the range is longer than {MAX_DAYS} days. Split it into shorter ranges"
        raise UsageError(text, at="from_ms")


def _require_whole_days(connection: sa.Connection, org_id: str, ends_ms: Sequence[int]) -> None:
    """Refuse a range that cuts a day of folded pushes.

    Such a day has only sums. Errors: UsageError.
    """
    days = [ms - ms % DAY_MS for ms in ends_ms if ms % DAY_MS]
    if days and SQL.run(connection, "cut_days", {"org_id": org_id, "days": days}).first() is not None:
        raise UsageError(
            "the range splits a day for which `drawdown push fold` kept only daily sums. Choose whole days in UTC"
        )


def _begins(group: str | int, after: Place | None) -> dict[str, object]:
    """Return the values of the row after which a page begins.

    A whole report has no such row and ignores them.
    """
    if after is None:
        return {"what": group, "feature": "", "of_events": 0}
    return {"what": group, "feature": after.feature, "of_events": int((after.feature, after.unit) == ("", UNITS))}


def _slots(by: str, after: Place | None) -> dict[str, str]:
    return {
        "grouping": "by_day" if by == "day" else "by_label",
        "label": f"its_{by}" if by in OF_SAMPLES else "no_label",
        "of_event": "with_event" if by in ("project", "subject") else "",
        "shown": "nothing_more" if by in OF_SAMPLES else "all_sealed",
        "of_page": "" if after is None else "later_rows",
    }


@dataclass(frozen=True)
class Share:
    """The use of a feature by a sandbox, or a project, in base units.

    `group`: the sandbox or project. `feature` '': usage without a feature.
    """

    group: str
    feature: str
    unit: str
    used: int


def read_shares(
    connection: sa.Connection, org_id: str, floor_ms: int, from_ms: int, to_ms: int
) -> dict[str, list[Share]]:
    """Return an organisation's usage by sandbox and by project.

    The highest usage comes first. The call reads the samples once. For windows that are not pruned, the figures equal
    those of `read_usage`. `floor_ms`: the organisation's floor.

    Errors: UsageError for more than MAX_ROWS combinations of sandbox, project and feature.
    """
    rules = mapping_rows(connection)
    values = {
        "org_id": org_id,
        "from_ms": max(from_ms, floor_ms),
        "to_ms": to_ms,
        "at_most": MAX_ROWS + 1,
        "segments": [asdict(segment) for segment in segments(rules)],
    }
    rows = SQL.run(connection, "shares", values).all()
    if len(rows) > MAX_ROWS:
        raise UsageError(
            f"the range has more than {MAX_ROWS:,} sandboxes and projects. Run `drawdown usage ORG --by day`"
        )
    units = _units(rules)
    sums: dict[str, dict[tuple[str, str, str], int]] = {"sandbox": defaultdict(int), "project": defaultdict(int)}
    for row in rows:
        unit = UNITS if row.of_events else units.get(row.feature, SECONDS)
        for by, found in sums.items():
            found[str(getattr(row, by)), str(row.feature), unit] += int(row.used)
    return {
        by: sorted((Share(*key, used) for key, used in found.items() if used), key=lambda one: (-one.used, one.group))
        for by, found in sums.items()
    }


def _units(rules: Sequence[MappingRow]) -> dict[str, str]:
    return {row.feature: row.unit for row in sorted(rules, key=lambda row: row.start_ms) if row.feature is not None}


def _floor(connection: sa.Connection, org_id: str) -> int:
    """Return the floor of an organisation, in milliseconds. Errors: UnknownId.

    The floor is 0 if the organisation has usage, but no tick has registered it yet.
    """
    if ids.is_known(connection, ids.ORG, org_id) or not ids.has_samples(connection, org_id):
        return int(require_org(connection, org_id).floor_ms)
    return 0


def _carried(connection: sa.Connection, org_id: str) -> list[Carried]:
    """Return the carries of an organisation.

    The carries are few, because each feature has one for each former or present customer.
    """
    found = SQL.run(connection, "carried", {"org_id": org_id, "at_most": MAX_ROWS})
    return [Carried(**row._mapping) for row in found]


def _day_ms(day: str) -> int:
    """Return the start of a day, in milliseconds.

    Errors: UsageError if the text is not a day.
    """
    try:
        return int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp() * 1000)
    except ValueError:
        raise UsageError(
            f"invalid day {quote_value(day)}: expected the `next` of a page. Start at the first page", at="after"
        ) from None


def _day(start_ms: int) -> str:
    return datetime.fromtimestamp(start_ms // 1000, UTC).date().isoformat()


def list_samples(connection: sa.Connection, org_id: str, from_ms: int, to_ms: int, most: int) -> list[SampleRow]:
    """Return an organisation's samples in [from, to), the oldest first.

    The list includes withdrawn samples, and excludes quarantined samples. It has at most `most` rows, and at most
    MAX_SAMPLES.
    """
    values = {"org_id": org_id, "from_ms": from_ms, "to_ms": to_ms, "at_most": min(most, MAX_SAMPLES)}
    return [row_of(row) for row in SQL.run(connection, "list", values)]
