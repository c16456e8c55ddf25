"""Change and list tiers, their prices and their holders.

A tier is a higher limit of concurrent sandboxes, which a customer buys by the month.

Guarantee: if a call may change the verdict of an organisation, it marks the organisation, so that the next tick
refreshes the verdict. A repeated call has no further effect, so a caller that lost the response can repeat the call.
The lists only read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.ledger import tiers, wallet
from drawdown.ledger.accounts import Wallet, read_wallets
from drawdown.ledger.calendar import period_of
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.reservations import Denied
from drawdown.ledger.tiers import Holder, Tier
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.declare import (
    AT_ONCE,
    CREDITS,
    ID,
    ORG,
    Action,
    Column,
    Fact,
    Invocation,
    Label,
    Listing,
    Look,
    New,
    Page,
    Size,
    Undo,
    Values,
)
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, quote_value, typed
from drawdown.schema.typed.parsing import show_credits, show_time
from drawdown.schema.units import as_credits, counted_credits
from drawdown.worker.catalog.wallets import keeper_of, orgs_of
from drawdown.worker.verdict.effective_balance import unbilled_micro
from drawdown.worker.verdict.refresh_requests import mark_for_projection

SQL = queries(__file__)

NAME: Final = re.compile(r"[a-z0-9_+.-]{1,64}")
"""The form of a tier's name.

