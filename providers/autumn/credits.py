"""The account's features and their costs at Autumn.

The module also converts deductions in credits to units.

Guarantee: a cost is the exact decimal that Autumn sends. `Schema.costs` never returns an unusable cost, and `check`
reports it. A cost is unusable if it is zero or less, above MAX_COST, or has more than ten decimals. It is also unusable
if two credit systems pay for the feature. A failed read raises an error, and never returns zero. Charges and reads of
customers share a read of the list that is in flight. Lookups, totals, costs and checks read the list themselves. After
a mismatch, Drawdown judges a charge by newer costs if it can read them. The requested quantity never counts as the
charged quantity. Credits are converted at a known cost; otherwise the result is `Untold`.

Facts, all observed in recorded calls: a charge can be split over own units and credits, and over a plan and top-ups. A
spend limit clamps an overflow. Autumn can return a sum as 5.759999999999999.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_UP, Decimal
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import Final, TypeAlias

from drawdown.providers.protocol import Cost, UnitCost
from drawdown.providers.validated_provider import MAX_COST, MAX_DECIMALS, MAX_FEATURES, MOST_PLACES
from drawdown.schema.clock import Clock
from drawdown.schema.errors import DrawdownError
from drawdown.schema.units import MINUTE_MS, SECOND_MS

SYSTEM = "credit_system"
MOST_COSTS: Final = 100
"""Newest costs to keep of one feature in one credit system.

Drawdown cannot convert a charge at an older cost to units.
"""
MOST_NAMES: Final = 2 * MAX_FEATURES
"""Features for which Drawdown keeps costs in memory."""


@dataclass(frozen=True)
class AutumnFeature:
    """One feature of the account.

    `costs`: for a credit system, the cost of one unit of each feature that it pays for; None: unreadable. `consumable`:
    the feature is consumed, and not occupied as seats are. `names_all` False: its schema may name features that cannot
    be read.
    """

    name: str
    kind: str
    consumable: bool
    archived: bool
    costs: Mapping[str, Decimal | None] = field(default_factory=dict)
    names_all: bool = True


@dataclass(frozen=True)
class Schema:
    """All features of an account, by name."""

    features: Mapping[str, AutumnFeature]

    @cached_property
    def systems(self) -> Mapping[str, AutumnFeature]:
        """Return the credit systems that are not archived, by name."""
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
        """Return the account's credit system; None unless it has exactly one."""
        return next(iter(self.systems)) if len(self.systems) == 1 else None

    def payers(self, feature: str) -> Sequence[str]:
        """Return the credit systems that pay for a feature."""
        return self._payers.get(feature, ())

    def members(self, system: str) -> list[str]:
        """Return the consumable features that only this credit system pays for."""
        found = self.systems.get(system)
        names = found.costs if found is not None else ()
        return [name for name in names if len(self.payers(name)) == 1 and self.is_consumable(name)]

    def cost(self, feature: str, system: str) -> Decimal | None:
        """Return the cost of one unit in a credit system; None if it is not readable."""
        found = self.features.get(system)
        return None if found is None else found.costs.get(feature)

    def free_in(self, feature: str) -> str | None:
        """Return a credit system in which a feature costs zero.

        Return None if the feature is not in a credit system, or if its cost in a credit system is unreadable or not
        zero.
        """
        payers = self.payers(feature)
        return payers[0] if payers and all(self.cost(feature, system) == 0 for system in payers) else None

    def is_without(self, system: str, feature: str) -> bool:
        """Return True if a listed credit system is archived or does not pay for a feature.

        Return False if the list of features does not have the system, or cannot show whether the system pays for the
        feature.
        """
        found = self.features.get(system)
        if found is None or found.kind != SYSTEM:
            return False
        return found.archived or (found.names_all and feature not in found.costs)

    def is_in_none(self, feature: str) -> bool:
        """Return True if the account's credit systems all lack a feature.

        Return False for an account without credit systems, and for a feature that is a credit system.
        """
        if not self.systems or feature in self.systems:
            return False
        return all(self.is_without(system, feature) for system in self.systems)

    def is_consumable(self, feature: str) -> bool:
        """Return True if a feature is consumed, and not occupied as seats are.

        An unlisted feature counts as consumable.
        """
        found = self.features.get(feature)
        return found is None or found.consumable

    def costs(self, known: Sequence[Cost] = ()) -> list[Cost]:
        """Return the usable costs, at most one for each feature.

        If a feature of `known` lacks a usable cost now, return its last known cost with `unread`. Omit the feature if
        its credit system is archived or no longer pays for it.
        """
        told = [
            Cost(feature, system.name, cost)
            for system in self.systems.values()
            for feature, cost in system.costs.items()
            if cost is not None and 0 < cost <= MAX_COST and decimals(cost) <= MAX_DECIMALS
            if len(self.payers(feature)) == 1
        ]
        last = {cost.feature: cost for cost in known}
        kept = (last[name] for name in last.keys() - {cost.feature for cost in told})
        unread = [replace(cost, unread=True) for cost in kept if not self.is_without(cost.balance, cost.feature)]
        return told + sorted(unread, key=lambda cost: cost.feature)


