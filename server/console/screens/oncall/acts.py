"""What is done to pushes, halts and providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.schema.database import Transact
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field, Size, WrongField
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Table
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.oncall import cells_of
from drawdown.server.console.screens.oncall.doing import asked, backfills, fleet, providers, pushes, replay, usage
from drawdown.worker.engine.context import Context
from drawdown.worker.halts import lists as cells
from drawdown.worker.orgs import actions as orgs

ORGS: Final = Field("id", "Organisations", hint="One a line.", many=True)


def _orgs(doing: Doing) -> list[str]:
    found = doing.texts("id")
    if not found:
        raise WrongField("id", "name one organisation at least")
    return found


def _halt(connection: sa.Connection, doing: Doing) -> Done:
    done = orgs.halt(connection, _orgs(doing), doing.by)
    new = sum(not one.before for one in done)
    if not new:
        return Done("nothing changes: an operator's halt holds each of them already")
    return Done(f"{new:,} halted; their cells are told by the next round of the watch, or tick")


def _lift(connection: sa.Connection, doing: Doing) -> Done:
    done = orgs.halt(connection, _orgs(doing), doing.by, undo=True)
    lifted = sum(one.before for one in done)
    if not lifted:
        return Done("nothing changes: no operator's halt holds any of them")
    return Done(f"{lifted:,} halted by an operator no longer; the next tick asks their providers again")


def _standing(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    return _states({org: require_org(connection, org) for org in sorted(_orgs(doing))})


def _states(rows: Mapping[str, sa.Row[Any]]) -> list[Fact]:
    return [Fact(org, _state(row), fixed=True) for org, row in rows.items()]


def _stopped(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    """Their states, and how many sandboxes run of those that are not halted: a halt stops each of these."""
    rows = {org: require_org(connection, org) for org in sorted(_orgs(doing))}
    running = sum(cells.running_of(connection, [org for org, row in rows.items() if not row.is_halted]).values())
    return [*_states(rows), Fact("Sandboxes that run on", figures.count(running), fixed=False)]


def _told(transact: Transact, _context: Context, doing: Doing) -> Sequence[Table]:
    """Which cells are told of a halt: those where something of theirs runs."""
    running = transact(lambda c: cells.running_of(c, _orgs(doing)))
    most = sorted(running.items(), key=lambda one: (-one[1], one[0]))
    rows = [(cells_of.cell(cell), cells_of.number(count)) for cell, count in most[: cells.MOST_NAMED]]
    note = f"and {len(most) - len(rows):,} more cells" if len(most) > len(rows) else ""
    none = "No cell is told: nothing of theirs runs."
    return [Table("Cells that are told", ("Cell", "#Sandboxes"), rows, none, "drawdown cell list", note=note)]


def _state(row: sa.Row[Any]) -> str:
    if not row.is_halted:
        return "running, held by an operator" if row.operator_halt else "running"
    if row.halt_reason == "operator":
        return "halted by an operator" if row.operator_halt else "halted until its provider is asked"
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
    "An operator's halt holds whatever the provider says, until it is lifted.",
    size=_size,
    tell=_told,
)
LIFT: Final = Action(
    "lift",
    "Lift the halt",
    (ORGS,),
    _lift,
    _standing,
    lambda doing: ["org", "halt", *_orgs(doing), "--undo"],
    _go_on,
    "The provider's verdict counts again; the next tick asks for it.",
    size=_size,
)
ACTIONS: Final = (
    HALT, LIFT, *pushes.ACTIONS, *providers.ACTIONS, *fleet.ACTIONS, *usage.ACTIONS, *backfills.ACTIONS,
    *replay.ACTIONS, *asked.ACTIONS,
)  # fmt: skip
