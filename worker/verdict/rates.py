"""Price usage by a provider's rates, and read its policy while unavailable.

An operator sets the rates, or Drawdown reads them from the provider.

Guarantee: rates are append-only and begin at a window. They are on record with actor and reason. They serve estimates,
not charges. All rates of a card are in one unit. Amounts of different units are never added up, and a feature without a
rate is named. Each rate is applied once to the sum of its quantities, so that an amount is rounded once. If a cost
cannot be read, the cost in force stays. The time at which a cost was last confirmed is stored, so that charges during a
change of cost are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import sqlalchemy as sa
import structlog

from drawdown.ledger.rates import Rate, RateCard, rate_card, read_rate_card
from drawdown.ledger.rates import rates_part as ledger_part
from drawdown.schema.declare import Size
from drawdown.schema.sql import Part, queries, read_together
from drawdown.schema.text import counted
from drawdown.schema.typed.parsing import show_credits
from drawdown.schema.units import EVER_MS
from drawdown.worker.catalog.wallets import terms_part, wallets_at, with_wallets

log = structlog.get_logger()

SQL = queries(__file__)

POLICIES: Final = ("go_on", "estimate", "stop")
DEFAULT_POLICY: Final = "estimate"


def uses_ledger(connection: sa.Connection, provider: str) -> bool:
    """Return True if a provider's balances are wallets of the embedded ledger.

    In that case, the ledger's rate card applies.
    """
    return provider in wallets_at(connection)


def rate_card_of(connection: sa.Connection, provider: str) -> RateCard:
    """Return the costs at a provider, in millionths of the unit of its balance."""
    if uses_ledger(connection, provider):
        return read_rate_card(connection)
    return card_of(SQL.run(connection, "rates", {"provider": provider}))


def rates_part(provider: str) -> Part:
    """Return the query of a provider's own rates: rows for `card_of`.

    One statement can run this query together with others.
    """
    return SQL.part("rates", {"provider": provider})


def card_of(rows: Iterable[Any], *, apart: bool = False) -> RateCard:
    """Return the rate card of rows that were read.

    From the time at which the provider reports a feature's cost, an operator's rates of the feature do not count. If a
    provider reports costs in several balances, their amounts cannot be added up. The card has such costs only if
    `apart` is True, because the caller then keeps balances apart.
    """
    read = list(rows)
    begins = _told_since(read) if apart or balance_told(read) is not None else {}
    return RateCard(
        Rate(row.feature, row.start_ms, row.micro, row.per_quantity)
        for row in read
        if (row.balance is None and row.start_ms < begins.get(row.feature, EVER_MS))
        or (row.balance is not None and row.feature in begins)
    )


def balance_told(rows: Iterable[Any]) -> str | None:
    """Return the balance in which a provider shows all its present costs.

    None: the provider does not show costs, or shows them in several balances.
    """
    newest = {row.feature: row.balance for row in sorted(rows, key=_begins) if row.balance is not None}
    balances = {balance for feature, balance in newest.items() if balance != feature}
    return str(balances.pop()) if len(balances) == 1 else None


def _told_since(rows: Iterable[Any]) -> dict[str, int]:
    """Return the time from which a provider shows each feature's cost."""
    return {row.feature: row.start_ms for row in sorted(rows, key=_begins, reverse=True) if row.balance is not None}


def _begins(row: Any) -> int:
    return int(row.start_ms)


@dataclass(frozen=True)
class RateRow:
    """A rate of a provider: `micro` for each `per_quantity` base units.

    `balance`: the balance that the cost draws on; None if an operator set the rate. `in_use`: True if estimates use the
    rate.
    """

    feature: str
    start_ms: int
    micro: int
    per_quantity: int
    balance: str | None
    actor: str
    reason: str
    in_use: bool


def rate_rows(connection: sa.Connection, provider: str) -> list[RateRow]:
    """Return each rate of a provider that keeps balances, by feature and start."""
    read = SQL.run(connection, "rates", {"provider": provider}).all()
    used = {(rate.feature, rate.start_ms) for rate in card_of(read).rates}
    return [RateRow(**row._mapping, in_use=(row.feature, row.start_ms) in used) for row in read]


def tells_costs(connection: sa.Connection, provider: str) -> bool:
    """Return True if the provider reported the costs of usage in its balance."""
    return balance_told(SQL.run(connection, "rates", {"provider": provider}).all()) is not None


