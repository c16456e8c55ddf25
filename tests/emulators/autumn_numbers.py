"""Numbers and calendar of the emulated Autumn: exact inside, printed as the recorded server prints them."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

Number = int | Decimal
Given = int | float | Decimal
"""As tests write a number."""
Units = int | Fraction
"""Base units of a feature: a deduction in credits, divided by its cost, need not be a decimal."""
Json = dict[str, object]

ONE_OFF = "one_off"
"""What a top-up's part says in place of an interval."""
DAYS = {"day": 1, "week": 7}
MONTHS = {"month": 1, "quarter": 3, "semi_annual": 6, "year": 12}


def decimal(value: Fraction) -> Number:
    """A fraction as a decimal: exact where it can be one, else to the context's digits."""
    return exact(Decimal(value.numerator) / Decimal(value.denominator))


def exact(value: Given) -> Number:
    """The decimal that a number is written as; a whole one is an integer."""
    if isinstance(value, int):
        return int(value)
    found = Decimal(repr(value)) if isinstance(value, float) else value
    return int(found) if found.is_finite() and found == found.to_integral_value() else found


def whole(value: Units) -> Units:
    """An integer where it is one."""
    return value.numerator if value.denominator == 1 else value


def tidy(value: Number) -> int | float:
    """As balances are told."""
    return value if isinstance(value, int) else _plain(round(value, 10))


def short(value: Number) -> int | float:
    """As deductions are told."""
    return value if isinstance(value, int) else _plain(Decimal(f"{value:.14g}"))


def _plain(value: Decimal) -> int | float:
    return int(value) if value == int(value) else float(value)


def later(ts_ms: int, interval: str) -> int:
    """One interval after a moment, by the calendar (UTC)."""
    if interval == "hour":
        return ts_ms + 3_600_000
    if interval in DAYS:
        return ts_ms + DAYS[interval] * 86_400_000
    start = datetime.fromtimestamp(ts_ms // 1000, UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + MONTHS[interval], 12)
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return int(start.replace(year=year, month=month + 1, day=day).timestamp()) * 1000 + ts_ms % 1000
