"""Samples as a person looks for them: what is quarantined, why, and what could be made of it. Reads only.

Guarantee: a page has at most MAX_ROWS rows and goes on after the last id of the page before; whatever the quarantine's
counts count is in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.errors import UsageError
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS
from drawdown.worker import ids
from drawdown.worker.sample_values import BadRow, time_reader

MAX_ROWS: Final = 10_000

# What still counts as quarantined. A conflict that was seen after its sample was dealt with is a new one.
QUARANTINED: Final = """
SELECT s.id AS sample_id, s.org_id, s.sandbox_id, s.problem AS reason, s.ts, s.memory_mb, s.interval_s,
    s.ingested_at AS came_ms
FROM usage_samples s WHERE s.problem IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM quarantine_closed q WHERE q.sample_id = s.id)
UNION ALL
SELECT l.sample_id, l.org_id, s.sandbox_id, 'below_floor', s.ts, s.memory_mb, s.interval_s, l.found_ms
FROM late_quarantine l LEFT JOIN usage_samples s ON s.id = l.sample_id
WHERE NOT EXISTS (SELECT 1 FROM quarantine_closed q WHERE q.sample_id = l.sample_id)
UNION ALL
SELECT c.sample_id, s.org_id, s.sandbox_id, 'id_conflict', s.ts, s.memory_mb, s.interval_s, c.seen_ms
FROM sample_conflicts c LEFT JOIN usage_samples s ON s.id = c.sample_id
WHERE NOT EXISTS (SELECT 1 FROM quarantine_closed q WHERE q.sample_id = c.sample_id AND q.at_ms >= c.seen_ms)
"""
_LIST: Final = f"""
SELECT x.sample_id, x.org_id, x.sandbox_id, x.reason, x.ts, x.memory_mb, x.interval_s, MAX(x.came_ms) AS came_ms
FROM ({QUARANTINED}) x WHERE (:org = '' OR x.org_id = :org) AND (:reason = '' OR x.reason = :reason)
    AND x.sample_id > :after AND (:anytime = 1 OR (x.came_ms >= :from_ms AND x.came_ms < :to_ms)) {{only}}
GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY x.sample_id, x.reason LIMIT :most
"""
_SAMPLES: Final = """
SELECT s.id AS sample_id, s.org_id, s.sandbox_id,
    CASE WHEN w.sample_id IS NULL THEN NULL ELSE 'withdrawn' END AS reason,
    s.ts, s.memory_mb, s.interval_s, s.ingested_at AS came_ms
FROM usage_samples s LEFT JOIN withdrawals w ON w.sample_id = s.id
WHERE s.org_id = :org AND s.ts >= :from_ms AND s.ts < :to_ms AND s.problem IS NULL ORDER BY s.ts, s.id LIMIT :most
"""
REASONS: Final = f"SELECT DISTINCT reason FROM ({QUARANTINED}) x ORDER BY 1"
COUNTS: Final = f"SELECT reason, COUNT(*) AS samples FROM ({QUARANTINED}) x GROUP BY reason ORDER BY reason"

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
    found = [_with_meaning(_row(row), now_ms) for row in rows]
    last = found[most - 1].sample_id if len(found) > most else ""
    page = found[:most] + [one for one in found[most:] if one.sample_id == last]  # no id is on two pages
    return SamplePage(page, last if len(found) > len(page) else None)


def _quarantined(connection: sa.Connection, chosen: QuarantineFilter, after: str, most: int) -> Sequence[sa.Row[Any]]:
    query = sa.text(_LIST.format(only="AND x.sample_id IN :ids" if chosen.ids else ""))
    values: dict[str, Any] = {
        "org": chosen.org,
        "reason": chosen.reason,
        "after": after,
        "anytime": int(chosen.from_ms is None and chosen.to_ms is None),
        "from_ms": chosen.from_ms or 0,
        "to_ms": 2**62 if chosen.to_ms is None else chosen.to_ms,
        "most": most,
    }
    if chosen.ids:
        query = query.bindparams(sa.bindparam("ids", expanding=True))
        values["ids"] = list(chosen.ids)
    return connection.execute(query, values).all()


def list_samples(connection: sa.Connection, org_id: str, from_ms: int, to_ms: int, most: int) -> list[SampleRow]:
    """An organisation's samples dated in [from, to), the oldest first, the withdrawn ones among them."""
    values = {"org": org_id, "from_ms": from_ms, "to_ms": to_ms, "most": min(most, MAX_ROWS)}
    return [_row(row) for row in connection.execute(sa.text(_SAMPLES), values)]


def _row(row: sa.Row[Any]) -> SampleRow:
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
