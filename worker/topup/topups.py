"""Top-ups are begun: where a wallet has run low, one charge for its whole gap is written down.

Guarantee: by the level and never by the edge, so that nothing rests on having seen a balance fall. One is open at a
time in a wallet; the table's own index holds it. Nothing is called here: what is written down is called later, once it
is committed (P1). Its id, `topup:{wallet}:{episode}`, is the payment's key, and holds no quantity and no incarnation
(P6): where a restored database counts an episode anew, the service knows the id, and the look-up that comes first then
says what it stands for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.maturing import mature
from drawdown.providers.payments.protocol import Charge
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.catalog.wallets import orgs_of
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.topup.outcome import Calls, Loss
from drawdown.worker.verdict.asks import mark_for_projection
from drawdown.worker.verdict.metered import shrink_of

SQL = queries(__file__)

BEGUN_AT_ONCE: Final = 200
"""Wallets that one look begins to fill; the next one goes on."""
MONTH_MS: Final = 30 * DAY_MS
ALL: Final = ""
"""Stands where one wallet could stand."""


@dataclass(frozen=True)
class Buy:
    """What is bought at once: micro-credits, and minor units of money, rounded up to a whole one."""

    credits_micro: int
    money_minor: int


@dataclass(frozen=True)
class Begun:
    """What one look began: live charges, those of a shadow; and the services at which something is due."""

    live: int = 0
    shadow: int = 0
    due_at: Collection[str] = ()


@dataclass(frozen=True)
class Topup:
    """A top-up that this worker may call about until its lease ends."""

    charge: Charge
    customer_id: str
    credits_micro: int
    attempt: int
    lookups: int
    calls: Calls
    arrived_before: bool
    """Whether a call before this one may have done something."""
    refused: bool
    """Whether the last answer was that its id stands for something else."""


def money_of(credits_micro: int, price_minor: int) -> int:
    """What credits cost in minor units, rounded up to a whole one."""
    return -(-credits_micro * price_minor // MICRO)


def gap(terms: Mapping[str, Any], available_micro: int) -> Buy:
    """One charge for the whole gap: up to a level, or as many times an amount as it takes to be above the threshold;
    no more than the largest charge that the terms allow."""
    most_micro = min(int(terms["most_minor"]) * MICRO // int(terms["price_minor"]), MAX_ENTRY_MICRO)
    if terms["fill_to_micro"] is not None:
        micro = min(int(terms["fill_to_micro"]) - available_micro, most_micro)
    else:
        each = int(terms["amount_micro"])
        wanted = (int(terms["threshold_micro"]) - available_micro) // each + 1
        micro = each * max(min(wanted, most_micro // each), 1)
    return Buy(micro, money_of(micro, int(terms["price_minor"])))


def description(credits_micro: int) -> str:
    """What stands on the receipt; the same at each attempt."""
    whole, part = divmod(credits_micro, MICRO)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".") + " credits"


def read_loss(connection: sa.Connection) -> Loss | None:
    """What history was ever lost here (R1)."""
    row = SQL.run(connection, "loss").one()
    return None if row.from_ms is None else Loss(int(row.from_ms), int(row.at_ms))


def begin(
    connection: sa.Connection, *, ready: Collection[str], now: int, witness: Witness | None, only: str = ALL
) -> Begun:
    """Write down a top-up for each wallet that has run low, and has none open.

    What is due by time is made true before a balance is believed.
    """
    if SQL.run(connection, "any_terms").first() is None:
        return Begun()
    require_same(connection, witness)
    times = {"now_ms": now, "day_ago_ms": now - DAY_MS, "month_ago_ms": now - MONTH_MS}
    values = {**times, "only": only, "ready": sorted(ready)}
    SQL.run(connection, "end_shadows", times)
    low = SQL.run(connection, "candidates", {**values, "at_most": BEGUN_AT_ONCE}).scalars().all()
    live = shadow = 0
    if low:
        _mature(connection, low, now)
        loss = read_loss(connection)
        terms = SQL.run(connection, "wanting", {**values, "customers": low}).mappings().all()
        rows = [_row(dict(one), now, loss) for one in terms]
        new = set(SQL.run(connection, "begin", {"begun": rows}).scalars())
        live = sum(row["topup"] in new and row["state"] == "due" for row in rows)
        shadow = len(new) - live
    due_at = SQL.run(connection, "any_due", {"now_ms": now, "only": only}).scalars().all()
    return Begun(live, shadow, due_at)


def _mature(connection: sa.Connection, customers: Sequence[str], now: int) -> None:
    shrink_of(connection, customers, now)
    due = SQL.run(connection, "with_due", {"customers": customers, "now_ms": now}).scalars().all()
    if due:
        mature(connection, due, now)
        mark_for_projection(connection, orgs_of(connection, due), now)


def _row(terms: Mapping[str, Any], now: int, loss: Loss | None) -> dict[str, object]:
    """`begun_ms`: since when its id may have been called; a lost history may have called it (R1)."""
    buy = gap(terms, int(terms["available_micro"]))
    episode = int(terms["episodes"]) + 1
    same = ("customer_id", "price_minor", "currency", "service", "service_customer", "max_day", "max_month")
    return {
        **{name: terms[name] for name in same},
        "topup": f"topup:{terms['customer_id']}:{episode}",
        "episode": episode,
        "credits_micro": buy.credits_micro,
        "money_minor": buy.money_minor,
        "at_ms": now,
        "begun_ms": now if loss is None else min(now, loss.from_ms),
        "state": "shadow" if terms["mode"] == "shadow" else "due",
        "due_at_ms": now,
    }