def decimals(value: Decimal) -> int:
    """Return the number of digits after the decimal point, without trailing zeros."""
    _, digits, exponent = value.as_tuple()  # `normalize` would round to the digits of the context
    if not value or not isinstance(exponent, int):
        return 0
    zeros = next(at for at, digit in enumerate(reversed(digits)) if digit)
    return max(0, -exponent - zeros)


def read_features(body: Mapping[str, object]) -> Schema:
    """Return the account's features, from the response of `features.list`.

    Errors: Unreadable.
    """
    listed = body.get("list")
    if not isinstance(listed, list):
        raise Unreadable("Autumn's response lacks the list of features")
    found = [_feature(item) for item in listed if isinstance(item, dict) and isinstance(item.get("id"), str)]
    return Schema({feature.name: feature for feature in found})


def _feature(item: Mapping[str, object]) -> AutumnFeature:
    kind, schema = str(item.get("type")), item.get("credit_schema")
    return AutumnFeature(
        name=str(item["id"]),
        kind=kind,
        consumable=kind == SYSTEM or (kind == "metered" and item.get("consumable") is not False),
        archived=item.get("archived") is True,
        costs=_costs(schema),
        names_all=isinstance(schema, list) and all(_named(part) is not None for part in schema),
    )


def _named(part: object) -> str | None:
    name = part.get("metered_feature_id") if isinstance(part, dict) else None
    return name if isinstance(name, str) else None


def _costs(found: object) -> dict[str, Decimal | None]:
    costs: dict[str, Decimal | None] = {}
    for part in found if isinstance(found, list) else []:
        if (name := _named(part)) is not None:
            cost = number(part.get("credit_cost"))
            costs[name] = cost if costs.get(name, cost) == cost else None
    return costs


class KnownCosts:
    """The newest MOST_COSTS learned costs of each feature in each credit system."""

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
            ever.pop(one.credits, None)  # the newest comes last
            ever[one.credits] = None
            if len(ever) > MOST_COSTS:
                del ever[next(iter(ever))]

    def learn(self, schema: Schema) -> None:
        """Add the costs above zero, so that charges at unusable costs are converted, too."""
        for system in schema.features.values():
            self.add(Cost(name, system.name, cost) for name, cost in system.costs.items() if cost is not None)

    def of(self, feature: str) -> Costs:
        return {system: tuple(costs) for system, costs in self._found.get(feature, {}).items()}


_LIMIT: Final = 10**18
"""Largest number that Drawdown accepts in a customer's figures.

A larger number is an error, and 1e999999 would exhaust the memory.
"""
MOST_WAYS: Final = 1_000
"""Combinations of known costs to try for a charge over several credit systems."""
_HALF_UNIT: Final = Decimal("0.000001")
"""Largest difference between a sum of binary fractions and the whole number that it means."""
_PRINTED: Final = Decimal("5e-14")
"""Largest relative error of a sum that Autumn computes.

Autumn sums in binary floating point, so 14 printed digits are exact.
"""

Costs: TypeAlias = Mapping[str, Sequence[Decimal]]
"""Every known cost of one feature, by credit system."""


@dataclass(frozen=True)
class Deduction:
    """The deductions of one charge.

    `own`: in units of the charged feature. `credits`: by credit system.
    """

    own: Decimal
    credits: Mapping[str, Decimal]


NOTHING: Final = Deduction(Decimal(0), {})


@dataclass(frozen=True)
class Units:
    """The units that were charged.

    `exact`: True if the units are the requested quantity, at a known cost. `cost`: credits for one unit; None unless
    the charge drew on exactly one credit system. If a limit ended the charge inside a unit, that unit counts as
    charged. Then `cost` is a Fraction: the mean cost of all units. Own units count at the known cost.
    """

    quantity: Decimal
    exact: bool
    cost: UnitCost | None = None


