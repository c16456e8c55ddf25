"""List the last results of parity, and read its figures for metrics.

This module only reads the checks of the last days, by their key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)

MOST_FOUND: Final = 100
"""Most rows of each list of days.

One list has the cell-days, and the other list has the organisation-days that differ.
"""


@dataclass(frozen=True)
class ParityFigures:
    """The figures of parity.

    `differing`: the number of organisations' days that differ. `unread`: the number of cells' days that could not be
    read. `checked_ms`: the time of the last comparison of any day; None: never.
    """

    differing: int
    unread: int
    checked_ms: int | None


def parity_figures(connection: sa.Connection, since_ms: int) -> ParityFigures:
    """Return the figures of days from `since_ms` on, by their last checks."""
    row = SQL.run(connection, "figures", {"since_ms": since_ms}).one()
    return ParityFigures(int(row.differing), int(row.unread), row.checked_ms)


@dataclass(frozen=True)
class ParityLine:
    """A day at a cell: seconds by samples, and by the cell itself.

    `cell_id`: '' for all cells. `org_id`: '' for the whole cell. `ours_s`, `theirs_s`: the seconds by samples, and by
    the cell (None: unknown). `off_s`: the sum of the differences of all sizes. `ppm`: this sum in parts per million of
    the larger sides. `off_s` and `ppm` are None if a difference was not computed. `withdrawn_s`: seconds of withdrawn
    samples.
    """

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
    """Return cells' days from `since_ms` on, and organisations' days that differ.

    The second list also has unknown days, of whole cells, too. The latest days come first. Each list has at most
    MOST_FOUND days.
    """
    values = {"since_ms": since_ms, "at_most": MOST_FOUND}
    cells, found = (
        [ParityLine(**row._mapping) for row in SQL.run(connection, name, values)] for name in ("cells", "found")
    )
    return cells, found
