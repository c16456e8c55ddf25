"""Prices of quantities by the embedded ledger's rate card, for people who ask. Nothing is charged by them.

Guarantee: an amount is an integer number of micro-credits. A feature without a price has no amount, and none is
guessed.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.ledger.rates import RateCard, read_rate_card


def rate_card(connection: sa.Connection) -> RateCard:
    """The rates as they are now."""
    return read_rate_card(connection)


def add(amount: int | None, other: int | None) -> int | None:
    """A sum is known only where both parts are."""
    return None if amount is None or other is None else amount + other
