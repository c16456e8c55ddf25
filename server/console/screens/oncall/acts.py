"""What is done to pushes, halts and providers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field, Size, WrongField
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.oncall.doing import asked, backfills, fleet, providers, pushes, replay, usage
from drawdown.worker.commands import orgs
from drawdown.worker.views import cells

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
    return [Fact(org, _state(require_org(connection, org)), fixed=True) for org in sorted(_orgs(doing))]


def _told(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    told = cells.told_in_words(cells.running_of(connection, _orgs(doing)))
    return [*_standing(connection, doing), Fact("Cells that are told", told, fixed=False)]


def _state(row: sa.Row[Any]) -> str:
    by = ", held by an operator" if row.operator_halt else ""
    return f"halted: {row.halt_reason}{by}" if row.is_halted else f"running{by}"


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
    _told,
    lambda doing: ["org", "halt", *_orgs(doing)],
    _go_on,
    "An operator's halt holds whatever the provider says, until it is lifted.",
    size=_size,
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
