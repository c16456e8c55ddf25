"""What hangs on one organisation: its latest pushes, its halts, its assignments. Reads only.

Guarantee: each is bounded, and goes by an index: pushes by their windows, of which a day has 288.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.verdict.standing import AssignmentRow, HaltRow

SQL = queries(__file__)

MOST_HISTORY: Final = 200
"""Rows of each that are shown."""


@dataclass(frozen=True)
class PushLine:
    """A push: base units of its feature that were sealed, and what was sent of them."""

    key: str
    window_ms: int
    feature: str
    revision: int
    provider: str
    sealed_qty: int
    sent_qty: int
    state: str
    attempts: int
    last_error: str | None


def pushes_between(connection: sa.Connection, org_id: str, from_ms: int, to_ms: int) -> list[PushLine]:
    """Of its windows in [from_ms, to_ms), both on their boundaries; the latest first."""
    values = {"org_id": org_id, "from_ms": from_ms - from_ms % WINDOW_MS, "to_ms": to_ms, "at_most": MOST_HISTORY}
    return [PushLine(**row._mapping) for row in SQL.run(connection, "pushes", values)]


def halts_of(connection: sa.Connection, org_id: str) -> list[HaltRow]:
    """What its cells were told, the latest first."""
    values = {"org_id": org_id, "at_most": MOST_HISTORY}
    return [HaltRow(**row._mapping) for row in SQL.run(connection, "halts", values)]


def assignments_of(connection: sa.Connection, org_id: str) -> list[AssignmentRow]:
    """Who bills it, the latest first."""
    values = {"org_id": org_id, "at_most": MOST_HISTORY}
    return [AssignmentRow(**row._mapping) for row in SQL.run(connection, "assignments", values)]
