"""Deductions of Autumn's, converted to units of the charged feature. Pure.

Guarantee: the quantity that was asked never counts as the quantity that was charged. Credits are converted at a known
cost, or the answer is `Untold`. Facts: a charge can be split over own units and credits, and over a plan and top-ups. A
spend limit clamps an overflow. A sum can be printed as 5.759999999999999 (all recorded).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from math import prod
from typing import Final, TypeAlias

from drawdown.providers.careful import MOST_PLACES

_LIMIT: Final = 10**18
"""No number of a customer's is larger than this; one that is cannot be meant (and 1e999999 would eat the memory)."""
MOST_WAYS: Final = 1_000
"""Costs of several credit systems that one charge is tried at together."""
_HALF_UNIT: Final = Decimal("0.000001")
"""Sums of binary fractions may miss a whole number by less than this."""
_PRINTED: Final = Decimal("1e-14")
"""Autumn sums in binary floating point: 14 printed digits are right."""

Costs: TypeAlias = Mapping[str, Sequence[Decimal]]
"""Every known cost of one feature, by credit system."""


@dataclass(frozen=True)
class Taken:
    """The deductions of one charge: `own` in units of the charged feature, `credits` by the balance they came from."""

    own: Decimal
    credits: Mapping[str, Decimal]


NOTHING: Final = Taken(Decimal(0), {})


@dataclass(frozen=True)
class Units:
    """Units that were charged. `exact`: they are the quantity that was asked, at a known cost. `cost`: credits for one
    unit; None: no one credit system was drawn on."""

    quantity: Decimal
    exact: bool
    cost: Decimal | None = None


@dataclass(frozen=True)
class Untold:
    """The known costs do not say how many units the credits are."""

    reason: str


def number(value: object) -> Decimal | None:
    """A JSON number that can be meant, exactly."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    exact = Decimal(value)
    places = exact.as_tuple().exponent
    return exact if isinstance(places, int) and places >= -MOST_PLACES and -_LIMIT <= exact <= _LIMIT else None


def whole(value: Decimal) -> int | None:
    """The whole number this is, up to what floating point adds; None: it is none."""
    nearest = value.to_integral_value()
    return int(nearest) if abs(value - nearest) <= _HALF_UNIT else None


def deducted(item: Mapping[str, object], feature: str) -> Taken | None:
    """The deductions of a track's answer or of a listed event; None: it does not say."""
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
    return Taken(own, credits)


def charged(taken: Taken, asked: Decimal | None, costs: Costs) -> Units | Untold:
    """The units that were charged. Credits that match `asked` at any known cost are exactly that. Others are converted
    if one cost alone is known: up to a whole unit, so that no part of a unit is charged twice."""
    if not taken.credits:
        return Units(taken.own, taken.own == asked)
    if any(not costs.get(system) for system in taken.credits):
        return Untold(f"Autumn took {_shown(taken)}, and no cost of this feature is known")
    matched = None if asked is None else _matched(taken, asked, costs)
    if asked is not None and matched is not None:
        return Units(asked, exact=True, cost=matched if len(taken.credits) == 1 else None)
    if any(len(costs[system]) > 1 for system in taken.credits):
        return Untold(f"Autumn took {_shown(taken)}, which is the quantity that was asked at none of the known costs")
    units = taken.own + sum(value / costs[system][0] for system, value in taken.credits.items())
    nearest = whole(units)
    quantity = units.to_integral_value(ROUND_UP) if nearest is None else Decimal(nearest)
    if asked is not None and (abs(quantity) > abs(asked) or quantity * asked < 0):
        # `overflow` never takes more than was asked (recorded), so this cost is not the one it was charged at.
        return Untold(f"Autumn took {_shown(taken)}, more than was asked at the known cost")
    only = next(iter(taken.credits)) if len(taken.credits) == 1 else None
    return Units(quantity, exact=False, cost=None if only is None else costs[only][0])


def _matched(taken: Taken, asked: Decimal, costs: Costs) -> Decimal | None:
    """The known cost that makes the deductions what was asked, in the last of the credit systems; None: none does."""
    if prod(len(costs[system]) for system in taken.credits) > MOST_WAYS:
        return None
    rests = {asked - taken.own}
    systems = list(taken.credits)
    for system in systems[:-1]:
        rests = {rest - taken.credits[system] / cost for rest in rests for cost in costs[system]}
    found = taken.credits[systems[-1]]
    size = abs(found) + abs(taken.own) * max(costs[systems[-1]])
    # Half a unit at most: where digits run out, a quantity that differs is not taken for the one that was asked.
    matching = (
        cost
        for rest in rests
        for cost in costs[systems[-1]]
        if abs(found - rest * cost) <= min(_PRINTED * size, cost / 2)
    )
    return next(matching, None)


def _shown(taken: Taken) -> str:
    own = [f"{taken.own:f} units"] if taken.own else []
    return " and ".join([*own, *(f"{value:f} of {system}" for system, value in sorted(taken.credits.items()))])
