"""List quarantined samples, each with its reason and its probable time.

Reads only.

Guarantee: a page has at most MAX_ROWS rows, plus the other rows of its last id. The next page begins after that id. The
list has every sample that the quarantine's counts include. A host may write ids of megabytes, so the database cuts long
texts. Samples with equal cut texts are in one row, which has the number of these samples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.errors import UnknownId, UsageError
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS, MAX_ID_CHARS
from drawdown.worker.sources.samples.rows import BadRow, time_reader

SQL = queries(__file__)

MAX_ROWS: Final = 10_000
"""Samples that one list returns."""

MAX_TEXT_BYTES: Final = 804
"""Most bytes of a text before the database cuts it.

A valid id has at most 200 characters of four bytes.
"""
CUT: Final = "…"
CUT_AT: Final = {"max_bytes": MAX_TEXT_BYTES, "max_chars": MAX_ID_CHARS}
"""The parameters of the query fragments that cut a text."""

_OF_ONE_ID: Final = 3
"""Most rows of one id: a conflict, a late sample below the floor, and an invalid sample."""
REASON: Final = ids.Kind("reason", (), "drawdown sample quarantined")
UNITS: Final = {"s": Decimal(1000), "ms": Decimal(1), "us": Decimal("0.001"), "ns": Decimal("0.000001")}
_NUMBER: Final = re.compile(r"-?[0-9]{1,25}(?:\.[0-9]{1,12})?")
_TEXTS: Final = ("sample_id", "org_id", "sandbox_id", "ts", "memory_mb", "interval_s")
"""Fields of a sample in which another program may store any type."""
TIME_REASON: Final = "ts_"
"""The prefix of reasons that concern only the time.

