"""What is done about suppliers: freezes, reversals, batches; and what was told of balances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.payouts import period_of
from drawdown.schema import ids
from drawdown.schema.audit import require_org
from drawdown.schema.typed.parsing import show_credits, type_credits
from drawdown.schema.units import show_quantity
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field, Size
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.templates import url
from drawdown.worker.push import actions as balances
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.lists import account_of_supplier, show_settlement, unpaid

SUPPLIER: Final = Field("supplier", "Supplier")
RUN: Final = Field("run", "Run", hint="The key of the run that the settlement is for.")


def _supplier(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    found = account_of_supplier(connection, doing.text("supplier"), doing.by.now_ms)
    return [
        Fact("Released to it", "frozen" if found.is_frozen else "open"),
        Fact("Eligible", figures.exact(found.sums.eligible_micro)),
        Fact("Frozen", figures.exact(found.sums.frozen_micro)),
        Fact("On hold", figures.exact(found.sums.hold_micro), fixed=False),
        Fact("Released", figures.exact(found.sums.released_micro)),
        Fact("To be clawed back", figures.exact(found.sums.carried_micro)),
    ]


def _settlement(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    found, _, freezes = show_settlement(connection, doing.text("run"), doing.by.now_ms, 100)
    frozen = any(one.ended_ms is None for one in freezes)
    return [
        Fact("State", found.state),
        Fact("Frozen", "yes" if frozen else "no"),
        Fact("Owed", figures.exact(found.owed_micro)),
        Fact("Clawed back", figures.exact(found.clawed_back_micro)),
    ]


def _freezing(undo: bool) -> tuple[Action, Action]:
    """Of one settlement, and of all of a supplier."""
    verb, said = ("unfreeze", "not frozen any more") if undo else ("freeze", "frozen")
    option = ["--undo"] if undo else []

    def one(connection: sa.Connection, doing: Doing) -> Done:
        found, changed = settlements.freeze(connection, doing.text("run"), doing.by, undo=undo)
        before = "" if changed else " before; nothing changes"
        return Done(f"{doing.text('run')}: {said}{before}; its state is {found.state}")

    def whole(connection: sa.Connection, doing: Doing) -> Done:
        changed = settlements.freeze_supplier(connection, doing.text("supplier"), doing.by, undo=undo)
        return Done(f"{doing.text('supplier')}: {said}{'' if changed else ' before; nothing changes'}")

    what = "It goes into a batch again." if undo else "Nothing of it is released until it is undone."
    return (
        Action(
            f"settlement-{verb}", f"{verb.capitalize()} a settlement", (RUN,), one, _settlement,
            lambda doing: ["settlement", "freeze", doing.text("run"), *option],
            lambda doing: url("/console/settlement", key=doing.text("run")), what,
        ),
        Action(
            f"supplier-{verb}", f"{verb.capitalize()} a supplier", (SUPPLIER,), whole, _supplier,
            lambda doing: ["supplier", "freeze", doing.text("supplier"), *option],
            lambda doing: url("/console/settlements", supplier=doing.text("supplier")), what,
        ),
    )  # fmt: skip


def _reverse(connection: sa.Connection, doing: Doing) -> Done:
    done = settlements.reverse(connection, doing.text("run"), doing.key, doing.credits("amount"), doing.by)
    how = "to be taken off the next batch" if done.reversal.is_clawback else "no longer owed"
    left = show_credits(done.settlement.left_micro)
    return Done(f"{doing.text('run')}: {show_credits(done.reversal.amount_micro)} credits are {how}; {left} are left")


def _taken(connection: sa.Connection, doing: Doing) -> Size:
    """As much is taken from a supplier as is said, or as is left."""
    amount = doing.credits("amount")
    if amount is None:
        amount = show_settlement(connection, doing.text("run"), doing.by.now_ms, 1)[0].left_micro
    return Size(taken_micro=amount)


def _reverse_command(doing: Doing) -> list[str]:
    amount = doing.credits("amount")
    some = [] if amount is None else ["--amount", type_credits(amount)]
    return ["settlement", "reverse", doing.text("run"), *some, "--key", doing.key]


REVERSE: Final = Action(
    "settlement-reverse",
    "Take back a settlement",
    (RUN, Field("amount", "Credits", "credits", "All that is left where it is empty.", optional=True)),
    _reverse,
    _settlement,
    _reverse_command,
    lambda doing: url("/console/settlement", key=doing.text("run")),
    "What its supplier is owed for the run is less by it. The customer is given nothing back by this.",
    size=_taken,
)


def _batch(connection: sa.Connection, doing: Doing) -> Done:
    made, repeated = settlements.batch(
        connection, doing.text("supplier"), _period(doing), doing.by, doing.credits("expect")
    )
    owed = unpaid(connection, made.payout)
    text = f"{made.payout}: {show_credits(made.total_micro)} credits to be paid, {made.lines:,} lines"
    text += f"; {show_credits(owed)} of it are for runs of wallets that owe by now" if owed else ""
    return Done(text + ("; it was made before: nothing changes" if repeated else ""))


def _period(doing: Doing) -> str:
    return doing.text("period") or period_of(doing.by.now_ms)


def _batch_command(doing: Doing) -> list[str]:
    expect = type_credits(doing.credits("expect") or 0)
    return ["settlement", "batch", doing.text("supplier"), "--period", _period(doing), "--expect", expect]


def _of_batch(_connection: sa.Connection, doing: Doing) -> Size:
    """What is handed over is as much as what is given."""
    return Size(micro=max(doing.credits("expect") or 0, 0))


BATCH: Final = Action(
    "settlement-batch",
    "Release a batch",
    (
        SUPPLIER,
        Field("period", "Month", hint="2026-01; this month where it is empty.", optional=True),
        Field("expect", "It comes to, credits", "credits", "What is eligible, less what is to be clawed back."),
    ),
    _batch,
    _supplier,
    _batch_command,
    lambda doing: url("/console/settlements", supplier=doing.text("supplier")),
    "What is eligible now is released, once a month, above the supplier's threshold. Nothing is paid here.",
    size=_of_batch,
)


def _acknowledge(connection: sa.Connection, doing: Doing) -> Done:
    org = doing.text("org")
    require_org(connection, org)
    seen = balances.acknowledge(connection, org, doing.by)
    return Done(f"{org}: {len(seen):,} differences that were told are acknowledged")


def _told(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    ids.require(connection, ids.ORG, doing.text("org"))
    found = balances.told(connection, doing.text("org"))
    return [
        Fact(f"{row.provider}, {row.feature}", show_quantity(int(row.told_qty), int(row.scale), sign=True))
        for row in found
    ]


ACKNOWLEDGE: Final = Action(
    "reconcile-acknowledge",
    "Acknowledge what was told",
    (Field("org", "Organisation"),),
    _acknowledge,
    _told,
    lambda doing: ["reconcile", doing.text("org"), "--acknowledge"],
    lambda _doing: "/console/reconcile",
    "Somebody has seen to what was told of its balances. Nothing is compared, and nothing corrected.",
)
ACTIONS: Final = (*_freezing(False), *_freezing(True), REVERSE, BATCH, ACKNOWLEDGE)
