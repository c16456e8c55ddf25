"""Pure parsers of times and amounts that people type."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, SECOND_MS, WINDOW_MS, micro_of
from drawdown.schema.units import in_credits as in_credits

LATEST_MS: Final = 253_402_300_799_999
"""The last moment of the year 9999, the latest that Python's datetime supports."""


EARLIEST_MS: Final = -62_135_596_800_000
"""The first moment of the year 1, the earliest that Python's datetime supports."""
_PLAIN: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")
RELATIVE: Final = re.compile(r"(\+?)(\d{1,9})(s|m|h|d|w)")
UNITS_MS: Final = {"s": SECOND_MS, "m": MINUTE_MS, "h": 60 * MINUTE_MS, "d": DAY_MS, "w": 7 * DAY_MS}
DAYS: Final = {"yesterday": -1, "today": 0, "tomorrow": 1}
FORMS: Final = (
    "2026-01-31, 2026-01-31T12:05, 2026-01-31T12:05:00+01:00, milliseconds since 1970, now, today, yesterday, "
    "tomorrow, 2h or 3d (ago), +2h (from now)"
)


def parse_time(text: str, option: str, now_ms: int, zone: str = "UTC") -> int:
    """Return milliseconds since 1970, from one of `FORMS`.

    Times without an offset are in `zone`.

    Errors: UsageError, which names the option.
    """
    try:
        moment = _relative(text, now_ms, zone)
        if moment is None:
            moment = _absolute(text, zone)
        if not EARLIEST_MS <= moment <= LATEST_MS:
            raise ValueError("the time is outside the supported years")
        return moment
    except ZoneInfoNotFoundError as error:
        raise UsageError(f"unknown time zone {zone!r}: expected a name such as Europe/Berlin") from error
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{option}: invalid time {text!r}: expected {FORMS}") from error


def parse_ahead(text: str, option: str, now_ms: int) -> int:
    """Return a time that should be in the future, as `parse_time` reads it.

    An absolute time in the past is accepted, and so is `yesterday`. Errors: UsageError, also for `7d`, which means
    seven days ago.
    """
    moment = parse_time(text, option, now_ms)
    if RELATIVE.fullmatch(text) and not text.startswith("+"):
        raise UsageError(f"{option} {text} is in the past. For {text} from now, pass +{text}")
    return moment


def _relative(text: str, now_ms: int, zone: str) -> int | None:
    if text == "now":
        return now_ms
    if text in DAYS:
        day = in_zone(now_ms, ZoneInfo(zone)).date() + timedelta(days=DAYS[text])
        return _absolute(day.isoformat(), zone)
    found = RELATIVE.fullmatch(text)
    if found is None or not text.isascii():
        return None
    length = int(found[2]) * UNITS_MS[found[3]]
    return now_ms + length if found[1] else now_ms - length


def _absolute(text: str, zone: str) -> int:
    if text.isascii() and text.isdigit() and len(text) >= 12:
        return int(text)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(zone))
    seconds = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (seconds.days * 86_400 + seconds.seconds) * 1000 + seconds.microseconds // 1000


def parse_zone(zone: str) -> ZoneInfo:
    """Return a time zone. Errors: UsageError for an unknown zone."""
    try:
        return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(f"--zone: unknown time zone {zone!r}: expected a name such as Europe/Berlin") from error


