"""The emulated Autumn's own books, kept by the cost at which each unit was charged. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction

from tests.emulators.autumn_losses import Charge, Truth
from tests.emulators.autumn_numbers import Number, Units
from tests.emulators.serve import CREDITS


@dataclass
class Books(Truth):
    """`at_cost`: units by customer, feature and credits a unit (0: of the feature's own balance)."""

    at_cost: dict[tuple[str, str, Fraction], Fraction] = field(default_factory=lambda: defaultdict(Fraction))

    def add(self, made: Charge) -> None:
        super().add(made)
        self._count(made, made.value, made.parts, 1)

    def take_back(self, made: Charge, value: Units, parts: list[tuple[str, Number]]) -> None:
        super().take_back(made, value, parts)
        self._count(made, value, parts, -1)

    def _count(self, made: Charge, value: Units, parts: object, sign: int) -> None:
        own = credits = Fraction(0)
        for balance, amount in parts:  # type: ignore[attr-defined]
            own += Fraction(amount) if balance == made.feature else 0
            credits += Fraction(amount) if balance == CREDITS else 0
        if own:
            self.at_cost[made.customer, made.feature, Fraction(0)] += sign * own
        if credits:
            units = Fraction(value) - own
            self.at_cost[made.customer, made.feature, credits / units] += sign * units
