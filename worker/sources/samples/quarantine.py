"""Samples as a person looks for them: what is quarantined, why, and what could be made of it. Reads only.

Guarantee: a page has at most MAX_ROWS rows and goes on after the last id of the page before; whatever the quarantine's
counts count is in it. A host may write ids of megabytes: text that is too long is cut in the database, and what begins
alike is one row, which says how many samples it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.errors import UsageError
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS, MAX_ID_CHARS
from drawdown.worker.sources.samples.values import BadRow, time_reader

MAX_ROWS: Final = 10_000

MAX_TEXT_BYTES: Final = 804
"""More than any sound id has: 200 characters of four bytes."""
CUT: Final = "…"
_CUT: Final = {
    "sqlite": f"CASE WHEN LENGTH(CAST({{0}} AS BLOB)) > {MAX_TEXT_BYTES} "
    f"THEN SUBSTR({{0}}, 1, {MAX_ID_CHARS}) || '{CUT}' ELSE {{0}} END",
    "postgresql": f"CASE WHEN OCTET_LENGTH(CAST({{0}} AS TEXT)) > {MAX_TEXT_BYTES} "
    f"THEN SUBSTR(CAST({{0}} AS TEXT), 1, {MAX_ID_CHARS}) || '{CUT}' ELSE CAST({{0}} AS TEXT) END",
}
_BYTES: Final = {"sqlite": "LENGTH(CAST({0} AS BLOB))", "postgresql": "OCTET_LENGTH({0})"}
_CAME: Final = {"sqlite": "CASE WHEN TYPEOF({0}) = 'integer' THEN {0} END", "postgresql": "{0}"}


def _quarantined_as(shape: Callable[[str], str], size: str = "NULL", came: str = "{0}") -> str:
    """What still counts as quarantined, each column in this shape; `size`: of its id. A conflict that was seen after
    its sample was dealt with is a new one."""
    of_sample = ", ".join(shape(name) for name in ("s.ts", "s.memory_mb", "s.interval_s"))
    return f"""
SELECT {shape("s.id")} AS sample_id, {shape("s.org_id")} AS org_id, {shape("s.sandbox_id")} AS sandbox_id,
    s.problem AS reason, {shape("s.ts")} AS ts, {shape("s.memory_mb")} AS memory_mb,
    {shape("s.interval_s")} AS interval_s, {came.format("s.ingested_at")} AS came_ms, {size.format("s.id")} AS id_bytes
FROM usage_samples s WHERE s.problem IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM quarantine_closed q WHERE q.sample_id = s.id)
UNION ALL
SELECT {shape("l.sample_id")}, {shape("l.org_id")}, {shape("s.sandbox_id")}, 'below_floor', {of_sample}, l.found_ms,
    {size.format("l.sample_id")}
FROM late_quarantine l LEFT JOIN usage_samples s ON s.id = l.sample_id
WHERE NOT EXISTS (SELECT 1 FROM quarantine_closed q WHERE q.sample_id = l.sample_id)
UNION ALL
SELECT {shape("c.sample_id")}, {shape("s.org_id")}, {shape("s.sandbox_id")}, 'id_conflict', {of_sample}, c.seen_ms,
    {size.format("c.sample_id")}
FROM sample_conflicts c LEFT JOIN usage_samples s ON s.id = c.sample_id
WHERE NOT EXISTS (SELECT 1 FROM quarantine_closed q WHERE q.sample_id = c.sample_id AND q.at_ms >= c.seen_ms)
"""


WHOLE: Final = _quarantined_as("{}".format)
"""With whole ids, which no process should hold many of."""
_REASONS_ALONE: Final = _quarantined_as(lambda name: "NULL")
CHOSEN: Final = """
(:org = '' OR x.org_id = :org) AND (:reason = '' OR x.reason = :reason)
    AND (:anytime = 1 OR (x.came_ms >= :from_ms AND x.came_ms < :to_ms))
"""
_LIST: Final = f"""
SELECT x.sample_id, MIN(x.org_id) AS org_id, MIN(x.sandbox_id) AS sandbox_id, x.reason, MIN(x.ts) AS ts,
    MIN(x.memory_mb) AS memory_mb, MIN(x.interval_s) AS interval_s, MAX(x.came_ms) AS came_ms,
    MAX(x.id_bytes) AS id_bytes, COUNT(*) AS samples
