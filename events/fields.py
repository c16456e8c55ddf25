"""Single values of an item: a text, a moment, a quantity, labels and properties.

Guarantee: this module is pure and exact. A value is read exactly, or rejected by a code. Numbers are never rounded, and
the time to read a number grows only with its length. A time in ISO 8601 has one meaning, in events, samples and files.
A leap second becomes the last moment before it, because most clocks cannot show it. Hour 24 is rejected, because
programs disagree on its day.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from drawdown.events.body_items import MAX_DEPTH, Item
from drawdown.events.envelope import MAX_QUANTITY, Unfit
from drawdown.schema.text import quote_value

MOST_VALUES: Final = 100
"""Values in an event's properties, including nested values."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:[.,]([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)
_NUMBER: Final = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?")
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_LAST_MOMENT: Final = 10**15
_FINEST: Final = 100
"""Decimals of a number that are read. A sensible number has fewer."""


def text_of(item: Item, name: str, at: str) -> str:
    """Return a text that must be present. Errors: Unfit `missing`, `wrong_type`."""
    found = optional_text(item, name, at)
    if found is None:
        raise Unfit("missing", f"{at} is missing", at)
    return found


def optional_text(item: Item, name: str, at: str) -> str | None:
    """Return a text; None if it is missing or null. Errors: Unfit `wrong_type`."""
    found = item.get(name)
    if found is not None and not isinstance(found, str):
        raise Unfit("wrong_type", f"{at} must be a string", at)
    return found


MOMENT_SCHEMA: Final[dict[str, Any]] = {
    "oneOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "description": "Milliseconds since 1970"}]
}
"""The JSON schema of a moment."""


def moment_of(value: object, at: str) -> int:
    """Return milliseconds since 1970, from ISO 8601 with its offset or from a number.

    A number must be whole milliseconds. The parts of an ISO time that are finer than a millisecond are cut off.

    Errors: Unfit `bad_time`.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < _LAST_MOMENT:
            raise Unfit("bad_time", f"invalid {at} {quote_value(value)}: expected milliseconds since 1970", at)
        return value
    if not isinstance(value, str):
        raise Unfit("bad_time", f"{at} must be a time such as 2026-02-03T04:05:06Z, or milliseconds since 1970", at)
    return _of_iso(value, at)


def _of_iso(text: str, at: str) -> int:
    found = _TIME.fullmatch(text)
    if found is None:
        raise Unfit(
            "bad_time", f"invalid {at} {quote_value(text)}: expected ISO 8601 such as 2026-02-03T04:05:06.789Z", at
        )
    day, clock, part, offset = found.groups()
    if offset is None:
        raise Unfit(
            "bad_time",
            f"invalid {at} {quote_value(text)}: it does not have an offset. Append Z, or an offset such as +01:00",
            at,
        )
    try:
        return (from_iso(f"{day}T{clock}.{((part or '') + '000')[:3]}{offset}") - _EPOCH) // _MS
    except (ValueError, OverflowError):
        raise Unfit("bad_time", f"invalid {at} {quote_value(text)}: expected a valid date and time", at) from None


def quantity_of(value: object, at: str) -> int:
    """Return a whole number of base units, from a JSON number or a text.

    3.0 is 3, and 1.5 is rejected.

    Errors: Unfit `missing`, `wrong_type`, `not_whole`, `bad_quantity`.
    """
    if value is None:
        raise Unfit("missing", f"{at} is missing", at)
    number = value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        number = Decimal(value)
    if isinstance(number, bool) or not isinstance(number, int | Decimal):
        raise Unfit("wrong_type", f"{at} must be a number", at)
    if not 0 <= number <= MAX_QUANTITY:  # check before arithmetic, because 1e999999 has a million digits
        raise Unfit("bad_quantity", f"{at} must be 0 to {MAX_QUANTITY:,} base units", at)
    if isinstance(number, Decimal) and (number.adjusted() < -_FINEST or number != number.to_integral_value()):
        raise Unfit("not_whole", f"{at} must be a whole number of base units. Count fractions in a smaller unit", at)
    return int(number)


def properties_of(found: Mapping[str, object], at: str) -> dict[str, object]:
    """Return an event's own properties, as they are stored.

    Errors: Unfit `too_deep`, `properties_too_large`, `bad_text`, `bad_number`.
    """
    left = [MOST_VALUES]
    return {_storable(name, at): _plain(value, f"{at}.{name}", 2, left) for name, value in found.items()}


def _plain(value: object, at: str, depth: int, left: list[int]) -> object:
    left[0] -= 1
    if left[0] < 0:
        raise Unfit(
            "properties_too_large",
            f"too many properties: at most {MOST_VALUES} values are allowed. Send fewer properties",
            "properties",
        )
    if isinstance(value, dict | list) and depth >= MAX_DEPTH:
        raise Unfit(
            "too_deep", f"nested too deeply: objects and arrays may nest {MAX_DEPTH} levels. Use fewer levels", at
        )
    match value:
        case str():
            return _storable(value, at)
        case Decimal():
            return _float(value, at)
        case dict():
            return {_storable(name, at): _plain(one, f"{at}.{name}", depth + 1, left) for name, one in value.items()}
        case list():
            return [_plain(one, f"{at}.{number}", depth + 1, left) for number, one in enumerate(value)]
    return value


def _float(number: Decimal, at: str) -> float:
    found = float(number)
    if not math.isfinite(found):
        raise Unfit(
            "bad_number", f"invalid {at} {quote_value(number)}: the number is too large. Send a smaller number", at
        )
    return found


def _storable(text: str, at: str) -> str:
    if _UNSTORABLE.search(text):
        raise Unfit("bad_text", f"{at} has a NUL character or half of a surrogate pair. Remove these characters", at)
    return text


_LEAP: Final = re.compile(r"([Tt ][0-9]{2}:[0-9]{2}):60(?:[.,][0-9]+)?(?=$|[Zz+-])")
_HOUR_24: Final = re.compile(r"[Tt ]24(?=$|[:Zz+-])")


def from_iso(text: str) -> datetime:
    """Return the time in an ISO 8601 text, with its offset if it has any.

    Errors: ValueError.
    """
    if text[4:5] != "-":  # fromisoformat accepts "20241115", and some counts of milliseconds
        raise ValueError("invalid date: expected an extended ISO date")
    if _HOUR_24.search(text) is not None:
        raise ValueError("invalid hour: expected 0 to 23")
    return datetime.fromisoformat(_LEAP.sub(r"\1:59.999", text).upper())
