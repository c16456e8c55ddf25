"""The tiers, which raise the number of concurrent sandboxes for a monthly price.

The wallet's own credit pays for each month.

Guarantee: a month of a tier is charged once, under its key. A customer on a plan can have as many sandboxes as the plan
or the largest of the tiers allows. After the previous month's remaining credit is booked (`lots.EXPIRY_WAIT_MS` after
the month begins), the wallet pays for the next month, or the tier ends. Until then, the tier still counts. It also ends
if the wallet no longer pays for an organisation. If Drawdown did not run for a whole month, that month is not charged.
The caller holds the wallet's lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger import lots
from drawdown.ledger.accounts import read_wallets, wallet_account
from drawdown.ledger.calendar import next_start, period_of, start_of
from drawdown.ledger.entries import post
from drawdown.schema.audit import By
from drawdown.schema.sql import queries

SQL = queries(__file__)

TIERS: Final = "tiers"
"""The account that receives the prices of tiers."""
NO_CREDIT: Final = "no_credit"
"""The reason of the end of a tier that the wallet could not pay for."""
BILLED_ELSEWHERE: Final = "billed_elsewhere"
"""The reason of the end of a tier of a wallet that no longer pays for an organisation."""


@dataclass(frozen=True)
class Tier:
    """A tier: its concurrent sandboxes, and its price for a month in micro-credits."""

    tier: str
    at_once: int
    price_micro: int


@dataclass(frozen=True)
class Holder:
    """A customer's tier, paid until `paid_to_ms`. Times are milliseconds.

    `renews`: True if the tier then continues. `ended_ms`: the moment of its end (None: it has not ended).
    `ended_reason`: NO_CREDIT or BILLED_ELSEWHERE; None: it has not ended, or a person let it end.
    """

    customer_id: str
    tier: str
    bought_ms: int
    paid_to_ms: int
    renews: bool
    ended_ms: int | None
    ended_reason: str | None


@dataclass(frozen=True)
class Turn:
    """A tier at the end of its paid month.

    The wallet pays for the next month, or the tier ends. `pays`: True if the tier should continue, and the wallet has
    the credit. `ended_reason`: as in `Holder`.
    """

    customer_id: str
    tier: str
    price_micro: int
    pays: bool
    ended_reason: str | None


def read(connection: sa.Connection, tier: str) -> Tier | None:
    """Return a tier; None if it does not exist."""
    row = SQL.run(connection, "tier", {"tier": tier}).mappings().one_or_none()
    return None if row is None else Tier(**row)


def hold(connection: sa.Connection, tier: str) -> Tier | None:
    """Return a tier, locked until this transaction is over; None if it does not exist."""
    row = SQL.run(connection, "tier_to_change", {"tier": tier}).mappings().one_or_none()
    return None if row is None else Tier(**row)


def set_tier(connection: sa.Connection, tier: Tier) -> None:
    """Store a tier.

    The number of sandboxes applies from now on, and the price from the next charge on.
    """
    SQL.run(connection, "set_tier", vars(tier))


def holder(connection: sa.Connection, customer_id: str, tier: str) -> Holder | None:
    """Return a customer's tier, present or past; None if it was never bought."""
    row = SQL.run(connection, "holder", {"customer_id": customer_id, "tier": tier}).mappings().one_or_none()
    return None if row is None else Holder(**{**row, "renews": bool(row["renews"])})


def buy(connection: sa.Connection, customer_id: str, tier: Tier, by: By) -> int:
    """Buy a tier for the rest of this month and the following months.

    Return the charge in micro-credits.

    A paid month is not charged again.
    """
    entry = _entry(customer_id, tier.tier, tier.price_micro, by.now_ms, by)
    charged = tier.price_micro if post(connection, [entry]) else 0
    values = {"customer_id": customer_id, "tier": tier.tier, "paid_to_ms": next_start(by.now_ms), **vars(by)}
    SQL.run(connection, "buy", values)
    SQL.run(connection, "expect", {"account_id": wallet_account(customer_id), "paid_to_ms": values["paid_to_ms"]})
    return charged


