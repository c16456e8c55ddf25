"""What is done to wallets: they are given credit; their lots, plans, tiers and rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

import sqlalchemy as sa

from drawdown.ledger.allocation import Kind
from drawdown.ledger.lots import PLAIN, Terms
from drawdown.schema import ids
from drawdown.schema.declare import Fact, Size, WrongField
from drawdown.schema.ids import is_clean
from drawdown.schema.typed.parsing import show_credits, show_time, type_credits
from drawdown.server.console.action import Action, Doing, Done, Field
from drawdown.server.console.asking import MAX_KEY_CHARS
from drawdown.server.console.declared import form_of
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.templates import url
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import tiers
from drawdown.worker.wallets.tiers import tiers_of

MEANING: Final[Mapping[str, str]] = {
    "purchased": "purchased: somebody paid for it",
    "bonus": "bonus: a gift",
    "refund": "refund: given back for what went wrong",
    "sponsor": "sponsor: somebody else gives it",
    "included": "included: part of a plan",
}
"""What each kind of a lot says, as it stands in the form. Which of them it was is finance's to know: nobody chooses it
by leaving the form as it is."""
CREDITED: Final = Field("id", "Customer", hint="Whose wallet it is: by default the organisation's id.")


def _grant(connection: sa.Connection, doing: Doing) -> Done:
    customer, micro = _customer(connection, doing), _amount(doing)
    terms = Terms(cast(Kind, doing.values["kind"]), PLAIN.priority, None, doing.time("expires"), None)
    granted = credit.grant(connection, customer, micro, doing.by, key=doing.key, plan=None, new=False, terms=terms)
    return Done(
        f"{customer}: {show_credits(micro)} credits given; the balance is {show_credits(granted.balance_micro)}"
    )


def _customer(connection: sa.Connection, doing: Doing) -> str:
    """Whose wallet it is. Errors: WrongField for one that nobody draws on."""
    try:
        credit.require_drawn_on(connection, doing.text("id"), doing.by.now_ms)
    except WrongField as error:
        raise WrongField("id", str(error)) from None
    return doing.text("id")


def _amount(doing: Doing) -> int:
    micro = doing.credits("amount")
    if micro is None or micro <= 0:
        raise WrongField("amount", "an amount above 0; what was given is taken back by its lot")
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
        Field("expires", "Expires", "time", "2026-12-31, or +30d; never where it is left empty.", optional=True),
    ),
    _grant,
    _wallet,
    _grant_command,
    lambda doing: url("/console/billing", id=doing.text("id")),
    "Credit is given at once, as a lot of its own.",
    size=lambda _connection, doing: Size(micro=_amount(doing)),
)
GRANTS: Final = (GRANT,)


CUSTOMER: Final = Field("id", "Customer", hint="By default the organisation's id.")


def key_of(doing: Doing, name: str) -> str:
    """A key that is made of several ids. Errors: WrongField for what no key can be."""
    found = doing.values.get(name, "").strip()
    if not (is_clean(found) and len(found) <= MAX_KEY_CHARS):
        raise WrongField(name, f"1 to {MAX_KEY_CHARS} characters, none of them control characters")
    return found


def _put_on_plan(connection: sa.Connection, doing: Doing) -> Done:
    customer, plan = doing.text("id"), doing.text("plan")
    ids.require(connection, ids.PLAN, plan)
    credit.grant(connection, customer, 0, doing.by, key=doing.key, plan=plan, new=False)
    return Done(f"{customer} is on the plan {plan}")


def _on_plan(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    found = credit.require_wallet(connection, doing.text("id"))
    at_once = "any number" if found.max_concurrent is None else figures.count(found.max_concurrent)
    return [
        Fact("Plan", found.plan or ""),
        Fact("Sandboxes at once", at_once),
        Fact("Balance", figures.exact(found.balance_micro), fixed=False),
    ]


PLAN: Final = Action(
    "plan",
    "Change its plan",
    (CUSTOMER, Field("plan", "Plan")),
    _put_on_plan,
    _on_plan,
    lambda doing: ["ledger", "grant", doing.text("id"), "0", "--key", doing.key, "--plan", doing.text("plan")],
    lambda doing: url("/console/billing", id=doing.text("id")),
    "From now on it has what the plan allows, and is given what the plan gives.",
    role="admin",
)


def _buy(connection: sa.Connection, doing: Doing) -> Done:
    return _bought(tiers.buy(connection, doing.text("id"), doing.text("tier"), doing.by), doing)


def _let_end(connection: sa.Connection, doing: Doing) -> Done:
    return _bought(tiers.let_end(connection, doing.text("id"), doing.text("tier"), doing.by), doing)


def _bought(done: tiers.Bought, doing: Doing) -> Done:
    then = "goes on then" if done.holder.renews else "ends then"
    charged = f"{show_credits(done.charged_micro)} credits charged" if done.charged_micro else "nothing charged now"
    paid = figures.time(done.holder.paid_to_ms)
    changed = "" if done.changed else "; nothing changes"
    return Done(f"{doing.text('id')}: {doing.text('tier')}, paid until {paid} UTC, {then}; {charged}{changed}")


def _tiers(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    customer = doing.text("id")
    wallet = credit.require_wallet(connection, customer)
    held = [one for one in tiers_of(connection, customer) if one.ended_ms is None]
    said = ", ".join(f"{one.tier}, {'goes on' if one.renews else 'ends'}" for one in held)
    at_once = "any number" if wallet.max_concurrent is None else figures.count(wallet.max_concurrent)
    return [
        Fact("Tiers", said),
        Fact("Sandboxes at once", at_once),
        Fact("Balance", figures.exact(wallet.balance_micro), fixed=False),
    ]


_TIER_FIELDS: Final = (CUSTOMER, Field("tier", "Tier"))
TIER_BUY: Final = Action(
    "tier-buy",
    "Buy a tier",
    _TIER_FIELDS,
    _buy,
    _tiers,
    lambda doing: ["tier", "buy", doing.text("id"), doing.text("tier")],
    lambda doing: url("/console/billing", id=doing.text("id")),
    "This calendar month is charged at once, from the wallet; each other as it begins.",
)
TIER_END: Final = Action(
    "tier-end",
    "Let a tier end",
    _TIER_FIELDS,
    _let_end,
    _tiers,
    lambda doing: ["tier", "buy", doing.text("id"), doing.text("tier"), "--undo"],
    lambda doing: url("/console/billing", id=doing.text("id")),
    "It ends with the month that is paid for.",
)


DECLARED: Final = {one.name: one for one in credit.ACTIONS}
LOT_ACTIONS: Final = (
    form_of(DECLARED["ledger take-back"]),
    PLAN,
    TIER_BUY,
    TIER_END,
    form_of(DECLARED["ledger rate"]),
)
