"""Costs in credits that a provider reported.

A cost applies to a base unit, and names the balance that pays for a feature.

Guarantee: this module only reads. A cost is exact. A balance is compared in whole quantities, and `scale` quantities
make one unit of the balance. If the cost changed around a charge, the charge has a minimum and a maximum cost. Source:
Autumn charges by its schema at the time of the charge, and not at the time of use (observed, API 2.3.0).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from math import lcm
from typing import Any

import sqlalchemy as sa

from drawdown.providers.protocol import Cost, UnitCost
from drawdown.schema.sql import queries
from drawdown.schema.units import MICRO
from drawdown.worker.engine.effects import CLOCKS_APART_MS

SQL = queries(__file__)


@dataclass(frozen=True)
class ToldCost:
    """A reported cost: `micro` micro-credits for each `per_quantity` base units.

    The provider changed to this cost between `confirmed_ms` and `at_ms`. `confirmed_ms`: the time when the former cost
    was last confirmed (None: the former cost is unknown). `balance`: the credit system that pays, or the feature's own
    name if a credit system no longer pays for it.
    """

    feature: str
    balance: str
    micro: int
    per_quantity: int
    confirmed_ms: int | None
    at_ms: int

    @property
    def is_own(self) -> bool:
        """Return True if the feature has its own balance."""
        return self.balance == self.feature

    @property
    def credits(self) -> Decimal:
        """Return the credits for one base unit."""
        return Decimal(self.micro) / (Decimal(self.per_quantity) * MICRO)


def own_cost(feature: str, confirmed_ms: int | None, at_ms: int) -> ToldCost:
    """Return the cost of a feature that its own balance pays for.

    A credit system stopped paying for the feature between `confirmed_ms` and `at_ms`.
    """
    return ToldCost(feature, feature, 0, 1, confirmed_ms, at_ms)


class Pools:
    """The balances of one provider that pay for features.

    If the provider does not report a feature's cost, the balance with the feature's name pays for it. One unit of use
    then costs one unit of this balance.
    """

    def __init__(self, told: Iterable[ToldCost]) -> None:
        self._of: dict[str, list[ToldCost]] = defaultdict(list)
        for cost in sorted(told, key=lambda cost: cost.at_ms):
            if cost.confirmed_ms is not None and not self._of[cost.feature]:
                # A provider reports the feature's own balance together with the credits. So a charge before this cost
                # was first read may have drawn on either of them.
                self._of[cost.feature] += [own_cost(cost.feature, None, 0), replace(cost, confirmed_ms=0)]
            else:
                self._of[cost.feature].append(cost)
        finest: dict[str, set[int]] = defaultdict(set)
        self._features: dict[str, list[str]] = {}
        for feature, costs in sorted(self._of.items()):
            for cost in costs:
                if not cost.is_own:
                    finest[cost.balance].add(cost.per_quantity)
                    members = self._features.setdefault(cost.balance, [cost.balance])
                    members += [feature] if feature not in members else []
        self._scales = {balance: MICRO * lcm(*per) for balance, per in finest.items()}

    def of(self, feature: str) -> str:
        """Return the balance that pays for a feature now."""
        costs = self._of.get(feature)
        return costs[-1].balance if costs else feature

    def features(self, pool: str) -> Sequence[str]:
        """Return the features that a balance ever paid for.

        They include the credit system itself, because it can be charged.
        """
        return self._features.get(pool, (pool,))

    def scale(self, pool: str) -> int:
        """Return the number of quantities that make one unit of a balance."""
        return self._scales.get(pool, 1)

    def in_credits(self, pool: str) -> bool:
        return pool in self._scales

    def changes(self, features: Iterable[str]) -> list[dict[str, object]]:
        """Return the changes of costs.

        SQL statements find in them the changes that may have applied to a charge.
        """
        return [
            {"feature": cost.feature, "confirmed_ms": _begins(cost), "at_ms": _holds(cost)}
            for feature in features
            for cost in self._of.get(feature, ())[1:]
        ]

    def weight(self, pool: str, feature: str, first: int, last: int) -> tuple[int, int]:
        """Return the minimum and maximum cost of one base unit.

        Both are quantities of a balance. The charge was made at the cost after one of the changes `first` to `last` (0:
        the cost before any change).
        """
        least, most = self.weight_told(pool, feature, first, last, None)
        return int(least), int(most)

    def weight_told(
        self, pool: str, feature: str, first: int, last: int, cost: str | None
    ) -> tuple[Fraction, Fraction]:
        """Return the minimum and maximum cost of one base unit, as `weight` does.

        `cost`: the cost that the provider reported for this charge, as a text of `as_text` (None: not reported). A cost
        that no read of the costs showed widens the bounds. If a limit ended the charge inside a unit, the cost of a
        unit is a fraction. The cost of the whole charge is a whole number.
        """
        costs = self._of.get(feature)
        if not costs:
            each = Fraction(self.scale(pool) if pool == feature else 0)
            return each, each
        # By the clocks of two machines, a charge may seem settled before it was sent.
        between = costs[min(first, last) : max(first, last) + 1]
        exact = None if cost is None else Fraction(cost)
        if cost is not None and "/" in cost:
            seen = [self._each(pool, one, exact) for one in between]
        else:
            told = [one for one in between if not one.is_own and one.credits == exact]
            seen = [self._each(pool, one) for one in told or between]
            # If no read of the costs showed the reported cost, the charge may still have had that cost.
            if exact is not None and not told:
                seen += [self._each(pool, one, exact) for one in between if not one.is_own]
        return min(seen), max(seen)

    def _each(self, pool: str, cost: ToldCost, mean: Fraction | None = None) -> Fraction:
        if cost.balance != pool:
            return Fraction(0)
        each = Fraction(cost.micro, cost.per_quantity * MICRO) if mean is None else mean
        return self.scale(pool) * (Fraction(1) if cost.is_own else each)

    def weight_between(self, pool: str, feature: str, from_ms: int, to_ms: int) -> tuple[int, int]:
        """Return `weight` for a charge that was made between two times."""
        return self.weight(pool, feature, *self._find_change_range(feature, from_ms, to_ms))

    def weight_told_between(
        self, pool: str, feature: str, from_ms: int, to_ms: int, cost: str | None
    ) -> tuple[Fraction, Fraction]:
        """Return `weight_told` for a charge that was made between two times."""
        return self.weight_told(pool, feature, *self._find_change_range(feature, from_ms, to_ms), cost)

    def _find_change_range(self, feature: str, from_ms: int, to_ms: int) -> tuple[int, int]:
        """Return the first and the last change of a cost that may apply to a charge."""
        changes = self._of.get(feature, ())[1:]
        return sum(_holds(one) <= from_ms for one in changes), sum(_begins(one) <= to_ms for one in changes)

    def reported_costs(self) -> list[Cost]:
        """Return every cost that was ever reported."""
        return [
            Cost(cost.feature, cost.balance, cost.credits)
            for costs in self._of.values()
            for cost in costs
            if not cost.is_own
        ]

    def count(self, feature: str) -> int:
        """Return the number of known costs of a feature.

        The number includes the cost that was assumed before the first report.
        """
        return len(self._of.get(feature, ()))

    def newest(self) -> Mapping[str, ToldCost]:
        """Return the costs in force, by feature."""
        return {feature: costs[-1] for feature, costs in self._of.items()}


def _begins(cost: ToldCost) -> int:
    """Return the earliest time of a charge at a cost, in milliseconds.

    Clocks may differ by CLOCKS_APART_MS.
    """
    return (cost.at_ms if cost.confirmed_ms is None else cost.confirmed_ms) - CLOCKS_APART_MS


def _holds(cost: ToldCost) -> int:
    """Return the time from which each charge was made at this or a later cost.

    The time is in milliseconds.
    """
    return cost.at_ms + CLOCKS_APART_MS


def read_pools(connection: sa.Connection, provider: str) -> Pools:
    """Return the balances of a provider, by the costs that it reported."""
    return pools_of(SQL.run(connection, "told_costs", {"provider": provider}))


def pools_of(rows: Iterable[Any]) -> Pools:
    """Return the balances from the rows of `told_costs`."""
    return Pools(
        ToldCost(
            str(row.feature),
            str(row.balance),
            int(row.micro),
            int(row.per_quantity),
            None if row.confirmed_ms is None else int(row.confirmed_ms),
            int(row.at_ms),
        )
        for row in rows
    )


def as_text(cost: UnitCost | None) -> str | None:
    """Return the text of a cost that is stored with a push; None if it is unknown.

    The text is a decimal, or a fraction if the charge ended inside a unit.
    """
    if isinstance(cost, Fraction):
        return f"{cost.numerator}/{cost.denominator}"
    return None if cost is None else f"{cost.normalize():f}"


def as_rate(credits: Decimal) -> tuple[int, int]:
    """Return the exact rate of a cost in credits.

    The rate is a number of micro-credits, and the number of base units that cost this amount.
    """
    numerator, denominator = (credits * MICRO).as_integer_ratio()
    # The number of base units is a power of ten, so that the costs of a schema have a small common multiple.
    tens = 1
    while (numerator * tens) % denominator:
        tens *= 10
    return numerator * tens // denominator, tens