FROM ({{quarantined}}) x WHERE {CHOSEN} AND x.sample_id > :after {{only}}
GROUP BY x.sample_id, x.reason ORDER BY x.sample_id, x.reason LIMIT :most
"""
REASONS: Final = f"SELECT DISTINCT reason FROM ({_REASONS_ALONE}) x ORDER BY 1"
COUNTS: Final = f"SELECT reason, COUNT(*) AS samples FROM ({_REASONS_ALONE}) x GROUP BY reason ORDER BY reason"

_OF_ONE_ID: Final = 3
"""Rows that one id may have: a conflict, below the floor, a problem."""
REASON: Final = ids.Kind("reason", (), "drawdown sample list --quarantined")
UNITS: Final = {"s": Decimal(1000), "ms": Decimal(1), "us": Decimal("0.001"), "ns": Decimal("0.000001")}
_NUMBER: Final = re.compile(r"-?[0-9]{1,25}(?:\.[0-9]{1,12})?")
TIME_REASON: Final = "ts_"
"""Reasons that begin so are about the time alone: all else was looked at before, and is well."""


@dataclass(frozen=True)
class QuarantineFilter:
    """Which quarantined samples: those named, or of an organisation, for a reason, that came in [from, to). Empty:
    any."""

    ids: tuple[str, ...] = ()
    org: str = ""
    reason: str = ""
    from_ms: int | None = None
    to_ms: int | None = None


@dataclass(frozen=True)
class SampleRow:
    """A sample as it is stored; `ts` as text, since it may be no time at all. `reason`: why it is quarantined (or
    `withdrawn`). `meant_ms`: the time its text is taken to mean, in the unit `meant_as`; None where it means none."""

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
    """The size of an id that was cut."""
    samples: int = 1
    """How many have ids that begin so, where it was cut."""


@dataclass(frozen=True)
class SamplePage:
    """`next_after`: where the next page begins; None where there is no more."""

    samples: list[SampleRow]
    next_after: str | None


def require_reason(connection: sa.Connection, given: str) -> None:
    """Errors: UnknownId for a reason that nothing is quarantined for."""
    there = [str(one) for one in connection.execute(sa.text(REASONS)).scalars()]
    if given not in there:
        raise ids.unknown(REASON, given, there, listed=", ".join(there) or "none, as nothing is quarantined")


def list_quarantined(
    connection: sa.Connection, chosen: QuarantineFilter, now_ms: int, *, after: str = "", most: int = 100
) -> SamplePage:
    """One page, by id, with the time that each could be mended to. Errors: UsageError for more than MAX_ROWS rows."""
    if not 0 < most <= MAX_ROWS:
        raise UsageError(f"a page has 1 to {MAX_ROWS:,} rows; `--after` goes on")
    rows = _quarantined(connection, chosen, after, most + _OF_ONE_ID)
    found = [_with_meaning(_counted(row_of(row), row), now_ms) for row in rows]
    last = found[most - 1].sample_id if len(found) > most else ""
    page = found[:most] + [one for one in found[most:] if one.sample_id == last]  # no id is on two pages
    return SamplePage(page, last if len(found) > len(page) else None)


def _quarantined(connection: sa.Connection, chosen: QuarantineFilter, after: str, most: int) -> Sequence[sa.Row[Any]]:
    kind = connection.dialect.name
    short = _quarantined_as(lambda name: cut_in(kind, name), _BYTES[kind], _CAME[kind])
    query = sa.text(_LIST.format(quarantined=short, only="AND x.sample_id IN :ids" if chosen.ids else ""))
    values = {**values_of(chosen), "after": after, "most": most}
    if chosen.ids:
        query = query.bindparams(sa.bindparam("ids", expanding=True))
        values["ids"] = [cut(name) for name in chosen.ids]
    return connection.execute(query, values).all()


def values_of(chosen: QuarantineFilter) -> dict[str, Any]:
    """What `CHOSEN` is bound to; ids that are named are a condition of their own."""
    return {
        "org": chosen.org,
        "reason": chosen.reason,
        "anytime": int(chosen.from_ms is None and chosen.to_ms is None),
        "from_ms": chosen.from_ms or 0,
        "to_ms": 2**62 if chosen.to_ms is None else chosen.to_ms,
    }


def cut_in(kind: str, column: str) -> str:
    """A column as it is read here, in the SQL of one kind of database: whole, or its beginning where it is too long."""
    return _CUT[kind].format(column)


def cut(text: str) -> str:
    """The same of a text."""
    return text if len(text.encode("utf-8", "surrogatepass")) <= MAX_TEXT_BYTES else text[:MAX_ID_CHARS] + CUT


def is_cut(sample_id: str) -> bool:
    """Whether this is the beginning of longer ids, as it is listed."""
    return len(sample_id) == MAX_ID_CHARS + 1 and sample_id.endswith(CUT)


def row_of(row: sa.Row[Any]) -> SampleRow:
    return SampleRow(
        _text(row.sample_id),
        _text(row.org_id),
        _text(row.sandbox_id),
        row.reason,
        _text(row.ts),
        _text(row.memory_mb),
        _text(row.interval_s),
        row.came_ms if isinstance(row.came_ms, int) else None,
    )


def _counted(one: SampleRow, row: sa.Row[Any]) -> SampleRow:
    return replace(one, id_bytes=row.id_bytes, samples=row.samples) if row.id_bytes > MAX_TEXT_BYTES else one


def _text(value: object) -> str:
    """Whatever another program stored: SQLite keeps any type in any column."""
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
    """The moment that a text names when it is read as seconds, milliseconds, microseconds or nanoseconds since 1970, or
    as ISO 8601 (UTC unless it says otherwise); None where it is none. Anything finer than milliseconds is cut off.

    The four units never mean times of this century at once: they lie a thousandfold apart.
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
