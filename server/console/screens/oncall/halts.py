"""Halts: what is due and what is not heeded first; which cell was told of which organisation, and what it said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.csv_lines import csv_line
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.engine.context import Shard
from drawdown.worker.halts import lists as halt_list
from drawdown.worker.halts.dispatch import Unheeded, unheeded
from drawdown.worker.halts.lists import STATES, Chosen, HaltLine

PATH: Final = "/console/halts"
MOST_UNHEEDED: Final = 100
"""That are shown: a person is needed for each."""
COLUMNS: Final = ("org_id", "cell_id", "halted_at", "due_at", "acked_at", "last_error", "attempts", "unheeded")


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen = _chosen(ask)
    found = halt_list.page(connection, chosen, ask.key("after"))
    due, ignored = halt_list.halt_figures(connection), unheeded(connection, Shard())
    query = {name: ask.query[name] for name in ("state", "org", "cell") if ask.query.get(name)}
    listed = Table(
        "Due: no cell acknowledged them" if chosen.state == "due" else "What cells were told, the newest first",
        ("Halted, UTC", "Organisation", "Cell", "Answer", "#Tries", "Error"),
        [_row(one) for one in found.lines],
        "No halt is like that." if query else "No cell was ever told to halt an organisation.",
        "drawdown org list --state halted",
        next="" if found.next_after is None else url(PATH, **query, after=found.next_after),
        first=url(PATH, **query) if ask.key("after") else "",
    )
    tables = [_unheeded(ignored), listed] if ignored and not ask.query.get("after") else [listed]
    since = "none waits" if due.since_ms is None else f"since {figures.time(due.since_ms)}"
    tiles = [
        Tile("Due", figures.count(due.due), since, "warn" if due.due else "", url(PATH, state="due")),
        Tile(
            "Cells that owe an answer",
            figures.count(due.cells),
            f"tried {due.most_tries or 0:,} times at most",
            "warn" if due.cells else "",
        ),
        Tile("Not heeded", figures.count(len(ignored)), "acknowledged, and sandboxes run on", "bad" if ignored else ""),
    ]
    filters = (
        Filter(
            "state",
            "Which",
            "" if chosen.state == "any" else chosen.state,
            [("", "all that were told"), ("due", "due")],
        ),
        Filter("org", "Organisation", chosen.org),
        Filter("cell", "Cell", chosen.cell),
    )
    return shown(Shown(PATH, tables, tiles=tiles, filters=filters, query=query, file=url(f"{PATH}.csv", **query)))


def lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Exactly those of the filter."""
    yield csv_line(COLUMNS)
    for one in halt_list.every(connection, _chosen(ask)):
        times = [None if ms is None else figures.iso(ms) for ms in (one.halted_at, one.due_at_ms, one.acked_at_ms)]
        yield csv_line((one.org_id, one.cell_id, *times, one.last_error), (one.attempts, one.unheeded))


def _chosen(ask: Ask) -> Chosen:
    return Chosen(ask.choice("state", STATES), ask.text("org"), ask.text("cell"))


def _row(one: HaltLine) -> tuple[Cell, ...]:
    links = (act("Lift", "lift", id=one.org_id),) if one.by_operator else ()
    return (
        cells_of.time(one.halted_at),
        replace(cells_of.org(one.org_id, "halts"), links=links),
        cells_of.cell(one.cell_id),
        cells_of.told(one.halted_at, None if one.due_at_ms is not None else one.acked_at_ms),
        cells_of.number(one.attempts, narrow=False),
        cells_of.said(one.last_error),
    )


def _unheeded(found: list[Unheeded]) -> Table:
    rows = [
        (
            cells_of.time(one.since_ms, narrow=False),
            cells_of.org(one.org_id, "halts"),
            cells_of.cell(one.cell_id),
            Cell("unheeded", "state", "bad"),
            cells_of.number(one.times),
        )
        for one in found[:MOST_UNHEEDED]
    ]
    heads = ("Since, UTC", "Organisation", "Cell", "State", "#Times")
    return Table("Not heeded: stop them on their hosts", heads, rows, "", "ops/runbooks/cell-gone.md")
