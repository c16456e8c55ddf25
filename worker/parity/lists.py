"""The last results of parity, and its figures behind the metrics.

Reads only: the checks of the last days, by their key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)

MOST_FOUND: Final = 100
"""Lines that a list shows of cells' days, and of organisations' days that differ."""


@dataclass(frozen=True)
class ParityFigures:
    """Figures of parity.

    `differing`: organisations' days from `since_ms` on that differ. `unread`: cells' days from then on that could not
    be read. `checked_ms`: the last comparison of any day; None: never.
    """

    differing: int
    unread: int
    checked_ms: int | None


def parity_figures(connection: sa.Connection, since_ms: int) -> ParityFigures:
    """As the last check of each cell's day says."""
    row = SQL.run(connection, "figures", {"since_ms": since_ms}).one()
    return ParityFigures(int(row.differing), int(row.unread), row.checked_ms)


@dataclass(frozen=True)
class ParityLine:
    """Seconds of one day at a cell ('': all cells), by samples and by the cell itself; `org_id` '': of the whole cell.
    None is unknown, and never nothing."""

    day_ms: int
    cell_id: str
    org_id: str
    ours_s: int | None
    theirs_s: int | None
    withdrawn_s: int
    off_s: int | None
    ppm: int | None
    verdict: str
    at_ms: int


def parity_found(connection: sa.Connection, since_ms: int) -> tuple[list[ParityLine], list[ParityLine]]:
    """Cells' days from a moment on, and what of them differs or is unknown; the latest first."""
    values = {"since_ms": since_ms, "at_most": MOST_FOUND}
    cells, found = (
        [ParityLine(**row._mapping) for row in SQL.run(connection, name, values)] for name in ("cells", "found")
    )
    return cells, found