The other fields were checked before, and are valid.
"""


@dataclass(frozen=True)
class QuarantineFilter:
    """A filter of quarantined samples, by ids or by properties.

    The properties are the organisation, the reason, and the time of arrival in [from_ms, to_ms). An empty field or None
    matches any sample.
    """

    ids: tuple[str, ...] = ()
    org: str = ""
    reason: str = ""
    from_ms: int | None = None
    to_ms: int | None = None


@dataclass(frozen=True)
class SampleRow:
    """A stored sample. `ts` is a text, because it may be invalid.

    `reason`: the reason why it is quarantined, or `withdrawn` (None: neither applies). `came_ms`: the time of arrival
    (None: the stored value is invalid). `meant_ms`: the probable time in milliseconds, if `ts` is read in the unit
    `meant_as`. Both are None if the reason does not concern the time, or if `ts` is not a time in any unit.
    """

    sample_id: str
    org_id: str
    sandbox_id: str
    reason: str | None
    ts: str
    memory_mb: str
    interval_s: str
    came_ms: int | None
    meant_ms: int | None = None
    meant_as: str | None = None
    id_bytes: int | None = None
    """The size of an id that was cut, in bytes (None: the id is whole)."""
    samples: int = 1
    """If the id was cut, the number of samples with ids that begin in the same way."""
    event_type: str | None = None
    """The event type of a sample that counts units, with its meter in `memory_mb`.

    None for a sample of a sandbox, and for a quarantined sample.
    """


@dataclass(frozen=True)
class SamplePage:
    """A page of samples.

    `next_after`: the id after which the next page begins (None: this is the last page).
    """

    samples: list[SampleRow]
    next_after: str | None


def require_reason(connection: sa.Connection, given: str) -> None:
    """Refuse a reason without quarantined samples. Errors: UnknownId."""
    there = [str(reason) for reason in SQL.run(connection, "reasons").scalars()]
    if not there:
        raise UnknownId(f"unknown reason {quote_value(given)}: the quarantine is empty", REASON.noun)
    if given not in there:
        raise ids.unknown(REASON, given, there, listed=", ".join(there))


def list_quarantined(
    connection: sa.Connection, chosen: QuarantineFilter, now_ms: int, *, after: str = "", most: int = 100
) -> SamplePage:
    """Return a page of quarantined samples, sorted by id, each with its probable time.

    The page has all rows of its last id, even if that exceeds `most`. Errors: UsageError for a page size outside 1 to
    MAX_ROWS.
    """
    if not 0 < most <= MAX_ROWS:
        raise UsageError(
            f"invalid page size {most}: expected 1 to {MAX_ROWS:,} rows. For the next page, pass `--after`"
        )
    rows = _quarantined(connection, chosen, after, most + _OF_ONE_ID)
    found = [_with_meaning(_counted(row_of(row)), now_ms) for row in rows]
    last = found[most - 1].sample_id if len(found) > most else ""
    page = found[:most] + [row for row in found[most:] if row.sample_id == last]  # all rows of an id are on one page
    return SamplePage(page, last if len(found) > len(page) else None)


def _quarantined(connection: sa.Connection, chosen: QuarantineFilter, after: str, most: int) -> Sequence[sa.Row[Any]]:
    values = {
        **values_of(chosen),
        "sample_ids": [cut(name) for name in chosen.ids],
        "after_sample_id": after,
        "at_most": most,
        **CUT_AT,
    }
    return SQL.run(connection, "page", values, named="with_these_ids" if chosen.ids else "").all()


def values_of(chosen: QuarantineFilter) -> dict[str, object]:
    """Return the parameters of the query fragment `chosen`, without the ids."""
    return {
        "org_id": chosen.org,
        "reason": chosen.reason,
        "anytime": int(chosen.from_ms is None and chosen.to_ms is None),
        "from_ms": chosen.from_ms or 0,
        "to_ms": 2**62 if chosen.to_ms is None else chosen.to_ms,
    }


def cut(text: str) -> str:
    """Return a text as the list shows it, which is cut if it is too long."""
    return text if len(text.encode("utf-8", "surrogatepass")) <= MAX_TEXT_BYTES else text[:MAX_ID_CHARS] + CUT


def is_cut(sample_id: str) -> bool:
    """Return True if the list shows this text for ids that were cut."""
    return len(sample_id) == MAX_ID_CHARS + 1 and sample_id.endswith(CUT)


def row_of(row: sa.Row[Any]) -> SampleRow:
    """Return a sample from a row that has its fields as columns."""
    texts = {name: _text(row._mapping[name]) for name in _TEXTS}
    came_ms = row.came_ms if isinstance(row.came_ms, int) else None
    return SampleRow(**{**row._mapping, **texts, "came_ms": came_ms})


def _counted(sample: SampleRow) -> SampleRow:
    """Return a sample with `id_bytes` and `samples` only if its id was cut."""
    return sample if (sample.id_bytes or 0) > MAX_TEXT_BYTES else replace(sample, id_bytes=None, samples=1)


def _text(value: object) -> str:
    """Return a stored value as text.

    In SQLite, another program may store any type in any column.
    """
    return "" if value is None else repr(value) if isinstance(value, bytes) else str(value)


def _with_meaning(row: SampleRow, now_ms: int) -> SampleRow:
    if row.reason is None or not row.reason.startswith(TIME_REASON):
        return row
    for unit in (*UNITS, "iso"):
        moment = time_of(row.ts, unit)
        if moment is not None and EARLIEST_TS <= moment <= now_ms + FUTURE_SLACK_MS:
            return replace(row, meant_ms=moment, meant_as=unit)
    return row


def time_of(text: str, unit: str) -> int | None:
    """Return the time of a text in milliseconds since 1970, rounded down.

    Returns None if the text is not a time in this unit.

    `unit`: seconds (`s`), milliseconds (`ms`), microseconds (`us`) or nanoseconds (`ns`) since 1970, or `iso` for ISO
    8601 (UTC without an offset). In at most one of the four units, a number is a time of this century, because adjacent
    units differ by a factor of 1,000.
    """
    if unit == "iso":
        try:
            return time_reader("iso", "UTC")(text)
        except BadRow:
            return None
    if not _NUMBER.fullmatch(text.strip()):
        return None
    try:
        return int((Decimal(text.strip()) * UNITS[unit]).to_integral_value(rounding="ROUND_FLOOR"))
    except InvalidOperation:
        return None
