"""Wallets, their entries and the rate card, as people look at them. Reads only."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.ledger import lots
from drawdown.ledger.accounts import wallet_account
from drawdown.ledger.allocation import KINDS, ORDER, Lot
from drawdown.ledger.maturing import look_ahead_with_lots
from drawdown.ledger.rates import Rate, read_rate_card
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries

SQL = queries(__file__)

STATES: Final = {"in use": 0, "to come": 1, "over": 2}
"""Of lots, in the order in which they are shown."""


@dataclass(frozen=True)
class WalletRow:
    """One wallet; `account_id` is `wallet:` and the customer's id."""

    account_id: str
    balance_micro: int
    plan: str | None


@dataclass(frozen=True)
class EntryRow:
    """One entry of a wallet. Of usage the amount was taken, of a grant it was given; `moved_micro` says by how much it
    moved the wallet, up or down. It counts for the time `ts`, and was booked `at_ms`, by which statements go."""

    key: str
    kind: str
    amount_micro: int
    moved_micro: int
    feature: str | None
    quantity: int | None
    ts: int
    at_ms: int
    actor: str
    reason: str


@dataclass(frozen=True)
class LotRow:
    """A lot, in micro-credits: `amount = left + waits + used + expired + taken`. `place` is its place in the order of
    use among those in use; `waits` is what is over and not booked yet; `taken` is what was taken back of it, and
    what it paid of what was taken back of no lot."""

    lot: str
    kind: str
    state: Literal["in use", "to come", "over"]
    place: int | None
    amount_micro: int
    left_micro: int
    waits_micro: int
    used_micro: int
    expired_micro: int
    taken_micro: int
    priority: int
    begins_ms: int
    expires_ms: int | None
    features: tuple[str, ...] | None
    actor: str
    reason: str


@dataclass(frozen=True)
class LotsView:
    """A wallet's lots: those in use in their order, those to come, those that are over, the latest first. What no lot
    paid for is owed; what was given back beyond what was used pays for later use."""

    order: str
    lots: list[LotRow]
    owed_micro: int
    back_micro: int

    def left_by_kind(self) -> dict[str, int]:
        """What may still be used, by kind."""
        return {
            kind: sum(row.left_micro for row in self.lots if row.kind == kind and row.state == "in use")
            for kind in KINDS
        }


def list_lots(connection: sa.Connection, customer_id: str, now_ms: int) -> LotsView:
    """All lots of a customer, by what is in the ledger now. What a plan gives by now is among them, whether anybody has
    looked at the wallet since or not."""
    kept = lots.read_all(connection, [customer_id])[customer_id]
    return view_lots(connection, kept, look_ahead_with_lots(connection, customer_id, now_ms)[1], customer_id, now_ms)


def view_lots(
    connection: sa.Connection, kept: Sequence[Lot], given: Sequence[Lot], customer_id: str, now_ms: int
) -> LotsView:
    """The same by lots that were read, and those that a plan gives by now."""
    found = {customer_id: sorted((*kept, *given), key=lambda lot: lot.turn)}
    allocation = lots.allocations(connection, found, now_ms)[customer_id]
    rows, places = [], itertools.count(1)
    for lot in found[customer_id]:
        over, to_come = lot.is_over(now_ms), lot.begins_ms > now_ms
        left = lots.left(lot, allocation)
        place = None if over or to_come else next(places)
        row = LotRow(
            lot=lot.lot,
            kind=lot.kind,
            state="over" if over else "to come" if to_come else "in use",
            place=place,
            amount_micro=lot.amount_micro,
            left_micro=0 if over else left,
            waits_micro=left if over else 0,
            used_micro=allocation.used[lot.lot] - allocation.taken[lot.lot],
            expired_micro=lot.expired_micro,
            taken_micro=lot.taken_micro + allocation.taken[lot.lot],
            priority=lot.priority,
            begins_ms=lot.begins_ms,
            expires_ms=lot.expires_ms,
            features=lot.features,
            actor=lot.actor,
            reason=lot.reason,
        )
        rows.append(row)
    rows.sort(key=lambda row: (STATES[row.state], row.place or 0, -(row.expires_ms or 0) if row.state == "over" else 0))
    return LotsView(ORDER, rows, sum(allocation.owed.values()), allocation.back)


def list_wallets(connection: sa.Connection, most: int) -> list[WalletRow]:
    """The lowest first."""
    return [WalletRow(**row._mapping) for row in SQL.run(connection, "wallets", {"at_most": most})]


def list_rates(connection: sa.Connection) -> list[Rate]:
    """The rate card, by feature and beginning."""
    return read_rate_card(connection).rates


def list_entries(connection: sa.Connection, customer_id: str, most: int, after: str = "") -> list[EntryRow]:
    """A customer's entries, the latest first; with `after`, those that follow the entry of that key. Errors: UsageError
    where there is none of that key."""
    values = {"account_id": wallet_account(customer_id), "at_most": most, "after": after}
    if after and SQL.run(connection, "is_entry", values).first() is None:
        raise UsageError("after: there is no such entry of this wallet", at="after")
    return [EntryRow(**row._mapping) for row in SQL.run(connection, "entries", values)]
