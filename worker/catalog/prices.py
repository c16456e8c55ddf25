"""Prices of quantities by the embedded ledger's rate card, for people who ask. Nothing is charged by them.

Guarantee: an amount is an integer number of micro-credits. A feature without a price has no amount, and none is
guessed.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from drawdown.ledger.rates import Rate, price, rate_for
from drawdown.ledger.wallet import read_rates


class Prices:
    """The rate card, looked up once for each feature and day it is asked about."""

    def __init__(self, rates: Sequence[Rate]) -> None:
        self._rates = rates

    @classmethod
    def read(cls, connection: sa.Connection) -> Prices:
        return cls(read_rates(connection))

    def of(self, feature: str, window_ms: int, quantity: int) -> int | None:
        """The price of one push in micro-credits, as the ledger would charge it; None where there is none."""
        rate = rate_for(self._rates, feature, window_ms)
        return None if rate is None else price(quantity, rate)


def add(amount: int | None, other: int | None) -> int | None:
    """A sum is known only where both parts are."""
    return None if amount is None or other is None else amount + other