def in_zone(ms: int, zone: ZoneInfo) -> datetime:
    """Return a moment as the local time of a time zone."""
    return datetime.fromtimestamp(ms // 1000, UTC).astimezone(zone)


def offset_of(moment: datetime) -> str:
    """Return the offset of a moment, such as `UTC+01:00`."""
    return f"UTC{moment.isoformat()[19:]}"


def is_said_twice(text: str, zone: ZoneInfo) -> bool:
    """Return True if a time without an offset occurs twice, or never, in a zone.

    This happens at a clock change.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return False
    local = moment.replace(tzinfo=zone)
    return moment.tzinfo is None and local.utcoffset() != local.replace(fold=1).utcoffset()


def parse_window(text: str, option: str, now_ms: int) -> int:
    """Return the start of a window.

    A time relative to now means the window that contains it.

    Errors: UsageError, also for an absolute time between two boundaries.
    """
    moment = parse_time(text, option, now_ms)
    near = moment - moment % WINDOW_MS
    if near == moment or text == "now" or RELATIVE.fullmatch(text):
        return near
    raise UsageError(
        f"{option}: {show_time(moment)} is not a window boundary. Pass the boundary before it, {show_time(near)}"
    )


def require_range(from_ms: int | None, to_ms: int | None) -> None:
    """Reject an empty range.

    Otherwise an empty result would look as if no rows existed. Errors: UsageError.
    """
    if from_ms is not None and to_ms is not None and to_ms <= from_ms:
        what = "ends before it begins" if to_ms < from_ms else "is empty"
        raise UsageError(
            f"the range {what} ({show_time(from_ms)} to {show_time(to_ms)}): --to must be later than --from"
        )


def parse_length(text: str, option: str) -> int:
    """Return a length of time in milliseconds, from a text such as `45m` or `35d`.

    Errors: UsageError, which names the option.
    """
    found = RELATIVE.fullmatch(text)
    if found is None or found[1] or not text.isascii():
        raise UsageError(
            f"{option}: invalid length of time {text!r}: expected 1 to 9 digits and a unit, such as 45m, 6h or 2d"
        )
    return int(found[2]) * UNITS_MS[found[3]]


def show_time(ms: int | None) -> str:
    """Return a moment as ISO 8601 in UTC; `-` for None.

    The text shows seconds, and milliseconds if needed.
    """
    if ms is None:
        return "-"
    moment = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{ms % 1000:03d}Z" if ms % 1000 else f"{moment}Z"


def lasting(ms: int) -> str:
    """Return a duration as text: `45 s`, `3 h 12 min`, `2 d 4 h`."""
    seconds = max(ms, 0) // 1000
    for size, name, less, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            rest = seconds % size // less
            return f"{seconds // size:,} {name}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"


def plain_decimal(text: str) -> Decimal:
    """Return a number with an optional sign, digits and a decimal point.

    Errors: InvalidOperation.

    An exponent, digits of other scripts and underscores are rejected, because in an amount they are probably mistakes.
    """
    if not _PLAIN.fullmatch(text):
        raise InvalidOperation
    return Decimal(text)


def parse_credits(text: str) -> int:
    """Return micro-credits, from a decimal number of credits.

    Errors: UsageError for a text that is not a number, is finer than a micro-credit, or exceeds 1,000,000,000 credits.
    """
    try:
        return micro_of(plain_decimal(text))
    except InvalidOperation as error:
        raise UsageError(f"invalid amount {text!r}: expected credits such as 12 or 12.50") from error
    except ValueError as error:
        raise UsageError(
            f"invalid amount {text!r}: expected at most six decimals, and at most 1,000,000,000"
        ) from error


def show_credits(micro: int) -> str:
    """Return credits as text, with as many decimals as needed, at least two."""
    whole, rest = divmod(abs(micro), MICRO)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micro < 0 else ''}{whole:,}.{decimals}"


def type_credits(micro: int) -> str:
    """Return credits as people type them, without commas."""
    return show_credits(micro).replace(",", "")


def parse_percent(text: str) -> int:
    """Return parts per million, from a percentage: `70` or `12.5`. Errors: UsageError."""
    try:
        ppm = plain_decimal(text.removesuffix("%")) * 10_000
    except ArithmeticError as error:
        raise UsageError(f"invalid percentage {text!r}: expected a number such as 70 or 12.5") from error
    if not ppm.is_finite() or ppm != ppm.to_integral_value() or not 0 <= ppm <= 1_000_000:
        raise UsageError(f"invalid percentage {text!r}: expected 0 to 100, with at most four decimals")
    return int(ppm)


def show_percent(ppm: int) -> str:
    """Return parts per million as a percentage: `70 %`, `12.5 %`."""
    return f"{Decimal(ppm) / 10_000:f} %"


def is_quantity(text: str) -> bool:
    """Return True if a text is a whole number of base units, in plain digits.

    A database can store the number.
    """
    return text.isascii() and text.isdigit() and len(text) <= 18


def parse_quantities(use: list[str] | None) -> dict[str, int] | None:
    """Return base units by feature, from texts such as `tokens=1200`.

    Return None for an empty list. Errors: UsageError.
    """
    found: dict[str, int] = {}
    for text in use or []:
        feature, _, quantity = text.partition("=")
        if not feature or not is_quantity(quantity) or feature in found:
            raise UsageError(
                f"invalid --use {text!r}: expected FEATURE=N, each feature once, N a whole number of base units"
            )
        found[feature] = int(quantity)
    return found or None
