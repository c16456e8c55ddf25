"""What is done to wallets: they are given credit; their lots, plans, tiers and rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

import sqlalchemy as sa

from drawdown.ledger import lots
from drawdown.ledger.accounts import has_wallet
from drawdown.ledger.allocation import Kind
from drawdown.ledger.lots import PLAIN, Terms
from drawdown.schema import ids
from drawdown.schema.declare import Fact, Size, WrongField
from drawdown.schema.ids import is_clean
from drawdown.schema.typed.parsing import parse_window, show_credits, show_time, type_credits
from drawdown.server.console.action import Action, Doing, Done, Field
from drawdown.server.console.asking import MAX_KEY_CHARS
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.templates import url
from drawdown.worker.catalog.wallets import billed_as, billed_elsewhere, keeper_of
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import tiers
from drawdown.worker.wallets.accounts import account_of, list_lots, paid_from
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
MAX_RATE: Final = 10**12
"""A million credits for a base unit: whatever is above is a slip."""


def key_of(doing: Doing, name: str) -> str:
    """A key that is made of several ids. Errors: WrongField for what no key can be."""
    found = doing.values.get(name, "").strip()
    if not (is_clean(found) and len(found) <= MAX_KEY_CHARS):
        raise WrongField(name, f"1 to {MAX_KEY_CHARS} characters, none of them control characters")
    return found


def lot_of(doing: Doing) -> str:
    return key_of(doing, "lot")


def _take_back(connection: sa.Connection, doing: Doing) -> Done:
    taken = credit.take_back(connection, lot_of(doing), doing.by, whole=_is_whole(doing))
    did = f"{show_credits(taken.taken_micro)} credits taken back" if taken.taken_micro else "nothing is left to take"
    back = f", which went back to the pool {taken.pool}" if taken.pool and taken.taken_micro else ""
    held = f"; {show_credits(taken.reserved_micro)} of it are reserved by runs" if taken.reserved_micro else ""
    return Done(
        f"{taken.customer_id}: {did} of {taken.lot}{back}{held}; {show_credits(taken.balance_micro)} credits now"
    )


def _is_whole(doing: Doing) -> bool:
    return doing.values["whole"] == "whole"


def _lot(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    """What is left of a lot falls with each charge; what was taken back of it does not change by itself."""
    ids.require(connection, ids.LOT, lot_of(doing))
    found = lots.read(connection, lot_of(doing)) or lots.read(connection, f"grant:{lot_of(doing)}")
    assert found is not None
    row = next(
        (one for one in list_lots(connection, found.customer_id, doing.by.now_ms).lots if one.lot == found.lot), None
    )
    facts = [Fact("Wallet", found.customer_id), Fact("Given", figures.exact(found.amount_micro))]
    if row is not None:
        facts += [
            Fact("Left of it", figures.exact(row.left_micro), fixed=False),
            Fact("Taken back of it", figures.exact(row.taken_micro)),
        ]
    balance = credit.wallet_of(connection, found.customer_id).balance_micro
    return [*facts, Fact("Balance", figures.exact(balance), fixed=False)]


def _taken(connection: sa.Connection, doing: Doing) -> Size:
    found = lots.read(connection, lot_of(doing)) or lots.read(connection, f"grant:{lot_of(doing)}")
    return Size() if found is None else Size(taken_micro=found.amount_micro)


TAKE_BACK: Final = Action(
    "take-back",
    "Take back a lot",
    (
        Field("lot", "Lot", hint="As the wallet names it, or its grant's key."),
        Field("whole", "How much", "choice", choices=[("left", "what nobody used"), ("whole", "all of it")]),
    ),
    _take_back,
    _lot,
    lambda doing: ["ledger", "take-back", lot_of(doing), *(["--whole"] if _is_whole(doing) else [])],
    lambda _doing: "/console/ledger",
    "What nobody used of it leaves the wallet. All of it: what it paid for is paid by other lots, or owed.",
    size=_taken,
)


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


def _set_rate(connection: sa.Connection, doing: Doing) -> Done:
    feature, micro, per = doing.text("feature"), _number(doing, "micro"), max(_number(doing, "per"), 1)
    begins = credit.set_rate(connection, feature, micro, per, doing.by, from_ms=_from(doing), new=False)
    since = "ever" if not begins else f"{figures.time(begins)} UTC"
    return Done(f"{feature}: {micro:,} micro-credits per {per:,} from {since} on")


def _number(doing: Doing, name: str) -> int:
    found = doing.number(name)
    if found is None or found > MAX_RATE or (name == "per" and not found):
        raise WrongField(name, f"a whole number up to {MAX_RATE:,}" + (", 1 at least" if name == "per" else ""))
    return found


def _from(doing: Doing) -> int | None:
    """On a window's boundary: a rate begins there."""
    text = doing.values.get("from", "").strip()
    return parse_window(text, "From", doing.by.now_ms) if text else None


def _rate(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    start = _from(doing)
    found = credit.rate_at(connection, doing.text("feature"), doing.by.now_ms if start is None else start)
    said = "" if found is None else f"{found.micro_credits:,} micro-credits per {found.per_quantity:,}"
    ever = credit.rate_at(connection, doing.text("feature"), 2**53)
    last = "" if ever is None else f"{ever.micro_credits:,} per {ever.per_quantity:,}, {show_time(ever.start_ms)}"
    return [Fact("Rate then", said), Fact("The latest that is known", last)]


RATE: Final = Action(
    "rate",
    "Set a rate",
    (
        Field("feature", "Feature"),
        Field("micro", "Micro-credits", "number", "A credit is a million."),
        Field("per", "For so many base units", "number", "Seconds, MB-seconds, or an event's own units."),
        Field("from", "From", "time", "On a window's boundary; the next one where it is left empty.", optional=True),
    ),
    _set_rate,
    _rate,
    lambda doing: [
        "ledger", "rate", doing.text("feature"), "--micro-credits", str(_number(doing, "micro")),
        "--per", str(_number(doing, "per")), *_from_option(doing),
    ],
    lambda _doing: "/console/ledger",
    "What was charged keeps its price. A rate is never changed: a later one begins.",
    role="admin",
)  # fmt: skip


def _from_option(doing: Doing) -> list[str]:
    start = _from(doing)
    return [] if start is None else ["--from", show_time(start)]


LOT_ACTIONS: Final = (TAKE_BACK, PLAN, TIER_BUY, TIER_END, RATE)
