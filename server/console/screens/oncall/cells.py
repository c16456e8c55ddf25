"""Cells: where each listens, what runs there, and which halts it owes an answer to. A cell is known, or forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.schema.declare import Fact, WrongField
from drawdown.schema.errors import UsageError
from drawdown.server.console.action import Action, Doing, Done, Field
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, Shown, Table, Tile, act, shown
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.halts import cells
from drawdown.worker.halts.lists import CellLine, cell_lines, url_of_cell

PATH: Final = "/console/cells"
SET: Final = act("Say where a cell listens", "cell-set", "admin")


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    found = cell_lines(connection)
    unknown, owing = [one for one in found if one.url is None], [one for one in found if one.halts_due]
    tiles = [
        Tile("Cells", figures.count(len(found)), "that hosts or a person told of"),
        Tile("Sandboxes that run", figures.count(sum(one.running for one in found)), "on all of them"),
        Tile("Without a URL", figures.count(len(unknown)), "nobody can tell them to halt", "warn" if unknown else ""),
        Tile("Owe an answer", figures.count(len(owing)), "to a halt that is due", "warn" if owing else ""),
    ]
    heads = ("Cell", "Listens at", "#Running", "#Halts due", "Oldest, UTC", "#Tries", "Error")
    none = "No cell is known: hosts tell of theirs with their sandboxes, and a person says where each listens."
    note = "Whether a machine may call a URL is that machine's setting: `drawdown cell list` says so there."
    command = "drawdown cell list" if found else "drawdown cell set cell-1 https://cell-1.internal:8443"
    table = Table("Cells", heads, [_row(one) for one in found], none, command, note=note)
    return shown(Shown(PATH, [table], tiles=tiles, acts=[SET]))


def _links(one: CellLine) -> tuple[Link, ...]:
    change = act("Change", "cell-set", "admin", id=one.cell_id, url=one.url)
    return (change,) if one.url is None else (change, act("Forget", "cell-remove", "admin", id=one.cell_id))


def _row(one: CellLine) -> tuple[Cell, ...]:
    return (
        cells_of.cell(one.cell_id),
        replace(
            Cell("no URL", "state", "warn") if one.url is None else Cell(one.url, "id"),
            links=_links(one),
        ),
        cells_of.number(one.running),
        cells_of.number(one.halts_due),
        cells_of.time(one.since_ms, narrow=False),
        cells_of.number(one.tries, narrow=False),
        cells_of.said(one.error),
    )


YES: Final = (("no", "no"), ("yes", "yes"))


def _cell(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    return [Fact(doing.text("id"), url_of_cell(connection, doing.text("id")) or "no URL")]


def _set_cell(connection: sa.Connection, doing: Doing) -> Done:
    cell, place = doing.text("id"), doing.values["url"].strip()
    try:
        cells.set_cell(connection, cell, place, doing.by, new=doing.values["new"] == "yes")
    except UsageError as error:
        if "URL" in str(error):
            raise WrongField("url", str(error)) from None
        raise
    return Done(f"{cell}: {place}; it is called only where each machine's settings allow its origin")


def _remove_cell(connection: sa.Connection, doing: Doing) -> Done:
    cell = doing.text("id")
    was = cells.remove_cell(connection, cell, doing.by)
    return Done(f"{cell}: removed; before: {was}")


CELL: Final = Field("id", "Cell")


SET_CELL: Final = Action(
    "cell-set",
    "Say where a cell listens",
    (
        CELL,
        Field("url", "Its URL", hint="https://cell-1.internal:8443; /admin/halt-org is added."),
        Field("new", "It may be one of which nothing is known yet", "choice", choices=YES),
    ),
    _set_cell,
    _cell,
    lambda doing: [
        "cell", "set", doing.text("id"), doing.values["url"].strip(),
        *(["--new"] if doing.values["new"] == "yes" else []),
    ],
    lambda _doing: "/console/cells",
    role="admin",
)  # fmt: skip


REMOVE_CELL: Final = Action(
    "cell-remove",
    "Forget a cell",
    (CELL,),
    _remove_cell,
    _cell,
    lambda doing: ["cell", "remove", doing.text("id")],
    lambda _doing: "/console/cells",
    "It is refused while sandboxes or halts need it.",
    role="admin",
)


ACTIONS: Final = (SET_CELL, REMOVE_CELL)
