"""What a charge takes from which balance at the emulated Autumn: own balances, credit systems, overage and limits.

Guarantee: exact, and as recorded. A feature's own balance is drawn on first, then the credits (C9). Parts are emptied
in their order, and the first one takes what is left over (C4). `cap` and `reject` stop at usage limits, `overflow` does
not (C17, C35, C38); spend limits stop all of them (C12, C15). Only `cap` and `reject` give back no more than was used.

The recording has no case in which both an own balance and the credits go below zero: here the own one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from tests.emulators.autumn_numbers import Json, Number, decimal
from tests.emulators.autumn_state import Customer, Feature, Grant, balance


@dataclass(frozen=True)
class Pool:
    """A balance that a feature is drawn from, and how much of it a unit takes."""

    feature: Feature
    grants: list[Grant]
    cost: Number

    @property
    def remaining(self) -> Number:
        return sum(max(0, one.balance) for one in self.grants)

    @property
    def over(self) -> Number:
        return sum(one.over for one in self.grants)


@dataclass(frozen=True)
class Part:
    """What one grant is charged, in the unit of its balance, and the units it pays for. `cycle`: when that one ends."""

    grant: Grant
    amount: Number
    cost: Number
    cycle: int | None
    units: Fraction


def systems(features: Mapping[str, Feature], feature: Feature) -> list[Feature]:
    """The credit systems that have a cost for a feature."""
    return [one for one in features.values() if feature.name in one.credit_schema]


def pools(features: Mapping[str, Feature], customer: Customer, feature: Feature) -> list[Pool]:
    """Every balance of a customer that a feature is drawn from, in order."""
    own = customer.grants.get(feature.name)
    found = [Pool(feature, own, 1)] if own else []
    for one in systems(features, feature):
        grants = customer.grants.get(one.name)
        if grants:
            found.append(Pool(one, grants, one.credit_schema[feature.name]))
    return found


def overage(customer: Customer, pool: Pool) -> bool:
    """Whether a balance may go below zero by its customer's own terms."""
    allowed = any(one.overage_allowed or one.unlimited for one in pool.grants)
    return allowed or customer.controls.allows_overage(pool.feature.name)


def room(customer: Customer, pool: Pool, *, overflow: bool) -> Number | None:
    """How much further a balance can go below zero; None: without end."""
    if not overflow and not overage(customer, pool):
        return 0
    limit = customer.controls.clamp(pool.feature.name)
    return None if limit is None or any(one.unlimited for one in pool.grants) else max(0, limit - pool.over)


class Draw:
    """One charge under way: what is left of it, and who pays."""

    def __init__(self, customer: Customer, found: list[Pool], value: Number) -> None:
        self.customer, self.pools, self.left = customer, found, Fraction(value)
        self._taken: dict[int, tuple[Grant, Number, Number, Fraction]] = {}

    @property
    def parts(self) -> list[Part]:
        taken = self._taken.values()
        return [Part(one, amount, cost, one.resets_at, units) for one, amount, cost, units in taken if amount]

    def _take(self, pool: Pool, one: Grant, most: Number | None) -> None:
        want = decimal(self.left * Fraction(pool.cost))
        amount = want if most is None or not want else min(want, most) if want > 0 else max(want, most)
        _, before, _, units = self._taken.get(id(one), (one, 0, pool.cost, Fraction(0)))
        if amount:
            # A wish whose decimals do not end is rounded. Taken whole, it still pays for all that is left.
            pays = self.left if amount == want else Fraction(amount) / Fraction(pool.cost)
            self._taken[id(one)] = (one, before + amount, pool.cost, units + pays)
            self.left -= pays

    def charge(self, feature: Feature, behaviour: str, properties: Mapping[str, object], now_ms: int) -> None:
        """Draw a positive value."""
        overflow, controls = behaviour == "overflow", self.customer.controls
        beyond = overflow or (behaviour == "cap" and not feature.consumable)
        held_back = Fraction(0)
        if not overflow:
            most = controls.headroom(feature.name, properties, now_ms)
            held_back = max(Fraction(0), self.left - Fraction(most)) if most is not None else held_back
            self.left -= held_back
        allowed = [None if overflow else controls.headroom(one.feature.name, properties, now_ms) for one in self.pools]
        for n, pool in enumerate(self.pools):
            for one in pool.grants:
                before = self.left
                most = None if one.unlimited else max(0, one.balance)
                self._take(pool, one, _least(most, allowed[n]))
                allowed[n] = _less(allowed[n], decimal((before - self.left) * Fraction(pool.cost)))
        for n, pool in enumerate(self.pools):
            most = _least(
                room(self.customer, pool, overflow=beyond),
                allowed[n],
            )
            self._take(pool, next((one for one in pool.grants if one.overage_allowed), pool.grants[0]), most)
        self.left += held_back

    def give_back(self, behaviour: str) -> None:
        """Draw a negative value."""
        for pool in self.pools:
            for one in pool.grants:
                endless = one.unlimited or one.overage_allowed
                self._take(pool, one, None if endless else -max(0, one.granted - one.balance))
        if behaviour == "overflow" and self.pools:
            self._take(self.pools[0], self.pools[0].grants[0], None)


def _least(one: Number | None, other: Number | None) -> Number | None:
    return other if one is None else one if other is None else min(one, other)


def _less(most: Number | None, taken: Number) -> Number | None:
    return None if most is None else most - taken


def told(features: Mapping[str, Feature], customer: Customer, track: tuple[Feature, Number], version: str) -> Json:
    """`balance`, and `balances` where a credit system has a cost for the feature. `balance` is the own one where
    something was charged, else the credits' (C9, C33)."""
    feature, value = track
    found = {one.name: customer.grants.get(one.name) for one in (feature, *systems(features, feature))}
    shown = {name: balance(grants, version) if grants else None for name, grants in found.items()}
    own, others = shown[feature.name], [one for name, one in shown.items() if name != feature.name and one]
    body: Json = {"balance": own if own and (value > 0 or not others) else others[0] if others else None}
    return body | ({"balances": shown} if len(shown) > 1 else {})


def allows(features: Mapping[str, Feature], customer: Customer, asked: Asked) -> tuple[bool, Number, list[Grant]]:
    """What `check` says: whether it is allowed, what is required in the unit of the balance that is told, and that
    balance. With an own balance and credits, which was not recorded: the own one where it is enough."""
    feature, needed = asked.feature, asked.needed
    found = pools(features, customer, feature)
    if not found:
        return False, needed, []
    pool = next((one for one in found if one.remaining >= needed * one.cost), found[-1])
    required = needed * pool.cost
    limit, free = customer.controls.spend_limit(pool.feature.name), overage(customer, pool)
    endless = any(one.unlimited for one in pool.grants) or (free and limit is None)
    most = pool.remaining + (max(0, (limit or 0) - pool.over) if free else 0)
    enough = endless or required <= most
    for name, much in ((feature.name, needed), (pool.feature.name, required)):
        left = customer.controls.headroom(name, asked.properties, asked.now_ms)
        enough = enough and (left is None or (much <= left and left > 0))
    return enough, required, pool.grants


@dataclass(frozen=True)
class Asked:
    """A `check`, in units of its feature."""

    feature: Feature
    needed: Number
    properties: Mapping[str, object]
    now_ms: int
