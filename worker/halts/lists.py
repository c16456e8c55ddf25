"""List halts and the state of cells, for people. This module only reads.

Guarantee: the cost of a page does not depend on the number of halts. Drawdown reads due halts by their own index, and
all halts by the index on their time.
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
from drawdown.schema.text import counted, quote_value

SQL = queries(__file__)

PAGE_ROWS: Final = 50
MOST_AT_ONCE: Final = 1_000
"""Rows of a download that Drawdown reads into memory at a time."""
MOST_CELLS: Final = 1_000
"""Most cells that a page lists."""
NEVER: Final = 2**53
STATES: Final = ("any", "due")
PLACE: Final = re.compile(r"([0-9]{1,16}):([0-9]{1,16}):([0-9]{1,3}):(.+)", re.DOTALL)


@dataclass(frozen=True)
class Chosen:
    """A filter of halts.

    `state`: one of STATES. An empty `org` or `cell` matches all.
    """

    state: str = "any"
    org: str = ""
    cell: str = ""


@dataclass(frozen=True)
class HaltLine:
    """A halt at a cell, which is due until the cell acknowledges it.

    `ignored`: the number of acknowledgements after which its sandboxes still ran. `ignored_since_ms`: the time of the
    first of these (None: `ignored` is 0). `halted_at`: the start of the halt, in milliseconds. `due_at_ms`: the time of
    the next attempt (None: it is not due). `acked_at_ms`: the time of the last acknowledgement (None: not
    acknowledged). An ignored halt has both times.
    """

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
    """True if an operator halts the organisation now, and this is its present halt."""

    @property
    def place(self) -> str:
        """Return the value of `after` for the page that begins after this halt."""
        return f"{self.due_at_ms or 0}:{self.halted_at}:{len(self.org_id)}:{self.org_id}{self.cell_id}"


@dataclass(frozen=True)
class HaltPage:
    """A page of halts.

    `next_after`: the start of the next page (None: this is the last page).
    """

    lines: list[HaltLine]
    next_after: str | None


@dataclass(frozen=True)
class HaltFigures:
    """The figures of all due halts.

    `due`: the number of due halts. `since_ms`: the time of the oldest (None: `due` is 0). `most_tries`: the highest
    number of attempts for a halt (None: `due` is 0). `cells`: the number of cells with due halts.
    """

    due: int
    since_ms: int | None
    most_tries: int | None
    cells: int


@dataclass(frozen=True)
class CellLine:
    """A cell, with the figures of its due halts.

    `url`: None if it is not set. `running`: the number of its running sandboxes. `since_ms`: the time of the oldest due
    halt. `tries`: the highest number of attempts for a due halt. `error`: the error of one due halt (None: the attempts
    did not fail). If `halts_due` is 0, these three are None.
    """

    cell_id: str
    url: str | None
    running: int
    halts_due: int = 0
    since_ms: int | None = None
    tries: int | None = None
    error: str | None = None


def page(connection: sa.Connection, chosen: Chosen, after: str = "", most: int = PAGE_ROWS) -> HaltPage:
    """Return the page of halts after `after`.

    In the state `due`, halts are sorted by the time of their next attempt. In the state `any`, they are sorted by their
    start, the newest first. Errors: UsageError for an invalid state or `after`; UnknownId for an unknown organisation
    or cell.
    """
    if chosen.state not in STATES:
        raise UsageError(f"invalid state {quote_value(chosen.state)}: expected {', '.join(STATES)}")
    for kind, name in ((ids.ORG, chosen.org), (ids.CELL, chosen.cell)):
        if name:
            ids.require(connection, kind, name)
    values = {"org_id": chosen.org, "cell_id": chosen.cell, "at_most": most + 1, **_place(after, chosen.state)}
    rows = SQL.run(connection, "due" if chosen.state == "due" else "told", values)
    lines = [HaltLine(**{**row._mapping, "by_operator": bool(row.by_operator)}) for row in rows]
    return HaltPage(lines[:most], lines[most - 1].place if len(lines) > most else None)


def every(connection: sa.Connection, chosen: Chosen) -> Iterator[HaltLine]:
    """Yield all halts that a filter finds, in the order of pages.

    Errors: those of `page`.
    """
    after: str | None = ""
    while after is not None:
        found = page(connection, chosen, after, MOST_AT_ONCE)
        yield from found.lines
        after = found.next_after


def halt_figures(connection: sa.Connection) -> HaltFigures:
    """Return the figures of all due halts, by their index."""
    return HaltFigures(**SQL.run(connection, "figures").one()._mapping)


def cell_lines(connection: sa.Connection) -> list[CellLine]:
    """Return cells without a URL that run sandboxes, then cells with a URL.

    Each part has at most MOST_CELLS.
    """
    values = {"at_most": MOST_CELLS}
    unknown = [CellLine(row.cell_id, None, row.running) for row in SQL.run(connection, "without_url", values)]
    return [*unknown, *(CellLine(**row._mapping) for row in SQL.run(connection, "cells", values))]


def _place(after: str, state: str) -> dict[str, object]:
    """Return the SQL parameters of the halt after which a page begins.

    Errors: UsageError for an invalid `after`.
    """
    if not after:
        halted_at = -1 if state == "due" else NEVER
        return {"at_ms": -1, "after_org_id": "", "after_cell_id": "", "after_halted_at": halted_at}
    found = PLACE.fullmatch(after)
    if found is None:
        raise UsageError(
            f"invalid `after` {quote_value(after)}: expected the `next` of a page. Start at the first page"
        )
    length = int(found[3])
    return {
        "at_ms": int(found[1]),
        "after_halted_at": int(found[2]),
        "after_org_id": found[4][:length],
        "after_cell_id": found[4][length:],
    }


MOST_NAMED: Final = 20
"""Cells that a message names."""


@dataclass(frozen=True)
class Cell:
    """A cell, with the numbers of its running sandboxes and due halts."""

    cell_id: str
    url: str
    running: int
    halts_due: int


def list_cells(connection: sa.Connection) -> list[Cell]:
    """Return all cells with a URL, by their ids."""
    return [Cell(**row._mapping) for row in SQL.run(connection, "list")]


def running_of(connection: sa.Connection, org_ids: Collection[str]) -> dict[str, int]:
    """Return the number of these organisations' running sandboxes by cell.

    If these organisations are halted, Drawdown notifies the cells in the result. A cell with 0 has only hibernated or
    migrating sandboxes.
    """
    rows = SQL.run(connection, "running_of", {"org_ids": sorted(set(org_ids))})
    return {str(row.cell_id): int(row.running) for row in rows}


def told_in_words(running: Mapping[str, int]) -> str:
    """Return a text about the first cells that a halt notifies.

    `running`: the result of `running_of`.
    """
    first = ", ".join(
        f"{cell} ({counted(count, 'runs', 'run')} there)" for cell, count in list(running.items())[:MOST_NAMED]
    )
    more = len(running) - MOST_NAMED
    return (f"{first} and {more:,} more" if more > 0 else first) or "none, because all sandboxes are stopped"


def knows_sandboxes(connection: sa.Connection) -> bool:
    """Return True if hosts have reported sandboxes.

    Halts go only to cells with sandboxes.
    """
    return bool(SQL.run(connection, "any_sandbox").scalar_one())


def cells_without_url(connection: sa.Connection) -> list[str]:
    """Return the cells that have sandboxes but not a URL."""
    return list(SQL.run(connection, "cells_without_url").scalars())