The name is a part of keys, so it must not contain a colon, which separates the parts.
"""


@dataclass(frozen=True)
class Change:
    """The changes of a tier. A field that is None does not change."""

    at_once: int | None = None
    price_micro: int | None = None


@dataclass(frozen=True)
class Bought:
    """A customer's tier and wallet after a call.

    `charged_micro`: the micro-credits that this call charged. `changed`: the call changed the customer's tier.
    """

    holder: Holder
    wallet: Wallet
    charged_micro: int
    changed: bool


def set_tier(
    connection: sa.Connection, tier: str, change: Change, by: By, *, new: bool = True
) -> tuple[Tier, Tier | None]:
    """Change or create a tier.

    Return the tier as it is now, and as it was (None: it is new). For holders of the tier, the new number of sandboxes
    counts from now on, and the new price from the next month on.

    Errors: UsageError for invalid values, or for a new tier without all values. Unless `new`, UnknownId for an unknown
    tier.
    """
    if NAME.fullmatch(tier) is None:
        raise UsageError(f"invalid tier name {quote_value(tier)}: expected 1 to 64 characters of a-z, 0-9 and _+.-")
    ids.require(connection, ids.TIER, tier, new=new)
    was = tiers.hold(connection, tier)
    at_once = change.at_once if change.at_once is not None or was is None else was.at_once
    price = change.price_micro if change.price_micro is not None or was is None else was.price_micro
    if at_once is None or price is None:
        raise UsageError(f"the tier {tier} is new. Pass --at-once and --price")
    if not 0 <= price <= MAX_ENTRY_MICRO:
        raise UsageError(f"invalid price of a tier {as_credits(price)}: expected 0 to 1,000,000,000 credits a month")
    found = Tier(tier, at_once, price)
    if found != was:
        tiers.set_tier(connection, found)
        record(connection, "ledger_tier", tier, {**vars(found), "was": None if was is None else vars(was)}, by)
        held = SQL.run(connection, "customers_with", {"tier": tier}).scalars().all()
        mark_for_projection(connection, orgs_of(connection, held), by.now_ms)
    return found, was


def buy(connection: sa.Connection, customer_id: str, tier: str, by: By) -> Bought:
    """Sell a tier to a customer from now on.

    The call charges this month. Drawdown charges each later month when it begins.

    Errors: UnknownId; DatabaseBusy. Denied `no_plan` for a customer without a plan of the embedded ledger, and
    `no_credit` if the available credit is below the price.
    """
    found = _require_tier(connection, customer_id, tier)
    keeper = keeper_of(connection, customer_id, by.now_ms)
    if keeper is not None:
        text = f"{customer_id} is on a plan of {keeper}, which limits its sandboxes. Change the plan at {keeper}"
        raise Denied("no_plan", text)
    wallet.make_true(connection, [customer_id], by.now_ms)
    now = read_wallets(connection, [customer_id])[customer_id]
    if now.plan is None:
        raise Denied(
            "no_plan",
            f"{customer_id} is not on a plan, and a tier only raises the limit of a plan. Run `drawdown plan put "
            f"{typed(customer_id, 'PLAN')}`",
        )
    before = tiers.holder(connection, customer_id, tier)
    if before is not None and before.ended_ms is None and before.renews and before.paid_to_ms > by.now_ms:
        return _answer(connection, customer_id, tier, 0, by, changed=False)
    has = now.available_micro - unbilled_micro(connection, customer_id, by.now_ms)
    if not _is_paid(connection, customer_id, tier, by.now_ms) and found.price_micro > max(has, 0):
        asks = f"a month of {tier} costs {as_credits(found.price_micro)}"
        raise Denied(
            "no_credit",
            f"{customer_id} has {counted_credits(has)} to pay with, but {asks}. Run `drawdown ledger grant "
            f"{typed(customer_id, 'AMOUNT')}`",
            "credits",
        )
    charged = tiers.buy(connection, customer_id, found, by)
    record(connection, "ledger_tier_buy", customer_id, {"tier": tier, "charged_micro": charged}, by)
    return _answer(connection, customer_id, tier, charged, by)


def let_end(connection: sa.Connection, customer_id: str, tier: str, by: By) -> Bought:
    """Let a customer's tier end with the paid month.

    Errors: UnknownId; UsageError if the customer never bought the tier; DatabaseBusy.
    """
    _require_tier(connection, customer_id, tier)
    wallet.make_true(connection, [customer_id], by.now_ms)
    before = tiers.holder(connection, customer_id, tier)
    if before is None:
        raise UsageError(
            f"{customer_id} never bought the tier {tier}. "
            f"To see its tiers, run `drawdown ledger show {typed(customer_id)}`"
        )
    if not tiers.let_end(connection, customer_id, tier, by):
        return _answer(connection, customer_id, tier, 0, by, changed=False)
    record(connection, "ledger_tier_end", customer_id, {"tier": tier, "paid_to_ms": before.paid_to_ms}, by)
    return _answer(connection, customer_id, tier, 0, by)


def _require_tier(connection: sa.Connection, customer_id: str, tier: str) -> Tier:
    ids.require(connection, ids.CUSTOMER, customer_id)
    ids.require(connection, ids.TIER, tier)
    found = tiers.read(connection, tier)
    assert found is not None
    return found


def _is_paid(connection: sa.Connection, customer_id: str, tier: str, now_ms: int) -> bool:
    """Return True if this month of the tier is paid."""
    key = f"tier:{customer_id}:{tier}:{period_of(now_ms)}"
    return SQL.run(connection, "is_paid", {"key": key}).first() is not None


def _answer(
    connection: sa.Connection, customer_id: str, tier: str, charged_micro: int, by: By, *, changed: bool = True
) -> Bought:
    wallet.make_true(connection, [customer_id], by.now_ms)
    mark_for_projection(connection, orgs_of(connection, [customer_id]), by.now_ms)
    found = tiers.holder(connection, customer_id, tier)
    assert found is not None
    return Bought(found, read_wallets(connection, [customer_id])[customer_id], charged_micro, changed)


@dataclass(frozen=True)
class TierRow:
    """A tier of sandboxes.

    `at_once`: the limit of concurrent sandboxes. `price_micro`: the monthly price in micro-credits. `customers`: the
    number of holders.
    """

    tier: str
    at_once: int
    price_micro: int
    customers: int


@dataclass(frozen=True)
class HeldTier:
    """A tier of a customer, paid until `paid_to_ms` (milliseconds).

    `renews`: the tier continues after that time. `ended_ms`: the time of its end (None: it has not ended).
    `ended_reason`: as in `ledger.tiers.Holder`. It is also None if a person let the tier end.
    """

    tier: str
    at_once: int
    price_micro: int
    paid_to_ms: int
    renews: bool
    ended_ms: int | None
    ended_reason: str | None


def list_tiers(connection: sa.Connection) -> list[TierRow]:
    """Return all tiers, sorted by their limit of concurrent sandboxes."""
    return [TierRow(**row) for row in SQL.run(connection, "tiers").mappings()]


def tiers_of(connection: sa.Connection, customer_id: str) -> list[HeldTier]:
    """Return the tiers of a customer. Ended tiers come last."""
    rows = SQL.run(connection, "of_customer", {"customer_id": customer_id}).mappings()
    return [HeldTier(**{**row, "renews": bool(row["renews"])}) for row in rows]


TierName = Annotated[str, ID, "Name of the tier"]


@dataclass(frozen=True)
class TierSet(Tier):
    """A tier as it is now, and as it was (null: it is new)."""

    was: Tier | None


def _set(
    connection: sa.Connection,
    asked: Invocation,
    tier: TierName,
    *,
    at_once: Annotated[
        int | None, AT_ONCE, "Maximum number of concurrent sandboxes", Label("Concurrent sandboxes")
    ] = None,
    price_micro: Annotated[int | None, CREDITS, "Price of a calendar month in credits"] = None,
    new: New = False,
) -> TierSet:
    found, was = set_tier(connection, tier, Change(at_once, price_micro), asked.by, new=new)
    return TierSet(**vars(found), was=was)


def _set_said(done: TierSet) -> str:
    line = f"tier {done.tier}: {done.at_once:,} at once for {show_credits(done.price_micro)} credits a month; before: "
    return line + ("none" if done.was is None else f"{done.was.at_once:,} for {show_credits(done.was.price_micro)}")


def _facts_of_tier(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    found = next((one for one in list_tiers(connection) if one.tier == values["tier"]), None)
    if found is None:
        return [Fact("Tier", "none yet")]
    return [
        Fact("Concurrent sandboxes", f"{found.at_once:,}"),
        Fact("A month", show_credits(found.price_micro)),
        Fact("Customers", f"{found.customers:,}"),
    ]


@dataclass(frozen=True)
class TierBought(Holder):
    """A customer's tier after a call.

    The result includes the customer's balance and limit of sandboxes. `charged_micro`: the micro-credits that this call
    charged. `max_concurrent`: the limit of sandboxes (null: unlimited). `changed`: the call changed the customer's
    tier.
    """

    charged_micro: int
    balance_micro: int
    max_concurrent: int | None
    changed: bool


def _buy(
    connection: sa.Connection,
    asked: Invocation,
    customer_id: Annotated[str, ORG, "Customer's id; usually the organisation's id"],
    tier: TierName,
    *,
    undo: Undo = False,
) -> TierBought:
    done = (let_end if undo else buy)(connection, customer_id, tier, asked.by)
    return TierBought(
        **vars(done.holder),
        charged_micro=done.charged_micro,
        balance_micro=done.wallet.balance_micro,
        max_concurrent=done.wallet.max_concurrent,
        changed=done.changed,
    )


def _bought(done: TierBought) -> str:
    how = f"paid for until {show_time(done.paid_to_ms)}"
    if done.ended_ms is not None:
        how = f"it ended at {show_time(done.ended_ms)}"
    else:
        how += ", and renews then" if done.renews else ", and ends then"
    at_once = done.max_concurrent
    most = "any number of sandboxes" if at_once is None else counted(at_once, "sandbox", "sandboxes")
    line = f"{done.customer_id}: {done.tier}, {how}; {show_credits(done.charged_micro)} credits charged, "
    return f"{line}{most} at once{'' if done.changed else '; nothing changes'}"


def _facts_of_holder(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    customer = values["customer_id"]
    ids.require(connection, ids.CUSTOMER, customer)
    wallet_now = read_wallets(connection, [customer])[customer]
    held = [one for one in tiers_of(connection, customer) if one.ended_ms is None]
    at_once = "any number" if wallet_now.max_concurrent is None else f"{wallet_now.max_concurrent:,}"
    return [
        Fact("Tiers", ", ".join(f"{one.tier}, {'renews' if one.renews else 'ends'}" for one in held)),
        Fact("Concurrent sandboxes", at_once),
        Fact("Balance", show_credits(wallet_now.balance_micro), fixed=False),
    ]


def _size_of_tier(connection: sa.Connection, _asked: Invocation, values: Values) -> Size:
    found = tiers.read(connection, values["tier"])
    return Size() if found is None or values["undo"] else Size(taken_micro=found.price_micro)


def _tiers(connection: sa.Connection, look: Look) -> Page[TierRow]:
    return Page(list_tiers(connection)[: look.most])


ACTIONS: Final = (
    Action(
        "tier set",
        "Set a tier",
        "Create or change a tier of concurrent sandboxes. To create it, pass --new. A customer buys a tier with "
        "`tier buy`. The limit is then that of the plan or of the largest tier, whichever is higher. A changed price "
        "applies from the next charge on. Paid months keep their price.",
        _set,
        _set_said,
        path="/v1/tiers/{tier}",
        scope="catalog:write",
        role="admin",
        facts=_facts_of_tier,
    ),
    Action(
        "tier buy",
        "Buy a tier",
        "Buy a tier for a customer, month by month. Drawdown charges this calendar month at once, and each later "
        "month as it begins. With --undo, the tier ends with the paid month. If the credit is too low for the next "
        "month, the tier ends, too.",
        _buy,
        _bought,
        path="/v1/wallets/{customer_id}/tiers/{tier}",
        scope="ledger:write",
        facts=_facts_of_holder,
        size=_size_of_tier,
        place="/console/billing?id={customer_id}",
    ),
)
LISTS: Final = (
    Listing(
        "tier list",
        "Tiers",
        "List tiers: sandboxes, monthly price and holders.",
        _tiers,
        (
            "tier",
            Column("at_once", "#at once"),
            Column("price_micro", "#monthly price"),
            Column("customers", "#customers"),
        ),
        holds="tiers",
        path="/v1/tiers",
        scope="catalog:read",
        most=1_000,
        open=True,
    ),
)
