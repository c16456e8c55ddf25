"""What is done to a wallet: it is given credit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

import sqlalchemy as sa

from drawdown.ledger.accounts import has_wallet
from drawdown.ledger.allocation import Kind
from drawdown.ledger.lots import PLAIN, Terms
from drawdown.schema import ids
from drawdown.schema.typed.parsing import show_credits, show_time, type_credits
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field, Size, WrongField
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.templates import url
from drawdown.worker.catalog.wallets import billed_as, billed_elsewhere, keeper_of
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets.accounts import account_of, list_lots, paid_from

MEANING: Final[Mapping[str, str]] = {
    "purchased": "purchased: somebody paid for it",
    "bonus": "bonus: a gift",
    "refund": "refund: given back for what went wrong",
    "sponsor": "sponsor: somebody else gives it",
    "included": "included: part of a plan",
}
"""What each kind of a lot says, as it stands in the form. Which of them it was is finance's to know: nobody chooses it
by leaving the form as it is."""
CUSTOMER: Final = Field("id", "Customer", hint="Whose wallet it is: by default the organisation's id.")
MOST_NAMED: Final = 3
"""Organisations that a wallet pays for, of which a dry run says the names."""


def _grant(connection: sa.Connection, doing: Doing) -> Done:
    customer, micro = _customer(connection, doing), _amount(doing)
    terms = Terms(cast(Kind, doing.values["kind"]), PLAIN.priority, None, doing.time("expires"), None)
    granted = credit.grant(connection, customer, micro, doing.by, key=doing.key, plan=None, new=False, terms=terms)
    return Done(
        f"{customer}: {show_credits(micro)} credits given; the balance is {show_credits(granted.balance_micro)}"
    )


def _customer(connection: sa.Connection, doing: Doing) -> str:
    """Whose wallet it is. Errors: WrongField for one that nobody draws on: credit would lie there unseen."""
    given, now_ms = doing.text("id"), doing.by.now_ms
    if not ids.is_known(connection, ids.CUSTOMER, given):
        return given
    paid = paid_from(connection, given, now_ms)
    keeper = paid.keeper or keeper_of(connection, given, now_ms)
    if keeper is not None:
        said = f"{given} is billed at {keeper}, which keeps its balance: give the credit there"
        raise WrongField("id", f"{said}. `drawdown ledger grant` fills a wallet here before a move to it")
    if paid.customer_id != given and not billed_as(connection, given, now_ms):
        raise WrongField("id", f"{given} is paid from the wallet of {paid.customer_id}: give it there")
    return given


def _whose(connection: sa.Connection, customer: str, now_ms: int) -> str:
    """A wallet, and what it pays for."""
    found = sorted(billed_as(connection, customer, now_ms))
    named = ", ".join(f"{org} (billed at {provider})" for org, provider in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED:,} more" if len(found) > MOST_NAMED else ""
    return f"{customer}, which pays for {named}{more}" if found else f"{customer}, as which nobody is billed"


def _halts(connection: sa.Connection, customer: str, now_ms: int) -> bool:
    """Who is billed afterwards is halted by the end of credit alone, once there is any."""
    return has_wallet(connection, customer) or not billed_elsewhere(connection, customer, now_ms)


def _amount(doing: Doing) -> int:
    micro = doing.credits("amount")
    if micro is None or micro <= 0:
        raise WrongField("amount", "an amount above 0; what was given is taken back by its lot")
    return micro


def _wallet(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    """Balances move by themselves; plans and lots do not."""
    customer, now_ms = doing.text("id"), doing.by.now_ms
    account = account_of(connection, customer, now_ms)
    given = list_lots(connection, customer, now_ms).lots
    return [
        Fact("Wallet", _whose(connection, customer, now_ms)),
        Fact("Halts whom it pays for", "once it is used up" if _halts(connection, customer, now_ms) else "never"),
        Fact("Plan", account.plan or ""),
        Fact("Available", figures.exact(account.available_micro), fixed=False),
        Fact("Balance", figures.exact(account.balance_micro), fixed=False),
        Fact("Lots", figures.count(len(given))),
    ]


def _grant_command(doing: Doing) -> list[str]:
    expires = doing.time("expires")
    found = ["ledger", "grant", doing.text("id"), type_credits(_amount(doing)), "--key", doing.key]
    found += ["--kind", doing.values["kind"]]
    return [*found, *([] if expires is None else ["--expires", show_time(expires)])]


GRANT: Final = Action(
    "grant",
    "Give credit",
    (
        CUSTOMER,
        Field("amount", "Credits", "credits"),
        Field(
            "kind",
            "Kind",
            "choice",
            choices=[("", "choose one"), *MEANING.items()],
        ),
        Field("expires", "Expires", "time", "2026-12-31, or +30d; never where it is left empty.", optional=True),
    ),
    _grant,
    _wallet,
    _grant_command,
    lambda doing: url("/console/billing", id=doing.text("id")),
    "Credit is given at once, as a lot of its own.",
    size=lambda _connection, doing: Size(micro=_amount(doing)),
)
ACTIONS: Final = (GRANT,)
