"""The figures of parity behind the metrics. Reads only: the checks of the last days, by their key."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class ParityFigures:
    """Of days from `since_ms` on: organisations' days that differ, cells' days that could not be read. Of all
    days: when anything was last compared; None: never."""

    differing: int
    unread: int
    checked_ms: int | None


def parity_figures(connection: sa.Connection, since_ms: int) -> ParityFigures:
    """As the last check of each cell's day says."""
    row = SQL.run(connection, "figures", {"since_ms": since_ms}).one()
    return ParityFigures(int(row.differing), int(row.unread), row.checked_ms)
