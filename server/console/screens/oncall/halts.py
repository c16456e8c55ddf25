"""Show halts with their cells, organisations and acknowledgements.

Ignored halts come first. An operator can halt an organisation, or lift the halt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.schema.database import Transact
from drawdown.schema.declare import Fact, Size, WrongField
from drawdown.schema.text import counted
from drawdown.server.console.action import Action, ActionResult, Doing, Field
from drawdown.server.console.csv_lines import csv_line
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Filter, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.shard import Shard
from drawdown.worker.halts import lists as cells
from drawdown.worker.halts import lists as halt_list
from drawdown.worker.halts.ignored_halts import Ignored, ignored_halts
from drawdown.worker.halts.lists import STATES, Chosen, HaltLine
from drawdown.worker.orgs import actions as orgs

PATH: Final = "/console/halts"
MOST_UNHEEDED: Final = 100
"""Ignored halts that a page lists.

A person must act on each.
"""
COLUMNS: Final = ("org_id", "cell_id", "halted_at", "due_at", "acked_at", "last_error", "attempts", "ignored")


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    chosen = _chosen(ask)
    found = halt_list.page(connection, chosen, ask.key("after"))
    due, ignored = halt_list.halt_figures(connection), ignored_halts(connection, Shard())
    query = {name: ask.query[name] for name in ("state", "org", "cell") if ask.query.get(name)}
    listed = Table(
        "Due halts, not acknowledged yet" if chosen.state == "due" else "Halts sent to cells, the newest first",
        ("Halted, UTC", "Organisation", "Cell", "Answer", "#Attempts", "Error"),
        [_row(one) for one in found.lines],
        "No halt matches the filter." if query else "No cell received a halt yet.",
        "drawdown org list --state halted",
        next="" if found.next_after is None else url(PATH, **query, after=found.next_after),
        first=url(PATH, **query) if ask.key("after") else "",
    )
    tables = [_ignored(ignored), listed] if ignored and not ask.query.get("after") else [listed]
    since = "none due" if due.since_ms is None else f"since {figures.time(due.since_ms)}"
    tiles = [
        Tile("Due halts", figures.count(due.due), since, "warn" if due.due else "", url(PATH, state="due")),
        Tile(
            "Cells without acknowledgement",
            figures.count(due.cells),
            f"at most {counted(due.most_tries or 0, 'attempt')}",
            "warn" if due.cells else "",
        ),
        Tile(
            "Ignored halts", figures.count(len(ignored)), "acknowledged, sandboxes still run", "bad" if ignored else ""
        ),
    ]
    filters = (
        Filter(
            "state",
            "State",
            "" if chosen.state == "any" else chosen.state,
            [("", "all"), ("due", "due")],
        ),
        Filter("org", "Organisation", chosen.org),
        Filter("cell", "Cell", chosen.cell),
    )
    return to_context(
        PageContent(PATH, tables, tiles=tiles, filters=filters, query=query, file=url(f"{PATH}.csv", **query))
    )


def csv_lines(connection: sa.Connection, ask: Ask) -> Iterator[str]:
    """Yield the halts of the filter."""
    yield csv_line(COLUMNS)
    for one in halt_list.every(connection, _chosen(ask)):
        times = [None if ms is None else figures.iso(ms) for ms in (one.halted_at, one.due_at_ms, one.acked_at_ms)]
        yield csv_line((one.org_id, one.cell_id, *times, one.last_error), (one.attempts, one.ignored))


def _chosen(ask: Ask) -> Chosen:
    return Chosen(ask.choice("state", STATES), ask.text("org"), ask.text("cell"))


def _row(one: HaltLine) -> tuple[Cell, ...]:
    links = (act("Lift", "lift", id=one.org_id),) if one.by_operator else ()
    return (
        cells_of.time(one.halted_at),
        replace(cells_of.org(one.org_id, "halts"), links=links),
        cells_of.cell(one.cell_id),
        cells_of.answer_cell(one.halted_at, one.acked_at_ms, one.due_at_ms),
        cells_of.number(one.attempts, narrow=False),
        cells_of.text_cell(one.last_error),
    )


def _ignored(found: list[Ignored]) -> Table:
    rows = [
        (
            cells_of.time(one.since_ms, narrow=False),
            cells_of.org(one.org_id, "halts"),
            cells_of.cell(one.cell_id),
            Cell("ignored", "state", "bad"),
            cells_of.number(one.times),
        )
        for one in found[:MOST_UNHEEDED]
    ]
    heads = ("Since, UTC", "Organisation", "Cell", "State", "#Times")
    return Table("Ignored halts: stop the sandboxes on their hosts", heads, rows, "", "ops/runbooks/cell-gone.md")


ORGS: Final = Field("id", "Organisations", hint="Organisation ids, one on each line.", many=True)


def _orgs(doing: Doing) -> list[str]:
    found = doing.texts("id")
    if not found:
        raise WrongField("id", "specify at least one organisation")
    return found


def _halt(connection: sa.Connection, doing: Doing) -> ActionResult:
    done = orgs.halt(connection, _orgs(doing), doing.by)
    new = sum(not one.before for one in done)
    if not new:
        return ActionResult("no change: each organisation already has an operator's halt")
    return ActionResult(f"{new:,} halted; the next watch round or tick notifies their cells")


def _lift(connection: sa.Connection, doing: Doing) -> ActionResult:
    done = orgs.halt(connection, _orgs(doing), doing.by, undo=True)
    lifted = sum(one.before for one in done)
    if not lifted:
        return ActionResult("no change: none of the organisations has an operator's halt")
    return ActionResult(f"{lifted:,} no longer halted by an operator; the next tick asks their providers again")


def _standing(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    return _states({org: require_org(connection, org) for org in sorted(_orgs(doing))})


def _states(rows: Mapping[str, sa.Row[Any]]) -> list[Fact]:
    return [Fact(org, _state(row), fixed=True) for org, row in rows.items()]


def _stopped(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    """Return the organisations' states, and the number of sandboxes that a halt stops.

    The number covers only organisations that are not halted yet.
    """
    rows = {org: require_org(connection, org) for org in sorted(_orgs(doing))}
    running = sum(cells.running_of(connection, [org for org, row in rows.items() if not row.is_halted]).values())
    return [*_states(rows), Fact("Running sandboxes", figures.count(running), fixed=False)]


def _preview(transact: Transact, _context: Context, doing: Doing) -> Sequence[Table]:
    """Return the cells with sandboxes of the organisations.

    These cells receive the halt.
    """
    running = transact(lambda c: cells.running_of(c, _orgs(doing)))
    most = sorted(running.items(), key=lambda one: (-one[1], one[0]))
    rows = [(cells_of.cell(cell), cells_of.number(count)) for cell, count in most[: cells.MOST_NAMED]]
    note = f"and {counted(len(most) - len(rows), 'more cell')}" if len(most) > len(rows) else ""
    none = "The organisations' sandboxes are all stopped, so cells do not need a halt."
    return [Table("Notified cells", ("Cell", "#Sandboxes"), rows, none, "drawdown cell list", note=note)]


def _state(row: sa.Row[Any]) -> str:
    if not row.is_halted:
        return "running, under an operator's halt" if row.operator_halt else "running"
    if row.halt_reason == "operator":
        return "halted by an operator" if row.operator_halt else "halted until the next read at its provider"
    return f"halted: {row.halt_reason}" + (", and by an operator" if row.operator_halt else "")


def _go_on(doing: Doing) -> str:
    found = doing.texts("id")
    return url("/console/org", id=found[0], tab="halts") if len(found) == 1 else "/console/orgs?state=halted"


def _size(_connection: sa.Connection, doing: Doing) -> Size:
    return Size(rows=len(_orgs(doing)))


HALT: Final = Action(
    "halt",
    "Halt",
    (ORGS,),
    _halt,
    _stopped,
    lambda doing: ["org", "halt", *_orgs(doing)],
    _go_on,
    "The halt stays in force until you lift it, regardless of the provider's verdict.",
    size=_size,
    tell=_preview,
)
LIFT: Final = Action(
    "lift",
    "Lift the halt",
    (ORGS,),
    _lift,
    _standing,
    lambda doing: ["org", "halt", *_orgs(doing), "--undo"],
    _go_on,
    "The provider's verdict is in force again. The next tick reads it.",
    size=_size,
)
ACTIONS: Final = (HALT, LIFT)
