"""Money, quantities and times as pages show them.

Guarantee: an unknown value is a dash, never a zero; a negative number has a minus sign (U+2212) that no font takes for
a hyphen; an amount that would round to zero is shown as less than a cent. Times are UTC, to the minute.
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
"""Number of base units that a shown price is for: the price of one unit would often be too small to read."""


def credits(micro: int | None) -> str:
    """Two decimals, halves away from zero."""
    if micro is None:
        return UNKNOWN
    size = abs(micro)
    cents = (size + _CENT // 2) // _CENT
    sign = MINUS if micro < 0 else ""
    if size and not cents:
        return f"{'>' if sign else '<'}{sign}0.01"
    return f"{sign}{cents // 100:,}.{cents % 100:02}"


def exact(micro: int | None) -> str:
    """Return an amount to all six decimals, without zeros at the end, to be compared."""
    if micro is None:
        return UNKNOWN
    whole, rest = divmod(abs(micro), MICRO)
    return f"{MINUS if micro < 0 else ''}{whole:,}.{f'{rest:06d}'.rstrip('0').ljust(2, '0')}"


def moved(micro: int | None) -> str:
    """Return the same as `exact`, with a plus if it is positive."""
    text = exact(micro)
    return f"+{text}" if micro is not None and micro > 0 else text


def signed(micro: int | None) -> str:
    """Return the same as `credits`, with a plus if it is positive."""
    text = credits(micro)
    return f"+{text}" if micro is not None and micro > 0 and not text.startswith("<") else text


def count(number: int | None) -> str:
    """A whole number, its thousands apart."""
    if number is None:
        return UNKNOWN
    return f"{MINUS if number < 0 else ''}{abs(number):,}"


def time(ms: int | None) -> str:
    """Return `2026-11-20 23:15`; the page's head has the zone."""
    return UNKNOWN if ms is None else _written(ms, "%Y-%m-%d %H:%M")


def day(ms: int | None) -> str:
    """`2026-11-20`."""
    return UNKNOWN if ms is None else _written(ms, "%Y-%m-%d")


def iso(ms: int) -> str:
    """For programs, to the second."""
    return _written(ms, "%Y-%m-%dT%H:%M:%SZ")


def _written(ms: int, form: str) -> str:
    """One that no calendar here knows, as its milliseconds: a host's clock may have written it."""
    if not EARLIEST_MS <= ms <= LATEST_MS:
        return f"{ms} ms"
    return datetime.fromtimestamp(ms // 1000, UTC).strftime(form)


def lasting(ms: int | None) -> str:
    """Return a length of time in units of its size: `45 s`, `3 h 12 min`, `2 d 4 h`."""
    if ms is None:
        return UNKNOWN
    ms = max(ms, 0)
    for size, name, less, smaller in ((DAY_MS, "d", 60 * MINUTE_MS, "h"), (60 * MINUTE_MS, "h", MINUTE_MS, "min")):
        if ms >= size:
            rest = ms % size // less
            return f"{ms // size:,} {name}" + (f" {rest} {smaller}" if rest else "")
    return f"{ms // MINUTE_MS} min" if ms >= MINUTE_MS else f"{ms // SECOND_MS} s"


def ago(ms: int | None, now_ms: int) -> str:
    """Beside a time, never in its place."""
    if ms is None:
        return "never"
    return f"{lasting(now_ms - ms)} ago" if ms <= now_ms else f"in {lasting(ms - now_ms)}"


def plain(micro: int | None) -> str | None:
    """For programs: all decimals, a hyphen for less than nothing, no thousands."""
    if micro is None:
        return None
    digits = f"{abs(micro):07d}"
    return f"{'-' if micro < 0 else ''}{digits[:-6]}.{digits[-6:]}"
