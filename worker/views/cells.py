"""Cells as people look at them. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class Cell:
    """A cell: where it listens, how many sandboxes run there, how many halts it has not acknowledged."""

    cell_id: str
    url: str
    running: int
    halts_due: int


def list_cells(connection: sa.Connection) -> list[Cell]:
    """All cells, by their ids."""
    return [Cell(**row._mapping) for row in SQL.run(connection, "list")]


def cells_without_url(connection: sa.Connection) -> list[str]:
    """Cells that run sandboxes, and that nobody registered."""
    return list(SQL.run(connection, "without_url").scalars())
