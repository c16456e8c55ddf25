"""Halts as people read them: which cell was notified of which organisation, its answer, and the state of cells.

Reads only.

Guarantee: a page costs the same however many halts there were. Due halts are read by their index, all halts by the
index on their time.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries

SQL = queries(__file__)

PAGE_ROWS: Final = 50
MOST_AT_ONCE: Final = 1_000
"""Rows of a download that Drawdown reads, and keeps in memory, at a time."""
MOST_CELLS: Final = 1_000
"""Cells on a page."""
NEVER: Final = 2**53
STATES: Final = ("any", "due")
PLACE: Final = re.compile(r"([0-9]{1,16}):([0-9]{1,16}):([0-9]{1,3}):(.+)", re.DOTALL)


@dataclass(frozen=True)
class Chosen:
    """Which halts. Empty: any organisation, any cell."""

    state: str = "any"
    org: str = ""
    cell: str = ""


@dataclass(frozen=True)
class HaltLine:
    """One halt at one cell: due until it is acknowledged; `ignored`: how often sandboxes ran on all the same."""

    org_id: str
    cell_id: str
    halted_at: int
    due_at_ms: int | None
    acked_at_ms: int | None
    attempts: int
    ignored: int
    ignored_since_ms: int | None
    last_error: str | None
    by_operator: bool = False
    """True if an operator's halt holds it now, and this is the newest of its organisation."""

    @property
    def place(self) -> str:
        """Where the next page begins behind it."""
        return f"{self.due_at_ms or 0}:{self.halted_at}:{len(self.org_id)}:{self.org_id}{self.cell_id}"


@dataclass(frozen=True)
class HaltPage:
    """`next_after`: where the next page begins; None where there is no more."""

    lines: list[HaltLine]
    next_after: str | None


@dataclass(frozen=True)
class HaltFigures:
    """Figures of all due halts."""

    due: int
    since_ms: int | None
    most_tries: int | None
    cells: int


@dataclass(frozen=True)
class CellLine:
    """A cell; of the halts that are due there: how many, since when, how often tried, and an error that one met.
    `url` None: nobody said where it listens."""

    cell_id: str
    url: str | None
    running: int
    halts_due: int = 0
    since_ms: int | None = None
    tries: int | None = None
    error: str | None = None


def page(connection: sa.Connection, chosen: Chosen, after: str = "", most: int = PAGE_ROWS) -> HaltPage:
    """Those behind `after`: of what is due, what was tried longest ago first; else the newest. Errors: UsageError,
    UnknownId."""
    if chosen.state not in STATES:
        raise UsageError(f"invalid state: expected {', '.join(STATES)}")
    for kind, name in ((ids.ORG, chosen.org), (ids.CELL, chosen.cell)):
        if name:
            ids.require(connection, kind, name)
    values = {"org_id": chosen.org, "cell_id": chosen.cell, "at_most": most + 1, **_place(after, chosen.state)}
    rows = SQL.run(connection, "due" if chosen.state == "due" else "told", values)
    lines = [HaltLine(**{**row._mapping, "by_operator": bool(row.by_operator)}) for row in rows]
    return HaltPage(lines[:most], lines[most - 1].place if len(lines) > most else None)


def every(connection: sa.Connection, chosen: Chosen) -> Iterator[HaltLine]:
    """All of them, in the order of pages."""
    after: str | None = ""
    while after is not None:
        found = page(connection, chosen, after, MOST_AT_ONCE)
        yield from found.lines
        after = found.next_after


def halt_figures(connection: sa.Connection) -> HaltFigures:
    """By the index on what is due."""
    return HaltFigures(**SQL.run(connection, "figures").one()._mapping)


def cell_lines(connection: sa.Connection) -> list[CellLine]:
    """All cells, those first that run sandboxes and that nobody registered; MOST_CELLS of each."""
    values = {"at_most": MOST_CELLS}
    unknown = [CellLine(row.cell_id, None, row.running) for row in SQL.run(connection, "without_url", values)]
    return [*unknown, *(CellLine(**row._mapping) for row in SQL.run(connection, "cells", values))]


def _place(after: str, state: str) -> dict[str, object]:
    """Behind which halt a page begins. Errors: UsageError."""
    if not after:
        halted_at = -1 if state == "due" else NEVER
        return {"at_ms": -1, "after_org_id": "", "after_cell_id": "", "after_halted_at": halted_at}
    found = PLACE.fullmatch(after)
    if found is None:
        raise UsageError("invalid after: expected the `next` of a page. Start at the first page")
    length = int(found[3])
    return {
        "at_ms": int(found[1]),
        "after_halted_at": int(found[2]),
        "after_org_id": found[4][:length],
        "after_cell_id": found[4][length:],
    }


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
    """Return the number of these organisations' sandboxes in each cell: those cells are notified if one is halted."""
    rows = SQL.run(connection, "running_of", {"org_ids": sorted(set(org_ids))})
    return {str(row.cell_id): int(row.running) for row in rows}


def told_in_words(running: Mapping[str, int]) -> str:
    """Which cells are notified of a halt, as `running_of` has them: the first of many."""
    first = ", ".join(f"{cell} ({count:,} run there)" for cell, count in list(running.items())[:MOST_NAMED])
    more = len(running) - MOST_NAMED
    return (f"{first} and {more:,} more" if more > 0 else first) or "none, because no sandbox runs"


def knows_sandboxes(connection: sa.Connection) -> bool:
    """Return True if hosts report the places of sandboxes: halts go only there."""
    return bool(SQL.run(connection, "any_sandbox").scalar_one())


def cells_without_url(connection: sa.Connection) -> list[str]:
    """Cells that run sandboxes, and that nobody registered."""
    return list(SQL.run(connection, "cells_without_url").scalars())
