"""The emulated Autumn's own books, kept by the cost at which each unit was charged, and what came about in them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from tests.crash.autumn.retelling import History
from tests.emulators.autumn_account import Account, Track
from tests.emulators.autumn_draw import Draw
from tests.emulators.autumn_losses import Charge, Truth
from tests.emulators.autumn_numbers import ONE_OFF, Number, Units
from tests.emulators.autumn_state import Customer
from tests.emulators.serve import CREDITS

GIVEN_BACK, LIMITED, SPLIT, PARTED, USED_UP = (
    "given back", "limited", "split over own units and credits", "split over parts", "used up exactly",
)  # fmt: skip


@dataclass
class Books(Truth):
    """`at_cost`: units by customer, feature and credits a unit (0: of the feature's own balance)."""

    at_cost: dict[tuple[str, str, Fraction], Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    broken: list[Charge] = field(default_factory=list)
    """Charges that a limit ended inside a unit."""
    given_back: dict[tuple[str, str, Fraction], list[Fraction]] = field(default_factory=lambda: defaultdict(list))
    """The units of each charge that gave credits back, with the keys of `at_cost`."""

    def add(self, made: Charge) -> None:
        super().add(made)
        self._count(made, made.value, made.parts, 1)
        if Fraction(made.value).denominator != 1:
            self.broken.append(made)

    def take_back(self, made: Charge, value: Units, parts: list[tuple[str, Number]]) -> None:
        super().take_back(made, value, parts)
        self._count(made, value, parts, -1)
        if made in self.broken:
            self.broken.remove(made)

    def _count(self, made: Charge, value: Units, parts: Sequence[tuple[str, Number]], sign: int) -> None:
        own, credits = drawn_of(made.feature, parts)
        if own:
            self.at_cost[made.customer, made.feature, Fraction(0)] += sign * own
        if credits:
            units = Fraction(value) - own
            self.at_cost[made.customer, made.feature, credits / units] += sign * units
            if sign * units < 0 and made.value < 0:  # else a store lost the charge
                self.given_back[made.customer, made.feature, credits / units].append(-units)


def drawn_of(feature: str, parts: Sequence[tuple[str, Number]]) -> tuple[Fraction, Fraction]:
    """Own units and credits of a charge."""
    own = sum((Fraction(amount) for balance, amount in parts if balance == feature), Fraction(0))
    return own, sum((Fraction(amount) for balance, amount in parts if balance == CREDITS), Fraction(0))


@dataclass
class Watched(Account):
    """An account that counts what its charges came to."""

    came_about: Counter[str] = field(default_factory=Counter)
    limited: list[tuple[Charge, Number]] = field(default_factory=list)
    """Charges that a limit let through in part, with what was asked."""
    history: History = field(default_factory=History)

    def _apply(self, track: Track, customer: Customer, draw: Draw, made: Charge, now_ms: int) -> None:
        super()._apply(track, customer, draw, made, now_ms)
        self.history.note_charge(made, now_ms)
        own, credits = drawn_of(made.feature, made.parts)
        self.came_about[GIVEN_BACK] += track.value < 0
        if Fraction(made.value) != Fraction(track.value):
            self.came_about[LIMITED] += 1
            self.limited.append((made, track.value))
        self.came_about[SPLIT] += bool(own and credits)
        self.came_about[PARTED] += len([part for part in draw.parts if part.grant.feature.name == CREDITS]) > 1
        self.came_about[USED_UP] += sum(
            part.grant.interval == ONE_OFF and part.grant.balance == 0 for part in draw.parts
        )

    def lose_balances(self, now_ms: int) -> None:
        known = len(self.store.undone_charges)
        super().lose_balances(now_ms)
        for made in self.store.undone_charges[known:]:
            self.history.note_charge(made, now_ms, "loses")
