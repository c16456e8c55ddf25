"""The ticks of a time, and what each did. Reads only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from drawdown.schema.errors import UnknownId
from drawdown.schema.sql import queries

SQL = queries(__file__)

MOST_TICKS: Final = 2_000
"""That are looked at; a day has 288 of one worker's."""


PAGE_ROWS: Final = 300
"""A day of one worker's, and an hour: whole hours are shown."""
LAST_TICK: Final = 2**62


@dataclass(frozen=True)
class TickRow:
    """One tick; `exit_status` None: it has not ended, or its worker is gone."""

    tick_id: int
    worker: str
    started_ms: int
    finished_ms: int | None
    exit_status: int | None


@dataclass(frozen=True)
class TickDone:
    """One tick with what its report says that it did and left; `report` is empty while it has none."""

    tick_id: int
    worker: str
    bucket_lo: int
    bucket_hi: int
    started_ms: int
    finished_ms: int | None
    exit_status: int | None
    clock_trusted: bool
    report: dict[str, object] = field(default_factory=dict)

    def count(self, name: str) -> int | None:
        """A figure of its report; None where it has none."""
        found = self.report.get(name)
        return found if isinstance(found, int) else None

    def said(self, name: str) -> list[str]:
        """Lines of its report."""
        found = self.report.get(name)
        return [str(line) for line in found] if isinstance(found, list) else []


def latest_ticks(connection: sa.Connection, before: int = LAST_TICK, most: int = PAGE_ROWS) -> list[TickDone]:
    """Those before a tick, the newest first."""
    rows = SQL.run(connection, "page", {"before": before, "at_most": most})
    return [
        TickDone(**{**row._mapping, "clock_trusted": bool(row.clock_trusted), "report": _report(row.report)})
        for row in rows
    ]


def one_tick(connection: sa.Connection, tick_id: int) -> TickDone:
    """One of them. Errors: UnknownId."""
    found = [one for one in latest_ticks(connection, tick_id + 1, 1) if one.tick_id == tick_id]
    if not found:
        raise UnknownId(f"there is no tick {tick_id}: `/console/ticks` lists those there are", "tick")
    return found[0]


def _report(text: str | None) -> dict[str, object]:
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def ticks_since(connection: sa.Connection, since_ms: int) -> list[TickRow]:
    """Those that began since then, of the last MOST_TICKS; the newest first."""
    rows = SQL.run(connection, "since", {"since_ms": since_ms, "at_most": MOST_TICKS})
    return [TickRow(**row._mapping) for row in rows]