def let_end(connection: sa.Connection, customer_id: str, tier: str, by: By) -> bool:
    """Let a customer's tier end with its paid month. Return True if it renewed before."""
    values = {"customer_id": customer_id, "tier": tier, **vars(by)}
    return SQL.run(connection, "let_end", values).first() is not None


def look_ahead(
    connection: sa.Connection, customer_id: str, available_micro: int, now_ms: int
) -> tuple[int, frozenset[str]]:
    """Return the due charge of a customer's tiers, and the tiers that end.

    The charge is in micro-credits. The function only reads. A tier that should continue ends if `available_micro` does
    not suffice.
    """
    turns = _allocate_turns(_due(connection, [customer_id], now_ms), {customer_id: available_micro})
    paid = sum(turn.price_micro for turn in turns if turn.pays)
    return paid, frozenset(turn.tier for turn in turns if not turn.pays)


def largest(connection: sa.Connection, customer_id: str, plan: int, *, without: Set[str]) -> int:
    """Return the concurrent sandboxes that a customer's plan or tiers allow.

    `without`: tiers that end, so they do not count.
    """
    rows = SQL.run(connection, "active", {"customer_id": customer_id}).all()
    return max([plan, *(int(row.at_once) for row in rows if row.tier not in without)])


def turn(connection: sa.Connection, customer_ids: Sequence[str], now_ms: int) -> set[str]:
    """Charge the next month of tiers after their paid month, or end the tiers.

    Return the customers of these tiers.

    All other due changes of their wallets must be booked first.
    """
    rows = _due(connection, customer_ids, now_ms)
    if not rows:
        return set()
    wallets = read_wallets(connection, {row["customer_id"] for row in rows})
    turns = _allocate_turns(rows, {customer_id: found.available_micro for customer_id, found in wallets.items()})
    by = By(now_ms, "drawdown", "the next month")
    month_ms = start_of(now_ms)
    paid = [one for one in turns if one.pays]
    post(connection, [_entry(one.customer_id, one.tier, one.price_micro, month_ms, by) for one in paid])
    ended = [vars(one) for one in turns if not one.pays]
    SQL.run(connection, "go_on", {"paid": [vars(one) for one in paid], "paid_to_ms": next_start(now_ms)})
    SQL.run(connection, "end", {"ended": ended, "now_ms": now_ms})
    return {one.customer_id for one in turns}


def _due(connection: sa.Connection, customer_ids: Sequence[str], now_ms: int) -> Sequence[Mapping[Any, Any]]:
    values = {"customers": list(customer_ids), "now_ms": now_ms, "wait_ms": lots.EXPIRY_WAIT_MS}
    return SQL.run(connection, "due", values).mappings().all()


def _allocate_turns(rows: Sequence[Mapping[Any, Any]], available: Mapping[str, int]) -> list[Turn]:
    """Return the next step of each tier.

    If a wallet has several tiers, it pays for the largest first.
    """
    left, found = dict(available), []
    for row in rows:
        customer_id, price = row["customer_id"], row["price_micro"]
        continues = bool(row["renews"]) and not row["is_unused"]
        pays = continues and price <= max(left[customer_id], 0)
        left[customer_id] -= price if pays else 0
        reason = NO_CREDIT if continues else BILLED_ELSEWHERE if row["renews"] else None
        found.append(Turn(customer_id, row["tier"], price, pays, None if pays else reason))
    return found


def _entry(customer_id: str, tier: str, price_micro: int, ts: int, by: By) -> dict[str, object]:
    return {
        "key": f"tier:{customer_id}:{tier}:{period_of(ts)}",
        "kind": "tier",
        "from_account": wallet_account(customer_id),
        "to_account": TIERS,
        "amount_micro": price_micro,
        "ts": ts,
        "at_ms": by.now_ms,
        "actor": by.actor,
        "reason": by.reason,
    }
