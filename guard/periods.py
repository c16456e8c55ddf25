"""The periods in which the guard counts, and the span of concurrent use.

Periods are hours, days and months in UTC.

Guarantee: this module is pure. The periods of a kind do not overlap, and cover every moment. Each counter has the start
of its period in its key, so Drawdown never resets a counter to zero. Moments are milliseconds.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

from drawdown.ledger import calendar
from drawdown.schema.units import DAY_MS, MINUTE_MS

Period: TypeAlias = Literal["hour", "day", "month"]
Span: TypeAlias = Literal["hour", "day", "month", "at_once"]
"""The span of a limit.

A limit bounds the use in a period, or the number that exists at the same time.
"""

PERIODS: Final[tuple[Period, ...]] = get_args(Period)
"""The periods, from the shortest to the longest."""
SPANS: Final[tuple[Span, ...]] = get_args(Span)
_LENGTH: Final = {"hour": 60 * MINUTE_MS, "day": DAY_MS}


def start_of(period: Period, moment_ms: int) -> int:
    """Return the start of the period of a moment, in milliseconds."""
    if period == "month":
        return calendar.start_of(moment_ms)
    return moment_ms - moment_ms % _LENGTH[period]


def end_of(period: Period, moment_ms: int) -> int:
    """Return the start of the next period after a moment, in milliseconds."""
    if period == "month":
        return calendar.next_start(moment_ms)
    return start_of(period, moment_ms) + _LENGTH[period]


def starts(moment_ms: int) -> dict[Period, int]:
    """Return the start of each period of a moment, in milliseconds."""
    return {period: start_of(period, moment_ms) for period in PERIODS}
