"""What needs a provider is ordered: its changed settings, and an organisation that it is to bill. A tick does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema import ids
from drawdown.schema.database import Transact
from drawdown.schema.errors import Refused
from drawdown.schema.locks import lock_buckets
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field, WrongField
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Table
from drawdown.server.console.screens.oncall.doing.providers import PROVIDER
from drawdown.server.console.screens.oncall.doing.usage import EMBEDDED, FROM, YES, start_of_window
from drawdown.worker.engine.context import Context
from drawdown.worker.orders import orders
from drawdown.worker.orders.asked import Asked, AskedAccept, AskedAssign
from drawdown.worker.orgs import assignments
from drawdown.worker.provider import actions as providers

PLACE: Final = "/console/orders"
AT_ONCE: Final = "the tab Assignment of the organisation leads to the form that does it at once"
ORDERED: Final = "ordered: the next tick does it, or begins to"


def _declared(connection: sa.Connection, doing: Doing) -> Capabilities:
    """Errors: UnknownId; Refused for one that has no settings here."""
    name = doing.text("provider")
    ids.require(connection, ids.PROVIDER, name, new=True if name in doing.declared else None)
    if name not in doing.declared or name in EXEMPT_PROVIDERS:
        raise Refused(f"this server has no settings of {name}: `drawdown provider accept {name}` where it has")
    return doing.declared[name]


def _terms(connection: sa.Connection, doing: Doing) -> AskedAccept:
    return AskedAccept(doing.text("provider"), providers.terms_of(_declared(connection, doing)))


def _changes(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    asked, declared = _terms(connection, doing), _declared(connection, doing)
    moved = providers.changes(connection, asked.provider, declared)
    unsent, sent = providers.open_at(connection, asked.provider)
    return [
        *(Fact(part, f"{was}; by this server's settings {now}") for part, (was, now) in moved.items()),
        Fact("Unsent pushes, sealed anew", figures.count(unsent), fixed=False),
        Fact("Sent and not settled: these have to be none", figures.count(sent), fixed=False),
        _ordered(connection, asked),
    ]


def _ordered(connection: sa.Connection, asked: Asked) -> Fact:
    return Fact("Ordered already", "no" if orders.same_as(connection, asked) is None else "yes")


def _accept(connection: sa.Connection, doing: Doing) -> Done:
    orders.place(connection, _terms(connection, doing), doing.by)
    return Done(ORDERED)


def _assignment(connection: sa.Connection, doing: Doing) -> AskedAssign:
    """Errors: UnknownId; WrongField for a provider that is not asked first."""
    org, provider = doing.text("id"), doing.text("provider")
    ids.require_sampled_org(connection, org, new=False)
    if provider == EMBEDDED or provider in EXEMPT_PROVIDERS:
        raise WrongField("provider", f"{provider} is asked nothing: {AT_ONCE}")
    ids.require(connection, ids.PROVIDER, provider, new=True if provider in doing.declared else None)
    return AskedAssign(
        org, provider, doing.maybe("customer"), start_of_window(doing), allow_halt=doing.values["halts"] == "yes"
    )


def _assign(connection: sa.Connection, doing: Doing) -> Done:
    orders.place(connection, _assignment(connection, doing), doing.by)
    return Done(ORDERED)


def _billed(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    asked = _assignment(connection, doing)
    was = orders.latest_biller(connection, asked.org_id)
    latest = "none" if was is None else f"{was.provider} as {was.customer_id}, from {figures.time(was.start_ms)} on"
    return [
        Fact("Latest assignment", latest),
        Fact("Begins, UTC, or later", figures.time(assignments.start_of(asked.from_ms, doing.by)), fixed=False),
        _ordered(connection, asked),
    ]


def _assign_command(doing: Doing) -> list[str]:
    halts = doing.values["halts"] == "yes"
    customer, start = doing.maybe("customer"), start_of_window(doing)
    return [*AskedAssign(doing.text("id"), doing.text("provider"), customer, start, halts).command(), "--later"]


def _told(transact: Transact, context: Context, doing: Doing) -> Sequence[Table]:
    """What an assignment now would bring in; whether the customer is there, the tick asks."""
    in_ledger = [name for name, declared in context.declared().items() if declared.balance_in_ledger]

    def made(connection: sa.Connection) -> assignments.Assigned:
        asked = _assignment(connection, doing)
        start = assignments.start_of(asked.from_ms, doing.by)
        lock_buckets(connection)
        customer = asked.customer_id or ""  # as it is: the tick finds it
        org, late = asked.org_id, assignments.unseen_windows(connection, [asked.org_id])
        return assignments.assign_one(
            connection, org, asked.provider, customer, start, doing.by, in_ledger=in_ledger, unseen=late
        )

    found = transact(made, rollback=True).waited
    rows = [
        (Cell("that waited, billed there"), *_amounts(found.mended_s, found.mended_units)),
        (Cell("from before its start, billed by nobody"), *_amounts(found.before_start_s, found.before_start_units)),
    ]
    note = "Whether the customer is there is asked by the tick; without it the order fails, and nothing changes."
    return [Table("Usage", ("Usage", "#Seconds", "#Units"), rows, "", "drawdown order list", note=note)]


def _amounts(seconds: int, units: int) -> tuple[Cell, Cell]:
    return Cell(figures.count(seconds), "number"), Cell(figures.count(units), "number")


ACCEPT: Final = Action(
    "provider-accept",
    "Accept changed settings",
    (PROVIDER,),
    _accept,
    _changes,
    lambda doing: ["provider", "accept", doing.text("provider"), "--later"],
    lambda _doing: PLACE,
    "What was sealed on the old settings and never sent is sealed anew; what was billed stays where it is.",
)
ASSIGN: Final = Action(
    "assign-remote",
    "Assign elsewhere",
    (
        Field("id", "Organisation"),
        Field("provider", "Billed by", hint="autumn, stripe, or another that is asked first."),
        Field("customer", "Customer there", hint="As it is, or at first the organisation's id.", optional=True),
        FROM,
        Field("halts", "Also where it is halted at once, for lack of credit", "choice", choices=YES),
    ),
    _assign,
    _billed,
    _assign_command,
    lambda _doing: PLACE,
    "A tick asks the provider for the customer, and assigns the organisation where it is there.",
    tell=_told,
)
ACTIONS: Final = (ACCEPT, ASSIGN)
