"""The account's features at Autumn, and the costs in its credit systems. Pure.

Guarantee: a cost is the exact decimal that Autumn sends. A cost that cannot be used is not told: one of zero or less,
one with more than ten decimals, an enormous one, or one of a feature that two credit systems pay for. `check` reports
each of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Final

from drawdown.providers.autumn.deductions import Costs, number
from drawdown.providers.autumn.errors import Unreadable
from drawdown.providers.careful import MAX_COST, MAX_DECIMALS, MAX_FEATURES
from drawdown.providers.protocol import Cost

SYSTEM = "credit_system"
MOST_COSTS: Final = 100
"""Of one feature in one credit system, the newest: of a charge at an older one it cannot be told what it took."""
MOST_NAMES: Final = 2 * MAX_FEATURES
"""Features whose costs are known."""


@dataclass(frozen=True)
class AutumnFeature:
    """`costs`: of a credit system, the cost of one unit of each feature it pays for; None: unreadable."""

    name: str
    kind: str
    consumable: bool
    archived: bool
    costs: Mapping[str, Decimal | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Schema:
    """All features of an account, by name."""

    features: Mapping[str, AutumnFeature]

    @cached_property
    def systems(self) -> Mapping[str, AutumnFeature]:
        """The credit systems in use."""
        return {name: one for name, one in self.features.items() if one.kind == SYSTEM and not one.archived}

    @cached_property
    def _payers(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for system in self.systems.values():
            for feature in system.costs:
                found.setdefault(feature, []).append(system.name)
        return found

    @property
    def sole(self) -> str | None:
        """The account's credit system, if it has exactly one."""
        return next(iter(self.systems)) if len(self.systems) == 1 else None

    def payers(self, feature: str) -> Sequence[str]:
        """The credit systems that pay for a feature."""
        return self._payers.get(feature, ())

    def members(self, system: str) -> list[str]:
        """The features that this credit system alone pays for, and that are used up, not held."""
        found = self.systems.get(system)
        names = found.costs if found is not None else ()
        return [name for name in names if len(self.payers(name)) == 1 and self.is_consumable(name)]

    def cost(self, feature: str, system: str) -> Decimal | None:
        """The cost of one unit; None: the schema has none that can be read."""
        found = self.features.get(system)
        return None if found is None else found.costs.get(feature)

    def is_consumable(self, feature: str) -> bool:
        """Whether a feature is used up, not held as seats are. A feature that is not listed counts as used up."""
        found = self.features.get(feature)
        return found is None or found.consumable

    def costs(self) -> list[Cost]:
        """The costs that can be told: at most one a feature."""
        return [
            Cost(feature, system.name, cost)
            for system in self.systems.values()
            for feature, cost in system.costs.items()
            if cost is not None and 0 < cost <= MAX_COST and decimals(cost) <= MAX_DECIMALS
            if len(self.payers(feature)) == 1
        ]


def decimals(value: Decimal) -> int:
    """Digits after the point."""
    exponent = value.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def read_features(body: Mapping[str, object]) -> Schema:
    """The account's features, from the answer of `features.list`. Errors: Unreadable."""
    listed = body.get("list")
    if not isinstance(listed, list):
        raise Unreadable("Autumn's answer has no list of features")
    found = [_feature(item) for item in listed if isinstance(item, dict) and isinstance(item.get("id"), str)]
    return Schema({feature.name: feature for feature in found})


def _feature(item: Mapping[str, object]) -> AutumnFeature:
    kind = str(item.get("type"))
    return AutumnFeature(
        name=str(item["id"]),
        kind=kind,
        consumable=kind == SYSTEM or (kind == "metered" and item.get("consumable") is not False),
        archived=item.get("archived") is True,
        costs=_costs(item.get("credit_schema")),
    )


def _costs(found: object) -> dict[str, Decimal | None]:
    costs: dict[str, Decimal | None] = {}
    for part in found if isinstance(found, list) else []:
        name = part.get("metered_feature_id") if isinstance(part, dict) else None
        if isinstance(name, str):
            cost = number(part.get("credit_cost"))
            costs[name] = cost if costs.get(name, cost) == cost else None
    return costs


class KnownCosts:
    """Every cost that was ever learned, by feature and credit system."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, dict[Decimal, None]]] = {}

    def add(self, costs: Iterable[Cost]) -> None:
        for one in costs:
            if one.credits <= 0 or (one.feature not in self._found and len(self._found) >= MOST_NAMES):
                continue
            systems = self._found.setdefault(one.feature, {})
            if one.balance not in systems and len(systems) >= MOST_COSTS:
                continue
            ever = systems.setdefault(one.balance, {})
            ever.pop(one.credits, None)  # the newest stands last
            ever[one.credits] = None
            if len(ever) > MOST_COSTS:
                del ever[next(iter(ever))]

    def learn(self, schema: Schema) -> None:
        """Add each cost of a schema, those that are not told included: a charge at one of them can be read."""
        for system in schema.features.values():
            self.add(Cost(name, system.name, cost) for name, cost in system.costs.items() if cost is not None)

    def of(self, feature: str) -> Costs:
        return {system: tuple(costs) for system, costs in self._found.get(feature, {}).items()}
