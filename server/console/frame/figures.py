"""Format money, quantities and times for pages.

Guarantee: an unknown value is a dash, never a zero. A negative number has a minus sign (U+2212), which differs from a
hyphen in every font. If an amount above zero would round to zero, the text is `<0.01`. Times for people are in UTC, to
the minute.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from drawdown.schema.typed.parsing import EARLIEST_MS, LATEST_MS
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, SECOND_MS

UNKNOWN: Final = "\N{EN DASH}"
MINUS: Final = "\N{MINUS SIGN}"
_CENT: Final = MICRO // 100
PRICED: Final = 1_000
"""Number of base units of a shown price.

The price of one unit is often too small to read.
"""


def credits(micro: int | None) -> str:
    """Return an amount of credits with two decimals, halves rounded away from zero."""
    if micro is None:
        return UNKNOWN
    size = abs(micro)
    cents = (size + _CENT // 2) // _CENT
    sign = MINUS if micro < 0 else ""
    if size and not cents:
        return f"{'>' if sign else '<'}{sign}0.01"
    return f"{sign}{cents // 100:,}.{cents % 100:02}"


def exact(micro: int | None) -> str:
    """Return an exact amount of credits, with two to six decimals."""
    if micro is None:
        return UNKNOWN
    whole, rest = divmod(abs(micro), MICRO)
    return f"{MINUS if micro < 0 else ''}{whole:,}.{f'{rest:06d}'.rstrip('0').ljust(2, '0')}"


def moved(micro: int | None) -> str:
    """Return the text of `exact`, with a plus for a positive amount."""
    text = exact(micro)
    return f"+{text}" if micro is not None and micro > 0 else text


def signed(micro: int | None) -> str:
    """Return the text of `credits`, with a plus for a positive amount."""
    text = credits(micro)
    return f"+{text}" if micro is not None and micro > 0 and not text.startswith("<") else text


def count(number: int | None) -> str:
    """Return a whole number with commas between thousands."""
    if number is None:
        return UNKNOWN
    return f"{MINUS if number < 0 else ''}{abs(number):,}"


def time(ms: int | None) -> str:
    """Return a time such as `2026-11-20 23:15`.

    The page's head has the time zone.
    """
    return UNKNOWN if ms is None else _written(ms, "%Y-%m-%d %H:%M")


def day(ms: int | None) -> str:
    """Return a day such as `2026-11-20`."""
    return UNKNOWN if ms is None else _written(ms, "%Y-%m-%d")


def iso(ms: int) -> str:
    """Return a time to the second, such as `2026-11-20T23:15:00Z`, for programs."""
    return _written(ms, "%Y-%m-%dT%H:%M:%SZ")


def _written(ms: int, form: str) -> str:
    """Return a formatted time, or its milliseconds if it is outside the calendar.

    A host with a wrong clock may have reported a time outside the calendar.
    """
    if not EARLIEST_MS <= ms <= LATEST_MS:
        return f"{ms} ms"
    return datetime.fromtimestamp(ms // 1000, UTC).strftime(form)


def lasting(ms: int | None) -> str:
    """Return a duration in suitable units: `45 s`, `3 h 12 min`, `2 d 4 h`."""
    if ms is None:
        return UNKNOWN
    ms = max(ms, 0)
    for size, name, less, smaller in ((DAY_MS, "d", 60 * MINUTE_MS, "h"), (60 * MINUTE_MS, "h", MINUTE_MS, "min")):
        if ms >= size:
            rest = ms % size // less
            return f"{ms // size:,} {name}" + (f" {rest} {smaller}" if rest else "")
    return f"{ms // MINUTE_MS} min" if ms >= MINUTE_MS else f"{ms // SECOND_MS} s"


def ago(ms: int | None, now_ms: int) -> str:
    """Return the distance from now, such as `2 d 4 h ago`.

    Show the distance beside a time, never in place of the time.
    """
    if ms is None:
        return "never"
    return f"{lasting(now_ms - ms)} ago" if ms <= now_ms else f"in {lasting(ms - now_ms)}"


def plain(micro: int | None) -> str | None:
    """Return an amount of credits for programs, with six decimals and without commas.

    A negative amount begins with a hyphen.
    """
    if micro is None:
        return None
    digits = f"{abs(micro):07d}"
    return f"{'-' if micro < 0 else ''}{digits[:-6]}.{digits[-6:]}"
