"""An account at Autumn that bills in credits: one balance pays for every feature, at a cost each.

Guarantee: what a customer was charged is told in grains, exact parts of a credit, each charge at the cost of its own
moment, as the emulator deducted it. All chance is drawn apart, so that what else a seed brings stays as it was.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import MICRO
from tests.emulators.autumn import LOSS_FAULTS, SLOW_FAULTS, STALE_FAULTS, AutumnEmulator
from tests.emulators.autumn_losses import Charge
from tests.emulators.autumn_numbers import ONE_OFF, Number
from tests.simulation.faults import EMULATED, MOST, TROUBLES, Faults

CREDITS: Final = "credits"
GRAINS: Final = 10**10
"""To a credit: no cost has more decimals."""
DIVIDED: Final = Fraction(1, 10**9)
"""Of a grain: more than a division leaves over, and far less than a unit costs."""
COSTS: Final = {
    "compute": Decimal("0.0000015"),
    "compute_1gb": Decimal("0.0001"),
    "compute_2gb": Decimal("0.0002"),
    "compute_3gb": Decimal("0.0005"),
    "compute_4gb": Decimal("0.0064"),
}
OTHER_COSTS: Final = (Decimal("0.0003"), Decimal("0.0008"), Decimal("0.0032"))
MOST_CHANGES: Final = 3
CHANGED: Final = 0.03
"""How often a cost changes as a charge is on its way, in a life where costs do."""
LOST: Final = 0.05
"""How often the balance store is killed after a charge, at an intensity of one."""
GRANTS: Final = (
    Decimal(0),
    Decimal("0.006"),
    Decimal("0.012"),
    Decimal("0.384"),
    Decimal("0.4"),
    Decimal(5),
    Decimal(1_000_000),
)
OWN: Final = (60, 4_000, 10_000_000)
MONTHLY: Final = Decimal(100)
_NEWEST: Final = sa.text(
    "SELECT r.feature, r.micro, r.per_quantity FROM provider_rates r WHERE r.provider = 'autumn' "
    "AND r.balance = 'credits' AND r.at_ms = (SELECT MAX(x.at_ms) FROM provider_rates x "
    "WHERE x.provider = r.provider AND x.feature = r.feature AND x.balance = r.balance)"
)
Span = tuple[int, int]
"""The least and the most, in grains."""


class Pooled:
    """The credits of one account. `moves`: whether costs change in this life."""

    def __init__(
        self,
        emulator: AutumnEmulator,
        faults: Faults,
        apart: random.Random,
        engine: sa.Engine,
        features: Sequence[str],
    ) -> None:
        self.engine, self.emulator, self.account = engine, emulator, emulator.account
        self.apart, self.features = apart, features
        self.faults = faults
        self.moves = apart.random() < 0.4
        self.owns = not self.moves and apart.random() < 0.5
        """Whether some have a balance of one feature besides: beside costs that change, nothing tells at which of them
        such a balance was drawn on."""
        self.losing = apart.random() < 0.5
        self.changes = self.touched = 0
        self.costs: list[tuple[int, dict[str, Decimal]]] = [(0, dict(COSTS))]
        """From when on which costs are in force."""
        self.intensity = min(faults.intensity, MOST)
        if self.losing:
            kept = {kind for kinds in TROUBLES if kinds != LOSS_FAULTS for kind in kinds}
            rates = {kind: rate * self.intensity for kind, rate in EMULATED["autumn"].items() if kind not in kept}
            rates |= dict.fromkeys(SLOW_FAULTS, EMULATED["autumn"]["event_lost"] * self.intensity)
            emulator.faults.rates = rates
        emulator.faults.rates = {**emulator.faults.rates, **dict.fromkeys(STALE_FAULTS, 0.05 * self.intensity)}
        self._set(COSTS)

    def learned(self, costs: dict[str, Decimal]) -> bool:
        """Whether the product has learned these costs."""
        with self.engine.connect() as connection:
            rows = connection.execute(_NEWEST).all()
        return {str(feature): Decimal(micro) / (per_quantity * MICRO) for feature, micro, per_quantity in rows} == costs

    def _set(self, costs: dict[str, Decimal]) -> None:
        self.account.add_feature(CREDITS, kind="credit_system", credit_schema=costs)

    def change(self, feature: str, cost: Decimal, now_ms: int) -> None:
        """From now on a unit of a feature costs this."""
        self.costs.append((now_ms, self.costs[-1][1] | {feature: cost}))
        self._set(self.costs[-1][1])

    def meet(self, customer: str, *, now_ms: int) -> None:
        """Give a customer credits: one part or several, and now and then a balance of one feature besides."""
        for _ in range(self.apart.choice((0, 1, 1, 2, 3))):
            self.account.grant(customer, CREDITS, self.apart.choice(GRANTS), now_ms, interval=ONE_OFF)
        if self.apart.random() < 0.1:
            self.account.grant(customer, CREDITS, MONTHLY, now_ms, interval="month")
        if self.owns and self.apart.random() < 0.3:
            feature, units = self.apart.choice(self.features), self.apart.choice(OWN)
            # Once they are used up, own units that were granted once are shown no more.
            self.account.grant(customer, feature, units, now_ms, interval=self.apart.choice((None, ONE_OFF)))

    def fix(self, customer: str, now_ms: int) -> None:
        """A part that stays, however much of it is used: else what is used up to the last digit is refused again."""
        if all(one.interval == ONE_OFF for one in self.account.customers[customer].grants.get(CREDITS, [])):
            self.account.grant(customer, CREDITS, self.apart.choice((0, 1_000_000)), now_ms)

    def pay(self, customer: str, quantity: int, now_ms: int) -> None:
        """Credits for so many of a feature's units."""
        self.account.grant(customer, CREDITS, quantity * COSTS["compute_1gb"], now_ms, interval=ONE_OFF)

    def sent(self, now_ms: int, *, before: bool) -> None:
        """A charge is on its way, or was made: costs change now, or the balance store dies."""
        if before and self.moves and self.changes < MOST_CHANGES and self.apart.random() < CHANGED:
            feature, cost = self.apart.choice(self.features), self.apart.choice(OTHER_COSTS)
            before_it = self.costs[-1][1]
            # Not modelled: a cost that nobody ever read. Its charges can be converted by nobody (`Untold`).
            if before_it[feature] != cost and self.learned(before_it):
                self.changes += 1
                self.faults.note("cost_changed")
                self.change(feature, cost, now_ms)
        if not before and self.losing and self.emulator.faults.rates and self.apart.random() < LOST * self.intensity:
            self.emulator.lose_balances(now_ms)

    # What is true

    def spans(self, feature: str, quantity: int, from_ms: int, to_ms: int) -> Span:
        """What a charge comes to that was made, or would have been, between two moments."""
        begun = [costs for at_ms, costs in self.costs if at_ms <= to_ms]
        gone = sum(at_ms <= from_ms for at_ms, _ in self.costs)
        worth = [quantity * grains(costs[feature]) for costs in begun[max(gone - 1, 0) :] or begun[:1]]
        return min(worth), max(worth)

    def of(self, charge: Charge) -> int:
        """What a charge deducted."""
        return sum(self._worth(balance, amount) for balance, amount in charge.parts)

    def under(self, key: str) -> int:
        """What was deducted under a key."""
        found = self.account.books.drawn_by_key.get(key, {})
        return sum(self._worth(balance, amount) for balance, amount in found.items())

    def drawn(self, customer: str) -> int:
        """What was deducted of a customer."""
        return sum(
            self._worth(balance, amount) for (who, balance), amount in self.account.drawn.items() if who == customer
        )

    def _worth(self, balance: str, amount: Number) -> int:
        return grains(amount * (1 if balance == CREDITS else self.costs[0][1][balance]))

    def shown(self, customer: str) -> int | None:
        """The same, as the customer's own parts have it, but for what people changed; None: some begin anew."""
        known = self.account.customers.get(customer)
        if known is None:
            return 0
        parts = [*known.spent, *(one for grants in known.grants.values() for one in grants)]
        if any(one.resets_at is not None for one in parts):
            return None
        changed = ((balance, amount) for (who, balance), amount in self.account.changed.items() if who == customer)
        return sum(self._worth(one.feature.name, one.granted - one.balance) for one in parts) + sum(
            self._worth(balance, amount) for balance, amount in changed
        )

    def agrees(self, customer: str) -> bool:
        """Whether the parts show what was deducted."""
        return self.shown(customer) in (None, self.drawn(customer))

    def refuses(self, customer: str) -> bool:
        """Whether some features are refused while others can be drawn: without credit, those without an own balance."""
        left = {
            name: sum(max(0, one.balance) for one in parts)
            for name, parts in self.account.customers[customer].grants.items()
        }
        return not left.get(CREDITS) and any(left.values())


def grains(amount: Number) -> int:
    """Of an amount in credits. The emulator divides credits by the cost of a unit, to 28 digits as Decimal does."""
    found = Fraction(amount) * GRAINS
    assert abs(found - round(found)) <= DIVIDED, f"{amount} is finer than a grain"
    return round(found)
