"""The ticks of a time. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)

MOST_TICKS: Final = 2_000
"""That are looked at; a day has 288 of one worker's."""


@dataclass(frozen=True)
class TickRow:
    """One tick; `exit_status` None: it has not ended, or its worker is gone."""

    tick_id: int
    worker: str
    started_ms: int
    finished_ms: int | None
    exit_status: int | None


def ticks_since(connection: sa.Connection, since_ms: int) -> list[TickRow]:
    """Those that began since then, of the last MOST_TICKS; the newest first."""
    rows = SQL.run(connection, "since", {"since_ms": since_ms, "at_most": MOST_TICKS})
    return [TickRow(**row._mapping) for row in rows]
