"""Show an automatic top-up with its calls to the payment service, and its actions.

Guarantee: this module never calls a payment service. Actions that may charge queue a job (`jobs`). Before a tick starts
or resumes a top-up, it checks whether the payment service fills the wallet itself. Only the command line sets terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.declare import Fact, Size, WrongField
from drawdown.server.console.action import Action, ActionResult, Doing, Field, evidence_of
from drawdown.server.console.declared import form_of
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, PageContent, Table, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.money import cells
from drawdown.server.console.screens.money.billing import pause
from drawdown.server.console.screens.money.wallet_acts import key_of
from drawdown.worker.topup import actions as topups
from drawdown.worker.topup.lists import Call, TopupRow, show_topup
from drawdown.worker.wallets.lists import terms_of

PATH: Final = "/console/topup"
MOST_CALLS: Final = 100
"""Calls of one top-up that a page shows."""


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    topup = ask.key("id") or ask.required("id")
    found, calls = show_topup(connection, topup, MOST_CALLS)
    command = cells.command("topup", "show", topup)
    return to_context(
        PageContent(
            PATH,
            [Table("Top-up", ("Field", "Value"), _facts(found), "", command), _calls(calls, command)],
            acts=pause(terms_of(connection, found.customer_id, found.customer_id), found.customer_id),
            query={"id": topup},
            above=Link(f"Billing of {found.customer_id}", url("/console/billing", id=found.customer_id)),
            heading=topup,
        )
    )


def _facts(one: TopupRow) -> list[tuple[Cell, Cell]]:
    resolve = cells.resolve(one.topup, one.state)
    state = Cell(one.state, "state", cells.TOPUP_TONES.get(one.state, ""), links=resolve)
    return [
        (Cell("State"), state),
        (Cell("Wallet"), cells.wallet(one.customer_id)),
        (Cell("Credits"), Cell(figures.exact(one.credits_micro))),
        (Cell("Money"), Cell(cells.format_money(one.money_minor, one.currency))),
        (Cell("Payment service"), Cell(one.service, "id")),
        (Cell("Payment"), Cell(one.payment_id or figures.UNKNOWN, "id")),
        (Cell("Started, UTC"), cells.time(one.at_ms)),
        (Cell("Ended, UTC"), cells.time(one.ended_ms)),
        (Cell("Calls and lookups"), Cell(f"{one.attempts:,} and {one.lookups:,}")),
        (Cell("Last message"), Cell(one.evidence or one.answer or figures.UNKNOWN, "id")),
    ]


def _calls(calls: list[Call], command: str) -> Table:
    rows = [
        (
            cells.count(one.attempt),
            cells.time(one.started_ms),
            cells.time(one.finished_ms, narrow=False),
            Cell(one.outcome, "") if one.outcome else Cell("unknown", "state", "bad"),
            Cell(one.detail or figures.UNKNOWN, "id", narrow=False),
        )
        for one in calls
    ]
    heads = ("#Call", "Started, UTC", "Ended, UTC", "Answer", "Detail")
    return Table(
        "Calls that may have taken money",
        heads,
        rows,
        "No call exists yet. The next tick makes the first call.",
        command,
    )


BECAME: Final = (("", "choose one"), ("paid", "paid"), ("absent", "not charged and never will be"))
WALLET: Final = Field("id", "Wallet", hint="Customer who owns the wallet.")


STOP: Final = next(one for one in topups.ACTIONS if one.name == "topup stop")
PAUSE: Final = form_of(STOP, title="Stop top-up", fixed={"all_": False, "undo": False})


def _switch(name: str, title: str, *, undo: bool) -> Action:
    fixed = {"customer_id": None, "all_": True, "undo": undo}
    return form_of(STOP, name=name, title=title, role="admin", place="/console/billing", fixed=fixed)


def _mode(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    return topups.facts_of_mode(connection, doing.text("id"))


def _shadow(connection: sa.Connection, doing: Doing) -> ActionResult:
    said = topups.set_mode(connection, doing.text("id"), "shadow", doing.by)
    assert said.was is not None
    left = f"; {topups.in_flight(said.open_topup)}" if said.open_topup else ""
    return ActionResult(f"{doing.text('id')}: the top-up is in shadow mode; before: {said.was.mode}{left}")


SHADOW: Final = Action(
    "topup-shadow",
    "Start top-up in shadow mode",
    (WALLET,),
    _shadow,
    _mode,
    lambda doing: ["topup", "start", doing.text("id"), "--shadow"],
    lambda doing: url("/console/billing", id=doing.text("id")),
    "Drawdown records the charges that it would make, and does not charge.",
)


def _resolve(connection: sa.Connection, doing: Doing) -> ActionResult:
    payment, evidence = _payment(doing), evidence_of(doing)
    topup = key_of(doing, "topup")
    state = topups.resolve(connection, topup, payment, evidence, doing.by)
    return ActionResult(f"{topup}: {state.replace('_', ' ')}")


def _payment(doing: Doing) -> str | None:
    """Return the payment's id; None if the payment service did not charge.

    Errors: WrongField if the outcome is paid without a payment, or not paid with one.
    """
    payment = doing.maybe("payment")
    if (doing.values["became"] == "paid") != (payment is not None):
        raise WrongField(
            "payment",
            "the payment does not match the outcome. If the top-up was paid, enter the id of its payment. Otherwise "
            "leave this field empty",
        )
    return payment


def _one(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    return topups.facts_of_topup(connection, key_of(doing, "topup"))


def _credited(connection: sa.Connection, doing: Doing) -> Size:
    return topups.size_of_topup(connection, key_of(doing, "topup"), _payment(doing))


def _resolve_command(doing: Doing) -> list[str]:
    payment = _payment(doing)
    became = ["--absent"] if payment is None else ["--paid", payment]
    return ["topup", "resolve", key_of(doing, "topup"), *became, "--evidence", evidence_of(doing)]


RESOLVE: Final = Action(
    "topup-resolve",
    "Record outcome of a top-up",
    (
        Field("topup", "Top-up"),
        Field("became", "Outcome", "choice", choices=BECAME),
        Field("payment", "Payment", hint="Payment's id at the payment service, if it was paid.", optional=True),
        Field("evidence", "Evidence", hint="Evidence of the outcome, kept for good."),
    ),
    _resolve,
    _one,
    _resolve_command,
    lambda doing: url("/console/topup", id=key_of(doing, "topup")),
    "Drawdown credits a paid amount at once. The top-up must be in doubt.",
    size=_credited,
    role="admin",
)
ACTIONS: Final = (
    PAUSE,
    SHADOW,
    _switch("topup-stop-all", "Stop all top-ups", undo=False),
    _switch("topup-start-all", "Resume all top-ups", undo=True),
    RESOLVE,
)
