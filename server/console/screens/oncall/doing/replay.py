"""A replay is ordered, and an order that waits is taken back. A tick does it: it takes longer than a form may."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import join
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import Transact
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import SECOND_MS
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field, WrongField
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Table
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.engine.context import Context
from drawdown.worker.orders import lists, orders
from drawdown.worker.orders.asked import AskedReplay
from drawdown.worker.replay.plan import ReplayPlan, ReplayScope, notes, plan
from drawdown.worker.replay.replay import Replayed, rehearse

PLACE: Final = "/console/orders"
TRIED_MS: Final = 4 * SECOND_MS
"""How long the dry run of a replay goes on while a page waits."""
MOST_LISTED: Final = 20
"""Of what it found, by organisation; the command line lists all."""
ALL: Final = (("no", "no"), ("yes", "yes"))


def _asked(doing: Doing) -> AskedReplay:
    """Errors: WrongField unless it is said in one way whose windows they are."""
    names, provider, all_ = doing.texts("id"), doing.text("provider"), doing.values["all"] == "yes"
    if bool(names) + bool(provider) + all_ != 1:
        raise WrongField("id", "name organisations, or a provider, or choose all: one of the three")
    start, end = doing.time("from"), doing.time("to")
    assert start is not None and end is not None  # the form insists on both
    return AskedReplay(ReplayScope(tuple(names), provider or None), start, end)


def _order(connection: sa.Connection, doing: Doing) -> Done:
    orders.place(connection, _asked(doing), doing.by)  # its number is another one each time it is tried
    return Done("ordered: the next tick does it, or begins to")


def _standing(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    same = orders.same_as(connection, _asked(doing))
    waiting = lists.count_open(connection)
    return [
        Fact("Ordered already", "no" if same is None else "yes"),
        Fact("Orders that wait, or are under way", figures.count(waiting), fixed=False),
    ]


def _command(doing: Doing) -> list[str]:
    return [*_asked(doing).command(), "--later"]


def _told(transact: Transact, context: Context, doing: Doing) -> Sequence[Table]:
    """The dry run of `drawdown replay`, as far as it comes while a page waits."""
    asked = _asked(doing)
    made = transact(lambda c: plan(c, asked.scope, asked.from_ms, asked.to_ms, doing.by.now_ms), rollback=True)
    command = join(["drawdown", *asked.command(), "--dry-run"])
    try:
        found = rehearse(transact, context.within(TRIED_MS), made, doing.by)
    except DatabaseBusy as error:
        none = (
            f"It could not be tried while a page waits ({error}). It may be ordered all the same; the command shows it."
        )
        return [_range(made, command, ""), Table("What it would seal", ("What",), [], none, command)]
    short = ""
    if found.unfinished:
        short = (
            "It is too much to try while a page waits: this is what its first part would seal. The command shows all."
        )
    return [_range(made, command, short), _found(found, command), *([_left(found, command)] if found.left_out else [])]


def _range(made: ReplayPlan, command: str, note: str) -> Table:
    rows = [
        (Cell("from, UTC"), Cell(figures.time(made.from_ms), "time")),
        (Cell("to, UTC"), Cell(figures.time(made.to_ms), "time")),
        (Cell("of"), Cell(str(made.scope), "id")),
        *((Cell(what or "note"), Cell(text, "id")) for what, text in notes(made)),
    ]
    return Table("What would be replayed", ("What", "Is"), rows, "", command, note=note)


def _found(found: Replayed, command: str) -> Table:
    rows = [
        (
            cells_of.org(one.org_id),
            Cell(one.provider, "id"),
            Cell(one.feature, "id", narrow=False),
            cells_of.number(one.pushes),
            cells_of.number(one.quantity),
            Cell(figures.exact(one.price_micro), "number", narrow=False),
        )
        for one in found.totals[:MOST_LISTED]
    ]
    heads = ("Organisation", "Provider", "Feature", "#Pushes", "#Quantity", "#Credits, by our rate card")
    all_ = f"In all {found.pushes:,} pushes, {found.quantity:,} units" if found.pushes else ""
    more = f", of {len(found.totals):,} sums the first {MOST_LISTED}" if len(found.totals) > MOST_LISTED else ""
    stopped = "".join(f" {bad.org_id} is left out: {bad.reason}." for bad in found.stopped[:MOST_LISTED])
    still = f" Sealed before, {found.to_settle}." if found.to_settle else ""
    none = f"{'Nothing more to seal' if still else 'Nothing more is owed there'}.{still}{stopped}"
    return Table(
        "What it would seal", heads, rows, none, command, note=f"{all_}{more}.{still}{stopped}" if all_ else ""
    )


def _left(found: Replayed, command: str) -> Table:
    rows = [
        (Cell(one.why), cells_of.number(one.quantity), Cell(one.unit), cells_of.number(one.windows, narrow=False))
        for one in found.left_out
    ]
    return Table("What is not among it", ("Why", "#Quantity", "Of", "#Windows"), rows, "", command)


def _number(doing: Doing) -> int:
    found = doing.number("order")
    assert found is not None  # the form insists on it
    return found


def _state(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    return [Fact("State", orders.state_of(connection, _number(doing)).replace("_", " "))]


def _cancel(connection: sa.Connection, doing: Doing) -> Done:
    orders.cancel(connection, _number(doing), doing.by)
    return Done(f"order {_number(doing)}: cancelled")


ORDER: Final = Action(
    "replay",
    "Order a replay",
    (
        Field("id", "Organisations", hint="One a line.", optional=True, many=True),
        Field("provider", "Or all that a provider bills", hint="Its name.", optional=True),
        Field("all", "Or all organisations", "choice", choices=ALL),
        Field("from", "From", "time", "UTC, as 2026-01-31 or 2026-01-31T10:00; or -2d."),
        Field("to", "To", "time", "The same."),
    ),
    _order,
    _standing,
    _command,
    lambda _doing: PLACE,
    "A past range is sealed again, and what it still owes is sent. What is billed already is not billed again.",
    tell=_told,
)
CANCEL: Final = Action(
    "order-cancel",
    "Cancel the order",
    (Field("order", "Order", "number"),),
    _cancel,
    _state,
    lambda doing: ["order", "cancel", str(_number(doing))],
    lambda _doing: PLACE,
    "What its replay has sealed by then stays sealed.",
)
ACTIONS: Final = (ORDER, CANCEL)