def policies_of(connection: sa.Connection, provider: str) -> dict[str, str]:
    """Return the policies by plan, for plans with a policy; '' is all other plans."""
    rows = SQL.run(connection, "policies", {"provider": provider})
    return {str(row.plan): str(row.policy) for row in rows}


def policy_for(policies: dict[str, str], plan: str | None) -> str:
    return policies.get(plan or "", policies.get("", DEFAULT_POLICY))


CREDITS: Final = "credits"
"""The unit of wallets, and of rates that an operator set."""
MOST_NAMED: Final = 3
"""Most features that a text names."""


@dataclass(frozen=True)
class Quantity:
    """Base units of a feature at a provider, at the rate in force at `at_ms`."""

    provider: str
    feature: str
    at_ms: int
    quantity: int


@dataclass(frozen=True)
class Worth:
    """The worth of usage.

    `quantities`: base units by feature. `credits_micro`: micro-credits by the name of their balance. `unpriced`: base
    units of features that lack a rate, or that draw on their own balance and not on credits.
    """

    quantities: dict[str, int] = field(default_factory=dict)
    credits_micro: dict[str, int] = field(default_factory=dict)
    unpriced: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the credits, and quantities without a rate, for people."""
        amounts = [
            f"{show_credits(micro)} credits" + ("" if balance == CREDITS else f" of {balance}")
            for balance, micro in sorted(self.credits_micro.items())
        ]
        if not self.unpriced:
            return " and ".join(amounts) or "no usage"
        without = f"{named_quantities(self.unpriced)} without a rate"
        return " and ".join([*amounts, without])


def named_quantities(quantities: Mapping[str, int], most: int = MOST_NAMED) -> str:
    """Return a text for people: the first quantities, and the number of others.

    The quantities are by feature.
    """
    some = [f"{quantity:,} {feature}" for feature, quantity in sorted(quantities.items())]
    more = len(some) - most
    return ", ".join(some[:most]) + (f" and {counted(more, 'more feature')}" if more > 0 else "")


class Prices:
    """The rates of all providers, read in one statement at their first use."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._cards: dict[str, RateCard] = {}
        self._balances: dict[str, dict[tuple[str, int], str]] = {}

    def worth(self, some: Iterable[Quantity]) -> Worth:
        """Add up quantities by feature, and price the sum at each rate."""
        quantities, unpriced = Counter[str](), Counter[str]()
        at_rate = Counter[tuple[str, Rate]]()
        for one in some:
            quantities[one.feature] += one.quantity
            rate = self._card(one.provider).rate(one.feature, one.at_ms)
            if rate is None or self._balance(one.provider, rate) == one.feature:  # no rate, or not in a credit system
                unpriced[one.feature] += one.quantity
            else:
                at_rate[self._balance(one.provider, rate), rate] += one.quantity
        micro = Counter[str]()
        for (balance, rate), quantity in at_rate.items():
            micro[balance] += rate.price(quantity)
        return Worth(dict(quantities), dict(micro), dict(unpriced))

    @cached_property
    def _read(self) -> dict[str, list[Any]]:
        return read_together(self._connection, terms=terms_part(), ledger=ledger_part(), own=SQL.part("rates_of_all"))

    def _card(self, provider: str) -> RateCard:
        if provider not in self._cards:
            if provider in with_wallets(self._read["terms"]):
                self._cards[provider], self._balances[provider] = rate_card(self._read["ledger"]), {}
            else:
                own = [row for row in self._read["own"] if row.provider == provider]
                told = {(row.feature, row.start_ms): str(row.balance) for row in own if row.balance is not None}
                self._cards[provider], self._balances[provider] = card_of(own, apart=True), told
        return self._cards[provider]

    def _balance(self, provider: str, rate: Rate) -> str:
        """Return the balance that a rate draws on.

        If the provider did not report the rate, the balance is `credits`.
        """
        return self._balances[provider].get((rate.feature, rate.start_ms), CREDITS)


def size_of(worth: Worth, rows: int = 1) -> Size:
    """Return the size of an action that changes usage of this worth.

    The size is unbounded if some usage does not have a rate, or is paid from a balance in another unit than credits.
    """
    foreign = any(balance != CREDITS for balance in worth.credits_micro)
    return Size(rows=rows, micro=worth.credits_micro.get(CREDITS, 0), unbounded=bool(worth.unpriced) or foreign)
