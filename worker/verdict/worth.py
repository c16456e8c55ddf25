"""Worth: quantities in credits, by the rates of the provider that bills them.

Guarantee: amounts of different units are never added up, and a feature without a rate is named. Each rate is applied
once to the sum of its quantities, so that an amount is rounded once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.rates import Rate, RateCard
from drawdown.schema.sql import queries
from drawdown.schema.typed.parsing import show_credits
from drawdown.worker.verdict.rates import rate_card_of, uses_ledger

SQL = queries(__file__)

CREDITS: Final = "credits"
"""The unit of a wallet here, and of rates that an operator set."""
MOST_NAMED: Final = 3
"""Features that one line names."""


@dataclass(frozen=True)
class Quantity:
    """Base units of one feature at one provider, all at the rate that was in force at `at_ms`."""

    provider: str
    feature: str
    at_ms: int
    quantity: int


@dataclass(frozen=True)
class Worth:
    """`quantities`: base units by feature. `credits_micro`: millionths of a credit, by the name of their balance.
    `unpriced`: the quantities of features that have no rate."""

    quantities: dict[str, int] = field(default_factory=dict)
    credits_micro: dict[str, int] = field(default_factory=dict)
    unpriced: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Amounts for people: credits where there is a rate, else quantities by feature."""
        amounts = [
            f"{show_credits(micro)} credits" + ("" if balance == CREDITS else f" of {balance}")
            for balance, micro in sorted(self.credits_micro.items())
        ]
        if not self.unpriced:
            return " and ".join(amounts) or "no usage"
        without = f"{named_quantities(self.unpriced)} without a rate"
        return " and ".join([*amounts, without])


def named_quantities(quantities: Mapping[str, int], most: int = MOST_NAMED) -> str:
    """Quantities by feature for people: the first few, and how many others there are."""
    some = [f"{quantity:,} {feature}" for feature, quantity in sorted(quantities.items())]
    more = len(some) - most
    return ", ".join(some[:most]) + (f" and {more} more features" if more > 0 else "")


class Prices:
    """The rates of each provider, read when it is first needed."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._cards: dict[str, RateCard] = {}
        self._balances: dict[str, dict[tuple[str, int], str]] = {}

    def worth(self, some: Iterable[Quantity]) -> Worth:
        """Add up quantities by feature and price each rate's sum."""
        quantities, unpriced = Counter[str](), Counter[str]()
        at_rate = Counter[tuple[str, Rate]]()
        for one in some:
            quantities[one.feature] += one.quantity
            rate = self._card(one.provider).rate(one.feature, one.at_ms)
            if rate is None:
                unpriced[one.feature] += one.quantity
            else:
                at_rate[self._balance(one.provider, rate), rate] += one.quantity
        micro = Counter[str]()
        for (balance, rate), quantity in at_rate.items():
            micro[balance] += rate.price(quantity)
        return Worth(dict(quantities), dict(micro), dict(unpriced))

    def _card(self, provider: str) -> RateCard:
        if provider not in self._cards:
            self._cards[provider] = rate_card_of(self._connection, provider)
            in_ledger = uses_ledger(self._connection, provider)
            rows = SQL.run(self._connection, "balances", {"provider": provider}).all()
            told = {} if in_ledger else {(row.feature, row.start_ms): str(row.balance) for row in rows}
            self._balances[provider] = told
        return self._cards[provider]

    def _balance(self, provider: str, rate: Rate) -> str:
        """The balance that a rate draws on, as the provider tells."""
        return self._balances[provider].get((rate.feature, rate.start_ms), CREDITS)
