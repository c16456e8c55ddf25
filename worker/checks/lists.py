"""What checks found when they were last made. Reads only: one row of each kind."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class LastCheck:
    """When it was, how many lines were off, and how many of them somebody has to look at."""

    at_ms: int
    off: int
    alerts: int


def last_checks(connection: sa.Connection) -> dict[str, LastCheck]:
    """By what was checked; what never was is not among them."""
    rows = SQL.run(connection, "last")
    return {row.check_name: LastCheck(int(row.at_ms), int(row.off), int(row.alerts)) for row in rows}
