"""The rate card: the price of a quantity. Pure.

Guarantee: a price is an integer number of micro-credits, and a negative quantity costs exactly the negative of the
positive one, so that giving back leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drawdown.schema.units import MicroCredits


@dataclass(frozen=True)
class Rate:
    """`micro_credits` for each `per_quantity` base units of a feature used at or after `start_ms`."""

    feature: str
    start_ms: int
    micro_credits: int
    per_quantity: int


def rate_for(rates: Sequence[Rate], feature: str, ts: int) -> Rate | None:
    """The rate in force for a feature at a moment; None where it has none."""
    begun = [rate for rate in rates if rate.feature == feature and rate.start_ms <= ts]
    return max(begun, key=lambda rate: rate.start_ms, default=None)


def price(quantity: int, rate: Rate) -> MicroCredits:
    """The price in micro-credits, rounded half away from zero."""
    doubled = abs(quantity) * rate.micro_credits * 2 + rate.per_quantity
    amount = doubled // (2 * rate.per_quantity)
    return MicroCredits(-amount if quantity < 0 else amount)
