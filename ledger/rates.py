"""The rate card: the price of a quantity, and the query of the card.

Guarantee: a price is an integer number of micro-credits. A negative quantity costs exactly the negative of the positive
quantity's cost, so that a refund does not leave a remainder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from drawdown.schema.clock import utc
from drawdown.schema.sql import Part, queries
from drawdown.schema.units import EVER_MS, WINDOW_MS, MicroCredits, next_window

SQL = queries(__file__)


@dataclass(frozen=True)
class Rate:
    """The price of a feature, from `start_ms` (milliseconds) on.

    The price is `micro_credits` for each `per_quantity` base units.
    """

    feature: str
    start_ms: int
    micro_credits: int
    per_quantity: int

    def price(self, quantity: int) -> MicroCredits:
        """Return the price of a quantity in micro-credits, rounded half away from zero."""
        doubled = abs(quantity) * self.micro_credits * 2 + self.per_quantity
        amount = doubled // (2 * self.per_quantity)
        return MicroCredits(-amount if quantity < 0 else amount)


class RateCard:
    """The rates of features, each from its start on."""

    def __init__(self, rates: Iterable[Rate]) -> None:
        self.rates = sorted(rates, key=lambda rate: (rate.feature, rate.start_ms))
        self._of: dict[str, list[Rate]] = defaultdict(list)
        for rate in self.rates:
            self._of[rate.feature].append(rate)

    def rate(self, feature: str, ts: int) -> Rate | None:
        """Return the rate of a feature at a moment (milliseconds).

        Return None if the feature did not have a rate at that moment.
        """
        return next((rate for rate in reversed(self._of.get(feature, [])) if rate.start_ms <= ts), None)

    def has_others(self, rate: Rate) -> bool:
        """Return True if the feature had an earlier rate.

        Use at the same time may have been charged at the earlier rate.
        """
        return self._of[rate.feature][0] is not rate

    def explain_taken_start(self, feature: str, start_ms: int, now_ms: int) -> str:
        """Return why a second rate cannot begin at a moment, and the next possible start."""
        begun = {rate.start_ms for rate in self._of.get(feature, [])}
        free = max(start_ms + WINDOW_MS, next_window(now_ms))
        while free in begun:
            free += WINDOW_MS
        return (
            f"a rate from {utc(start_ms)} exists. Rates are append-only. Use --from "
            f"{utc(free)} or later; earlier usage keeps its rates"
        )

    def price(self, feature: str, ts: int, quantity: int) -> MicroCredits | None:
        """Return the cost of a quantity of a feature used at a moment, in micro-credits.

        Return None if the feature did not have a rate at that moment.
        """
        rate = self.rate(feature, ts)
        return None if rate is None else rate.price(quantity)


def read_rate_card(connection: sa.Connection, known_ms: int = EVER_MS) -> RateCard:
    """Return the rate card: all of it, or the rates that were on it at `known_ms`.

    A rate can be set for a past time, but an execution is priced by the card at its acceptance.
    """
    return rate_card(SQL.run(connection, "rates", {"known_ms": known_ms}))


def rates_part() -> Part:
    """Return the query of the whole rate card, to run together with other queries.

    Pass its rows to `rate_card`.
    """
    return SQL.part("rates", {"known_ms": EVER_MS})


def rate_card(rows: Iterable[Any]) -> RateCard:
    """Return the rate card in the rows of `rates_part`."""
    return RateCard(Rate(row.feature, row.start_ms, row.micro_credits, row.per_quantity) for row in rows)
