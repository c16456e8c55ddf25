"""The console's action that gives credit to a wallet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

import sqlalchemy as sa

from drawdown.ledger.allocation import Kind
from drawdown.ledger.lots import PLAIN, Terms
from drawdown.schema.declare import Fact, Size, WrongField
from drawdown.schema.ids import is_clean
from drawdown.schema.text import quote_value
from drawdown.schema.typed.parsing import show_credits, show_time, type_credits
from drawdown.server.console.action import Action, ActionResult, Doing, Field
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import MAX_KEY_CHARS
from drawdown.worker.wallets import actions as credit

MEANING: Final[Mapping[str, str]] = {
    "purchased": "purchased: paid for",
    "bonus": "bonus: a gift",
    "refund": "refund: compensation for a fault",
    "sponsor": "sponsor: given by another party",
    "included": "included: part of a plan",
}
"""Meaning of each kind of lot, on the form.

Finance must choose the kind, so the form does not propose one.
"""
CREDITED: Final = Field("id", "Customer", hint="Customer who owns the wallet; usually the organisation's id.")


def _grant(connection: sa.Connection, doing: Doing) -> ActionResult:
    customer, micro = _customer(connection, doing), _amount(doing)
    terms = Terms(cast(Kind, doing.values["kind"]), PLAIN.priority, None, doing.time("expires"), None)
    granted = credit.grant(connection, customer, micro, doing.by, key=doing.key, plan=None, new=False, terms=terms)
    return ActionResult(
        f"{customer}: {show_credits(micro)} credits given; the balance is {show_credits(granted.balance_micro)}"
    )


def _customer(connection: sa.Connection, doing: Doing) -> str:
    """Return the customer of the wallet.

    Errors: WrongField if no organisation uses the wallet.
    """
    try:
        credit.require_drawn_on(connection, doing.text("id"), doing.by.now_ms)
    except WrongField as error:
        raise WrongField("id", str(error)) from None
    return doing.text("id")


def _amount(doing: Doing) -> int:
    micro = doing.credits("amount")
    if micro is None or micro <= 0:
        raise WrongField(
            "amount",
            f"invalid amount {quote_value(doing.values.get('amount', ''))}: expected an amount above 0. To take "
            "back credit, choose Take back at its lot",
        )
    return micro


def _wallet(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    return credit.facts_of_wallet(connection, doing.text("id"), doing.by.now_ms)


def _grant_command(doing: Doing) -> list[str]:
    expires = doing.time("expires")
    found = ["ledger", "grant", doing.text("id"), type_credits(_amount(doing)), "--key", doing.key]
    found += ["--kind", doing.values["kind"]]
    return [*found, *([] if expires is None else ["--expires", show_time(expires)])]


GRANT: Final = Action(
    "grant",
    "Give credit",
    (
        CREDITED,
        Field("amount", "Credits", "credits"),
        Field(
            "kind",
            "Kind",
            "choice",
            choices=[("", "choose one"), *MEANING.items()],
        ),
        Field("expires", "Expires", "time", "Date such as 2026-12-31, or +30d; never if left empty.", optional=True),
    ),
    _grant,
    _wallet,
    _grant_command,
    lambda doing: url("/console/billing", id=doing.text("id")),
    "Drawdown grants the credit at once as a new lot.",
    size=lambda _connection, doing: Size(micro=_amount(doing)),
)
GRANTS: Final = (GRANT,)


def key_of(doing: Doing, name: str) -> str:
    """Return a key of several ids. Errors: WrongField if a key cannot have this text."""
    found = doing.values.get(name, "").strip()
    if not (is_clean(found) and len(found) <= MAX_KEY_CHARS):
        raise WrongField(
            name,
            f"invalid key {quote_value(found)}: expected 1 to {MAX_KEY_CHARS} characters without control characters",
        )
    return found
