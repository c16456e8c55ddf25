"""Costs in credits, as a provider told them: the balance that a feature draws on, and how much a base unit draws.

Guarantee: reads only. A cost is exact: a balance is compared in whole quantities, of which `scale` make one unit of the
balance. A charge that was made while a cost changed has a least and a most, and never one cost on faith. Source: Autumn
draws by the schema of the moment at which it charges, whenever the usage was (observed, API 2.3.0).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import lcm
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.protocol import Cost
from drawdown.schema.sql import queries
from drawdown.schema.units import MICRO
from drawdown.worker.engine.waiting import CLOCKS_APART_MS

SQL = queries(__file__)

PLAIN: Final = (1, 1)
"""The cost of a feature that draws on a balance of its own, in its base units."""


@dataclass(frozen=True)
class ToldCost:
    """A cost as it was learned: `micro` micro-credits for each `per_quantity` base units. The provider changed to it
    between `confirmed_ms`, when the cost before it was last confirmed, and `at_ms`."""

    feature: str
    balance: str
    micro: int
    per_quantity: int
    confirmed_ms: int
    at_ms: int

    @property
    def credits(self) -> Decimal:
        """Credits for one base unit."""
        return Decimal(self.micro) / (Decimal(self.per_quantity) * MICRO)


class Pools:
    """The balances of one provider in which features are paid. A feature without a told cost is paid from a balance of
    its own name, a unit for a unit."""

    def __init__(self, told: Iterable[ToldCost]) -> None:
        self._of: dict[str, list[ToldCost]] = defaultdict(list)
        for cost in sorted(told, key=lambda cost: cost.at_ms):
            self._of[cost.feature].append(cost)
        self._features: dict[str, list[str]] = defaultdict(list)
        for feature, costs in sorted(self._of.items()):
            self._features[costs[-1].balance].append(feature)
        self._scales = {
            balance: MICRO * lcm(*(cost.per_quantity for feature in features for cost in self._of[feature]))
            for balance, features in self._features.items()
        }

    def of(self, feature: str) -> str:
        """The balance that pays for a feature."""
        costs = self._of.get(feature)
        return costs[-1].balance if costs else feature

    def features(self, pool: str) -> Sequence[str]:
        """The features that a balance pays for."""
        return self._features.get(pool, (pool,))

    def scale(self, pool: str) -> int:
        """How many quantities make one unit of a balance."""
        return self._scales.get(pool, 1)

    def in_credits(self, pool: str) -> bool:
        return pool in self._scales

    def changes(self, features: Iterable[str]) -> list[dict[str, object]]:
        """When costs changed, for the statements that count which of them a charge saw."""
        return [
            {"feature": cost.feature, "confirmed_ms": cost.confirmed_ms, "at_ms": cost.at_ms}
            for feature in features
            for cost in self._of.get(feature, ())[1:]
        ]

    def weight(self, feature: str, first: int, last: int) -> tuple[int, int]:
        """The least and the most that one base unit drew, in quantities of its balance. The charge saw the cost of one
        of the changes `first` to `last` (0: the cost before any change)."""
        costs = self._of.get(feature)
        if not costs:
            return PLAIN
        scale = self._scales[costs[-1].balance] // MICRO
        seen = [cost.micro * scale // cost.per_quantity for cost in costs[first : last + 1]]
        return min(seen), max(seen)

    def weight_between(self, feature: str, from_ms: int, to_ms: int) -> tuple[int, int]:
        """The same, of a charge that was made between two moments. They and the changes are of different processes,
        whose clocks may be CLOCKS_APART_MS apart."""
        changes = self._of.get(feature, ())[1:]
        first = sum(cost.at_ms + CLOCKS_APART_MS <= from_ms for cost in changes)
        return self.weight(feature, first, sum(cost.confirmed_ms - CLOCKS_APART_MS <= to_ms for cost in changes))

    def known(self) -> list[Cost]:
        """Every cost that was ever told."""
        return [Cost(cost.feature, cost.balance, cost.credits) for costs in self._of.values() for cost in costs]

    def newest(self) -> Mapping[str, ToldCost]:
        """The cost in force, by feature."""
        return {feature: costs[-1] for feature, costs in self._of.items()}


def read_pools(connection: sa.Connection, provider: str) -> Pools:
    """The pools of a provider, by what it told."""
    return pools_of(SQL.run(connection, "told_costs", {"provider": provider}))


def pools_of(rows: Iterable[Any]) -> Pools:
    """The pools of rows that were read."""
    return Pools(
        ToldCost(
            str(row.feature),
            str(row.balance),
            int(row.micro),
            int(row.per_quantity),
            int(row.at_ms if row.confirmed_ms is None else row.confirmed_ms),
            int(row.at_ms),
        )
        for row in rows
    )


def as_rate(credits: Decimal) -> tuple[int, int]:
    """Micro-credits for so many base units, exactly, of a cost in credits."""
    numerator, denominator = (credits * MICRO).as_integer_ratio()
    # A power of ten, so that costs of one schema have a small common multiple.
    tens = 1
    while (numerator * tens) % denominator:
        tens *= 10
    return numerator * tens // denominator, tens