@dataclass(frozen=True)
class Untold:
    """The result if the known costs do not convert credits to units, with the reason."""

    reason: str


def number(value: object) -> Decimal | None:
    """Return a JSON number exactly; None if it is not a number, or out of bounds."""
    if type(value) is int:  # the usual case
        return Decimal(value) if -_LIMIT <= value <= _LIMIT else None
    if not isinstance(value, Decimal):
        return None
    places = value.as_tuple().exponent
    return value if isinstance(places, int) and places >= -MOST_PLACES and -_LIMIT <= value <= _LIMIT else None


def whole(value: Decimal) -> int | None:
    """Return the whole number that a value equals within floating-point error.

    Return None if the value is not whole.
    """
    nearest = value.to_integral_value()
    return int(nearest) if abs(value - nearest) <= _HALF_UNIT else None


def deducted(item: Mapping[str, object], feature: str) -> Deduction | None:
    """Return the deductions of a charge's response or of a listed event.

    Return None if they are absent or unreadable.
    """
    deductions = item.get("deductions")
    if not isinstance(deductions, list):
        return None
    own, credits = Decimal(0), dict[str, Decimal]()
    for deduction in deductions:
        value = number(deduction.get("value")) if isinstance(deduction, dict) else None
        if value is None:
            return None
        name = deduction.get("feature_id")
        if name == feature:
            own += value
        elif value:
            credits[str(name)] = credits.get(str(name), Decimal(0)) + value
    return Deduction(own, credits)


def charged(taken: Deduction, asked: Decimal | None, costs: Costs) -> Units | Untold:
    """Return the units that were charged.

    Credits that match `asked` at a known cost are exactly that quantity. Other credits are converted if only one cost
    is known for each credit system. The units are rounded away from zero, so that a part of a unit is not charged or
    refunded twice.
    """
    if not taken.credits:
        return Units(taken.own, taken.own == asked)
    if any(not costs.get(system) for system in taken.credits):
        return Untold(f"Autumn took {_describe_deduction(taken)}, but the cost of this feature is unknown")
    matched = None if asked is None else _matched(taken, asked, costs)
    if asked is not None and matched is not None:
        return Units(asked, exact=True, cost=matched if len(taken.credits) == 1 else None)
    if any(len(costs[system]) > 1 for system in taken.credits):
        return Untold(
            f"Autumn took {_describe_deduction(taken)}, which does not match the requested quantity at any known cost"
        )
    units = taken.own + sum(value / costs[system][0] for system, value in taken.credits.items())
    nearest = whole(units)
    quantity = units.to_integral_value(ROUND_UP) if nearest is None else Decimal(nearest)
    if asked is not None and (abs(quantity) > abs(asked) or quantity * asked < 0):
        # In recorded calls, `overflow` never takes more than the requested quantity, so Autumn charged at another cost.
        return Untold(
            f"Autumn took {_describe_deduction(taken)}, more than the requested quantity costs at the known cost"
        )
    if len(taken.credits) != 1:
        return Units(quantity, exact=False)
    ((system, value),) = taken.credits.items()
    cost = costs[system][0]
    mean = cost if nearest is not None else _for_each(quantity, taken.own, value, cost)
    return Units(quantity, exact=False, cost=mean)


def _for_each(quantity: Decimal, own: Decimal, credits: Decimal, cost: Decimal) -> Fraction:
    """Return the credits that a charge took for each of its units.

    Own units count at their cost.
    """
    taken = Fraction(round(credits, MAX_DECIMALS)) + Fraction(own) * Fraction(cost)
    return taken / Fraction(quantity)


def _matched(taken: Deduction, asked: Decimal, costs: Costs) -> Decimal | None:
    """Return the known cost at which the deductions are the requested quantity.

    Return None if there is no such cost.

    With several credit systems, the result is the cost in the last system.
    """
    if prod(len(costs[system]) for system in taken.credits) > MOST_WAYS:
        return None
    rests = {asked - taken.own}
    systems = list(taken.credits)
    for system in systems[:-1]:
        rests = {rest - taken.credits[system] / cost for rest in rests for cost in costs[system]}
    found = taken.credits[systems[-1]]
    size = abs(found) + abs(taken.own) * max(costs[systems[-1]])
    # Allow a difference of at most half a unit. If digits run out, another quantity must not count as the requested
    # quantity.
    matching = (
        cost
        for rest in rests
        for cost in costs[systems[-1]]
        if abs(found - rest * cost) <= min(_PRINTED * size, cost / 2)
    )
    return next(matching, None)


