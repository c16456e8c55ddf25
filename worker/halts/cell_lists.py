"""Cells as people look at them. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)

MOST_NAMED: Final = 20
"""Cells that a sentence names."""


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


def running_of(connection: sa.Connection, org_ids: Collection[str]) -> dict[str, int]:
    """How many sandboxes of these organisations run in which cells: those are told where one of them is halted."""
    rows = SQL.run(connection, "running_of", {"org_ids": sorted(set(org_ids))})
    return {str(row.cell_id): int(row.running) for row in rows}


def told_in_words(running: Mapping[str, int]) -> str:
    """Which cells are told of a halt, as `running_of` has them: the first of many."""
    first = ", ".join(f"{cell} ({count:,} run there)" for cell, count in list(running.items())[:MOST_NAMED])
    more = len(running) - MOST_NAMED
    return (f"{first} and {more:,} more" if more > 0 else first) or "none, for nothing of theirs runs"


def knows_sandboxes(connection: sa.Connection) -> bool:
    """Whether hosts say where sandboxes are: halts go there, and nowhere else."""
    return bool(SQL.run(connection, "any_sandbox").scalar_one())


def cells_without_url(connection: sa.Connection) -> list[str]:
    """Cells that run sandboxes, and that nobody registered."""
    return list(SQL.run(connection, "without_url").scalars())
