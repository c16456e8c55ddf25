"""The settings for estimates: the cost of usage at a provider, and the policy while it cannot be read. An operator sets
them, or the provider tells the cost itself.

Guarantee: rates are append-only and begin at a window. Both are on record with actor and reason. Nothing is charged by
them. All rates of a card are in one unit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.rates import Rate, RateCard, read_rate_card
from drawdown.schema.sql import Part, queries
from drawdown.schema.units import EVER_MS
from drawdown.worker.catalog.wallets import wallets_at

SQL = queries(__file__)

POLICIES: Final = ("go_on", "estimate", "stop")
DEFAULT_POLICY: Final = "estimate"


def uses_ledger(connection: sa.Connection, provider: str) -> bool:
    """Whether a provider's balance is a wallet of the embedded ledger, so that the rate card holds."""
    return provider in wallets_at(connection)


def rate_card_of(connection: sa.Connection, provider: str) -> RateCard:
    """What usage costs at a provider, in millionths of the unit of its balance."""
    if uses_ledger(connection, provider):
        return read_rate_card(connection)
    return card_of(SQL.run(connection, "rates", {"provider": provider}))


def rates_part(provider: str) -> Part:
    """The rates of a provider that keeps balances itself, for whoever reads more in one statement: rows for
    `card_of`."""
    return SQL.part("rates", {"provider": provider})


def card_of(rows: Iterable[Any]) -> RateCard:
    """A provider's rates that were read. From where the provider tells a feature's cost, an operator's rates of it
    count no more. A provider that tells costs in several balances tells none that can be added up."""
    read = list(rows)
    begins = {} if balance_told(read) is None else _told_since(read)
    return RateCard(
        Rate(row.feature, row.start_ms, row.micro, row.per_quantity)
        for row in read
        if (row.balance is None and row.start_ms < begins.get(row.feature, EVER_MS))
        or (row.balance is not None and row.feature in begins)
    )


def balance_told(rows: Iterable[Any]) -> str | None:
    """The balance in which a provider tells all its costs now; None where it tells none, or names several."""
    newest = {row.feature: row.balance for row in sorted(rows, key=_begins) if row.balance is not None}
    balances = set(newest.values())
    return str(balances.pop()) if len(balances) == 1 else None


def _told_since(rows: Iterable[Any]) -> dict[str, int]:
    """From when on a provider tells a feature's cost."""
    return {row.feature: row.start_ms for row in sorted(rows, key=_begins, reverse=True) if row.balance is not None}


def _begins(row: Any) -> int:
    return int(row.start_ms)


@dataclass(frozen=True)
class RateRow:
    """A rate of a provider: `micro` for each `per_quantity`. `balance` None: an operator set it. `in_use`: estimates
    go by it for some usage."""

    feature: str
    start_ms: int
    micro: int
    per_quantity: int
    balance: str | None
    actor: str
    reason: str
    in_use: bool


def rate_rows(connection: sa.Connection, provider: str) -> list[RateRow]:
    """Each rate of a provider that keeps balances itself, by feature and begin."""
    read = SQL.run(connection, "rates", {"provider": provider}).all()
    used = {(rate.feature, rate.start_ms) for rate in card_of(read).rates}
    return [RateRow(**row._mapping, in_use=(row.feature, row.start_ms) in used) for row in read]


def tells_costs(connection: sa.Connection, provider: str) -> bool:
    """Whether the provider told what usage takes from its balance."""
    return balance_told(SQL.run(connection, "rates", {"provider": provider}).all()) is not None


def policies_of(connection: sa.Connection, provider: str) -> dict[str, str]:
    """The policy of each plan that has one of its own; '' stands for every other."""
    rows = SQL.run(connection, "policies", {"provider": provider})
    return {str(row.plan): str(row.policy) for row in rows}


def policy_for(policies: dict[str, str], plan: str | None) -> str:
    return policies.get(plan or "", policies.get("", DEFAULT_POLICY))