def _describe_deduction(taken: Deduction) -> str:
    own = [f"{taken.own:f} {'unit' if taken.own == 1 else 'units'}"] if taken.own else []
    return " and ".join([*own, *(f"{value:f} of {system}" for system, value in sorted(taken.credits.items()))])


LIST_AGAIN_MS: Final = 5 * SECOND_MS
"""Shortest time between two reads of the list of features for charges.

Autumn allows an account 25 reads a second.
"""
SCHEMA_AGE_MS: Final = 10 * MINUTE_MS
"""Largest age of the credit schema when Drawdown reads a customer."""

Ask = Callable[[str, Mapping[str, object]], Awaitable[Mapping[str, object]]]


class AutumnAccount:
    """The cached list of features of an account, and its known costs."""

    def __init__(self, ask: Ask, clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self.schema = Schema({})
        self.costs = KnownCosts()
        self.is_read = False
        self.has_history = False
        """True if `read_with_history` added the costs that were learned before.

        Only then can a cost be known to be the only cost.
        """
        self._unlisted: set[str] = set()
        self._again_ms = self._read_ms = 0
        self._waiting: list[asyncio.Future[Unreadable | None]] | None = None
        """Callers that wait for the read in flight; None if no read is in flight."""

    async def read_with_history(self, known: Sequence[Cost]) -> Schema:
        """Add the costs that were learned before, and read the present costs.

        Errors: Unreadable.
        """
        self.costs.add(known)
        self.has_history = True
        return await self.read()

    async def read(self) -> Schema:
        """Read the list of features and its costs. Errors: Unreadable."""
        asked_ms = self._clock.now_ms()
        schema = read_features(await self._ask("features.list", {}))
        self.schema, self.is_read, self._read_ms = schema, True, asked_ms
        self.costs.learn(schema)
        return schema

    async def read_if_needed(self, names: set[str]) -> Schema:
        """Return the schema.

        Read it first if it was never read, lacks one of these names, or is too old. A name that a read did not find
        does not cause another read. If the schema is only too old, and cannot be read now, return the last schema.
        Errors: Unreadable.
        """
        if not self.is_read or not self._knows(names):
            await self._shared()
            self._note_unlisted(names)
        elif self._clock.now_ms() - self._read_ms > SCHEMA_AGE_MS:
            await self.read_again()
        return self.schema

    async def read_for_charge(self, name: str) -> Schema:
        """Return the schema for the balance that a charge names.

        If it cannot be read now, return the last schema.
        """
        if not self._knows({name}) and await self.read_again():
            self._note_unlisted({name})
        return self.schema

    def _note_unlisted(self, names: set[str]) -> None:
        if len(self._unlisted) > MAX_FEATURES:
            self._unlisted = set()  # look up each name once more
        self._unlisted |= names - self.schema.features.keys()

    def _knows(self, names: set[str]) -> bool:
        return all(name in self.schema.features or name in self._unlisted for name in names)

    async def read_again(self) -> bool:
        """Read the list again, and return True if it was read.

        Concurrent callers share one read. Return False if the last read by this method began less than LIST_AGAIN_MS
        ago and has ended, or if this read failed.
        """
        now = self._clock.now_ms()
        if self._waiting is None and now < self._again_ms:
            return False
        self._again_ms = now + LIST_AGAIN_MS
        try:
            await self._shared()
        except Unreadable:
            return False  # the last schema stays in use
        return True

    async def _shared(self) -> Schema:
        """Read the list, or wait for the read in flight.

        Only a caller that waits needs an event loop.
        """
        if self._waiting is not None:
            woken: asyncio.Future[Unreadable | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(woken)
            trouble = await woken
            if trouble is not None:
                raise trouble
            return self.schema
        self._waiting, trouble = [], Unreadable("features.list: the read was cancelled")
        try:
            schema = await self.read()
            trouble = None
        except Unreadable as failure:
            trouble = failure
            raise
        finally:
            woken_all, self._waiting = self._waiting, None
            for one in woken_all:
                if not one.done():
                    one.set_result(trouble)
        return schema


class Unreadable(DrawdownError):
    """Raised if Autumn's response reports an error, or cannot be read.

    `their_code`: Autumn's error code; None if the response lacks a code.
    """

    def __init__(self, reason: str, their_code: str | None = None, status: int | None = None) -> None:
        super().__init__(reason)
        self.their_code = their_code
        self.status = status


class TooMany(Unreadable):
    """Raised if Autumn's list has more entries than Drawdown reads."""
