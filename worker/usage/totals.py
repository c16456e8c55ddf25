"""Return usage across organisations.

The sums are by organisation, feature, project, subject, day or hour.

Guarantee: reads only. `used` is the sum of the samples in force, mapped as the seal maps them. If an organisation's
samples were pruned, `used` is their sealed quantity, without exempt usage, as in `lists`. Quantities in different units
are never added together. A day or hour is in the given time zone. All pages of one query together are all of its rows.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from drawdown.ledger.calendar import start_of
from drawdown.schema import ids
from drawdown.schema.declare import ID, ORG, TEXT, WINDOW, Column, Listing, Look, Page
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.catalog.mapping import mapping_rows, segments
from drawdown.worker.usage.lists import MAX_DAYS, until_now

SQL = queries(__file__)

MAX_FLEET_DAYS: Final = 93
"""Days of one query of usage across organisations, which reads all their samples."""
UTC_NAME: Final = "UTC"
_QUARTER: Final = 15 * MINUTE_MS
"""15 minutes, in milliseconds. The offset of a time zone changes only at the start of such a quarter of an hour."""
By = Literal["org", "feature", "project", "subject", "day", "hour"]
_KEYS: Final = ("org_id", "feature", "unit", "project", "subject", "local_ms", "offset_ms")
_TYPES: Final = (str, str, str, str, str, int, int)


@dataclass(frozen=True)
class UsageTotal:
    """A sum (`used`) of base units of one unit (`s`, `mb_s` or `units`).

    If a field is null, the query does not group by this field. The sum then covers all its values that the filters
    select. `feature` empty: the mapping lacks a feature for the usage. `project` or `subject` empty: the usage lacks
    such a label, or the samples were pruned. `period`: the day, or the start of the hour with its offset.
    """

    org_id: str | None
    feature: str | None
    unit: str
    project: str | None
    subject: str | None
    period: str | None
    used: int


@dataclass(frozen=True)
class Zone:
    """A span in which a time zone has one offset. All fields are in milliseconds."""

    from_ms: int
    to_ms: int
    offset_ms: int


def zones(name: str, from_ms: int, to_ms: int) -> list[Zone]:
    """Return the spans and offsets of a time zone in a range.

    Errors: UsageError for an unknown zone.
    """
    try:
        zone = ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # such as ZoneInfoNotFoundError, and names that are paths
        text = f"unknown time zone {name!r}: expected one of the IANA database, such as Europe/Berlin"
        raise UsageError(text, at="time_zone") from None
    found: list[Zone] = []
    for begin, end in _spans(zone, from_ms, to_ms):
        offset_ms = _offset_ms(zone, begin)
        if found and found[-1].offset_ms == offset_ms:
            found[-1] = Zone(found[-1].from_ms, end, offset_ms)
        else:
            found.append(Zone(begin, end, offset_ms))
    return found


def _spans(zone: ZoneInfo, from_ms: int, to_ms: int) -> Iterator[tuple[int, int]]:
    """Yield the days of a range.

    Yield quarters of an hour for a day in which the offset changes.
    """
    for begin in range(from_ms, to_ms, DAY_MS):
        end = min(begin + DAY_MS, to_ms)
        if _offset_ms(zone, begin) == _offset_ms(zone, end):
            yield begin, end
            continue
        first = begin - begin % _QUARTER
        for at in range(first, end, _QUARTER):
            yield max(at, begin), min(at + _QUARTER, end)


def _offset_ms(zone: ZoneInfo, at_ms: int) -> int:
    offset = datetime.fromtimestamp(at_ms // 1000, zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds()) * 1000


def _totals(
    connection: sa.Connection,
    look: Look,
    *,
    from_ms: Annotated[int | None, WINDOW, "First window; the first of this month if omitted"] = None,
    to_ms: Annotated[int | None, WINDOW, "End of the range; the end of the current window if omitted"] = None,
    by: Annotated[list[By] | None, "Fields to group by; organisation and feature if omitted"] = None,
    org_id: Annotated[str | None, ORG, "Organisation of the usage"] = None,
    feature: Annotated[str | None, ID, "Feature of the usage"] = None,
    project: Annotated[str | None, ID, "Project of the usage"] = None,
    subject: Annotated[str | None, ID, "Subject of the usage"] = None,
    time_zone: Annotated[str, TEXT, "Time zone of days and hours, such as Europe/Berlin"] = UTC_NAME,
) -> Page[UsageTotal]:
    start = start_of(look.now_ms) if from_ms is None else from_ms
    end = until_now(look.now_ms) if to_ms is None else to_ms
    org = org_id or look.only
    _require_range(start, end, MAX_FLEET_DAYS if org is None else MAX_DAYS)
    for kind, name in ((ids.ORG, org), (ids.FEATURE, feature)):
        if name:
            ids.require(connection, kind, name)
    groups = frozenset(by or ("org", "feature"))
    if {"day", "hour"} <= groups:
        raise UsageError("specify either day or hour in the groups, not both", at="by")
    filters = {"org_id": org, "feature": feature, "project": project, "subject": subject}
    parts = zones(time_zone, start, end)
    _require_whole_days(connection, org, start, end, cuts="hour" in groups or any(one.offset_ms for one in parts))
    rules = mapping_rows(connection)
    newest = {row.feature: row.unit for row in sorted(rules, key=lambda row: row.start_ms) if row.feature is not None}
    values = {
        "from_ms": start,
        "to_ms": end,
        "at_most": look.most + 1,
        "segments": [asdict(segment) for segment in segments(rules)],
        "units": [{"feature": name, "unit": unit} for name, unit in newest.items()],
        "zones": [asdict(one) for one in parts],
        **{name: value or "" for name, value in filters.items()},
        **{f"after_{name}": value for name, value in zip(_KEYS, _place(look.after), strict=True)},
    }
    found = SQL.run(connection, "totals", values, **_slots(groups, filters, is_first=not look.after)).all()
    rows, more = found[: look.most], len(found) > look.most
    return Page([_usage_total(row, groups) for row in rows], _name(rows[-1]) if more else None)


def _slots(groups: frozenset[str], filters: dict[str, str | None], *, is_first: bool) -> dict[str, str]:
    labelled = bool({"project", "subject"} & groups) or bool(filters["project"] or filters["subject"])
    return {
        "of_event": "with_event" if labelled else "",
        "its_project": "project_of" if labelled else "no_label",
        "its_subject": "subject_of" if labelled else "no_label",
        **{f"by_{name}": f"its_{name}" if name in groups else "no_label" for name in ("org", "feature")},
        **{f"by_{name}": f"said_{name}" if name in groups else "no_label" for name in ("project", "subject")},
        "by_period": "its_day" if "day" in groups else "its_hour" if "hour" in groups else "no_period",
        "by_offset": "its_offset" if "hour" in groups else "no_period",
        "of_org": "one_org" if filters["org_id"] else "",
        "of_org_pushes": "one_org_pushes" if filters["org_id"] else "",
        "of_org_sums": "one_org_sums" if filters["org_id"] else "",
        **{f"of_{name}": f"one_{name}" if filters[name] else "" for name in ("feature", "project", "subject")},
        "later": "" if is_first else "after_place",
    }


def _require_range(from_ms: int, to_ms: int, days: int) -> None:
    """Refuse a range that is empty or longer than `days`. Errors: UsageError."""
    if to_ms <= from_ms:
        raise UsageError(
            f"invalid range {show_time(from_ms)} to {show_time(to_ms)}: its end must be later than its start. If you "
            "omit the end, the range ends now",
            at="to_ms",
        )
    if to_ms - from_ms > days * DAY_MS:
        text = f"the range is longer than {days} days. Split it, or choose one organisation ({MAX_DAYS} days)"
        raise UsageError(text, at="from_ms")


def _require_whole_days(connection: sa.Connection, org_id: str | None, from_ms: int, to_ms: int, *, cuts: bool) -> None:
    """Refuse a range that splits a UTC day of folded pushes.

    Such a day has only sums. `cuts`: True if the query splits all days, for example by hour. Errors: UsageError.
    """
    ends = [ms - ms % DAY_MS for ms in (from_ms, to_ms) if ms % DAY_MS]
    if not cuts and not ends:
        return
    begin, end = (from_ms - from_ms % DAY_MS, to_ms) if cuts else (min(ends), max(ends) + 1)
    values = {"begin_ms": begin, "end_ms": end, "days": ends or [begin], "org_id": org_id or ""}
    slots = {"which": "any_day" if cuts else "these_days", "of_org": "one_org_sums" if org_id else ""}
    if SQL.run(connection, "folded", values, **slots).first() is not None:
        text = (
            "`drawdown push fold` kept only daily sums for some days of the range. Choose whole days in UTC, "
            "without hours"
        )
        raise UsageError(text, at="from_ms")


def _usage_total(row: Any, groups: frozenset[str]) -> UsageTotal:
    def of(name: str, value: str) -> str | None:
        return value if name in groups else None

    period = None
    if "day" in groups or "hour" in groups:
        zone = timezone(timedelta(milliseconds=int(row.offset_ms))) if row.offset_ms else UTC
        local = datetime.fromtimestamp((int(row.local_ms) - int(row.offset_ms)) // 1000, zone)
        period = local.date().isoformat() if "day" in groups else local.isoformat(timespec="minutes")
    return UsageTotal(
        of("org", row.org_id), of("feature", row.feature), row.unit, of("project", row.project),
        of("subject", row.subject), period, int(row.used),
    )  # fmt: skip


def _name(row: Any) -> str:
    """Return the key of a row as text, for the field `next` of a page."""
    said = json.dumps([getattr(row, name) for name in _KEYS[:5]] + [int(row.local_ms), int(row.offset_ms)])
    return base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")


def _place(after: str) -> list[Any]:
    """Return the place after which a page begins.

    Errors: UsageError if the text is not the `next` of a page.
    """
    if not after:
        return [kind() for kind in _TYPES]
    try:
        found = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
        if isinstance(found, list) and [type(one) for one in found] == list(_TYPES):
            return found
    except (ValueError, binascii.Error, RecursionError):
        pass
    raise UsageError(
        f"invalid `after` {quote_value(after)}: expected the `next` of a page. Start at the first page", at="after"
    )


LISTS: Final = (
    Listing(
        "org usage",
        "Usage across organisations",
        "Sum usage across organisations.",
        _totals,
        (
            Column("org_id", "org", rare=True), Column("period", "period", rare=True), Column("feature", rare=True),
            Column("project", rare=True), Column("subject", rare=True), "unit", Column("used", "#used"),
        ),
        holds="usage",
        path="/v1/usage",
        scope="usage:read",
        paged=True,
        open=True,
    ),
)  # fmt: skip
