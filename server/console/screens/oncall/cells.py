"""Show the cells: their URLs, their sandboxes, and their unacknowledged halts.

A person sets the URL of a cell, or forgets the cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, PageContent, Table, Tile, act, to_context
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.halts.lists import CellLine, cell_lines

PATH: Final = "/console/cells"
SET: Final = act("Set the URL of a cell", "cell-set", "admin")


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    found = cell_lines(connection)
    unknown, owing = [one for one in found if one.url is None], [one for one in found if one.halts_due]
    tiles = [
        Tile("Cells", figures.count(len(found)), "known from hosts or added by a person"),
        Tile("Running sandboxes", figures.count(sum(one.running for one in found)), "on all cells"),
        Tile("Cells without a URL", figures.count(len(unknown)), "no halt can be sent", "warn" if unknown else ""),
        Tile("Unacknowledged halts", figures.count(len(owing)), "cells with a due halt", "warn" if owing else ""),
    ]
    heads = ("Cell", "URL", "#Running", "#Halts due", "Oldest due, UTC", "#Attempts", "Error")
    none = "No cell exists yet. Hosts report their cell with their sandboxes. Set the URL of each cell."
    note = "A machine calls only URLs that DRAWDOWN_CELL_ORIGINS allows. To see them, run `drawdown cell list` there."
    command = "drawdown cell list" if found else "drawdown cell set cell-1 https://cell-1.internal:8443"
    table = Table("Cells", heads, [_row(one) for one in found], none, command, note=note)
    return to_context(PageContent(PATH, [table], tiles=tiles, acts=[SET]))


def _links(one: CellLine) -> tuple[Link, ...]:
    change = act("Change", "cell-set", "admin", cell=one.cell_id, url=one.url)
    return (change,) if one.url is None else (change, act("Forget", "cell-remove", "admin", cell=one.cell_id))


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
        cells_of.text_cell(one.error),
    )
