"""The figures of runs and settlements behind the metrics. Guarantee: reads only; runs by indexes, settlements in one
pass over their amounts."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class RunFigures:
    """Runs that hold credit; of these, those that are over and that nobody has let go, and since when; and those that
    expired and that nobody settled."""

    held: int
    overdue: int
    overdue_since_ms: int | None
    expired: int


@dataclass(frozen=True)
class OwedFigures:
    """What suppliers are owed and no batch has released, in micro-credits; how many freezes go on, and since when."""

    waiting_micro: int
    freezes: int
    frozen_since_ms: int | None


def run_figures(connection: sa.Connection, now_ms: int, since_ms: int) -> RunFigures:
    """By now; `expired` since then."""
    held = SQL.run(connection, "held").scalar_one()
    overdue = SQL.run(connection, "overdue", {"now_ms": now_ms}).one()
    expired = SQL.run(connection, "expired", {"since_ms": since_ms}).scalar_one()
    return RunFigures(int(held), int(overdue.runs), overdue.since_ms, int(expired))


def owed_figures(connection: sa.Connection) -> OwedFigures:
    """By now."""
    waiting = SQL.run(connection, "waiting").scalar_one()
    freezes = SQL.run(connection, "freezes").one()
    return OwedFigures(int(waiting), int(freezes.freezes), freezes.since_ms)
