"""What a payment service is asked of first is ordered: another card, and a start that charges. A tick does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.server.console.acting.action import Action, Doing, Done, Fact
from drawdown.server.console.frame import figures
from drawdown.server.console.screens.money.acts.topups import WALLET
from drawdown.worker.orders import orders
from drawdown.worker.orders.asked import AskedTopup
from drawdown.worker.views.topups import show_wallet, switched

PLACE: Final = "/console/orders"
ORDERED: Final = "ordered: the next tick does it"


def _topup(name: str, title: str, said: str, what: Literal["arm", "start"]) -> Action:
    def asked(doing: Doing) -> AskedTopup:
        return AskedTopup(doing.text("id"), what)

    def order(connection: sa.Connection, doing: Doing) -> Done:
        orders.place(connection, asked(doing), doing.by)
        return Done(ORDERED)

    def look(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
        wallet = doing.text("id")
        ids.require(connection, ids.TOPPED_UP, wallet)
        terms, _ = show_wallet(connection, wallet, 1)
        all_ = switched(connection)
        return [
            Fact("Mode", terms.mode),
            Fact("Stopped itself", terms.blocked_reason or "no"),
            Fact("Declines, one after another", figures.count(terms.declines)),
            Fact("At or below", figures.exact(terms.threshold_micro)),
            Fact("Available now", figures.exact(terms.available_micro), fixed=False),
            Fact("Asked, and charged, at", f"{terms.service} as {terms.service_customer}"),
            Fact("All top-ups", "on" if all_ is None else f"stopped by {all_.actor}: {all_.reason}"),
            Fact("Ordered already", "no" if orders.same_as(connection, asked(doing)) is None else "yes"),
        ]

    return Action(
        name,
        title,
        (WALLET,),
        order,
        look,
        lambda doing: [*asked(doing).command(), "--later"],
        lambda _doing: PLACE,
        said,
    )


ARM: Final = _topup(
    "topup-arm",
    "Go on with another card",
    "A tick asks the payment service whether it fills the wallet itself. Where it does not, declines so far are "
    "forgotten, and a wallet that is low is charged, once.",
    "arm",
)
START: Final = _topup(
    "topup-start",
    "Start its top-up",
    "A tick asks the payment service whether it fills the wallet itself. Where it does not, the wallet is charged from "
    "then on whenever it is low.",
    "start",
)
ACTIONS: Final = (ARM, START)
