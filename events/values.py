"""The quantity of an event that does not state a quantity.

The quantity is 1, or the value at a path in the event's data.

Guarantee: this module is pure and exact. A value times its scale must be a whole number of base units. Otherwise the
value is rejected by a code with its place. Numbers are never rounded. The terms are those of OpenMeter's meters: an
aggregation (`count`, `sum`) and a value property (`$.usage.tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Final

from drawdown.events.body_items import MAX_DEPTH
from drawdown.events.envelope import Unfit
from drawdown.events.fields import quantity_of
from drawdown.schema.errors import UsageError

COUNT: Final = "count"
SUM: Final = "sum"
MAX_VALUE_SCALE: Final = 1_000_000_000
"""Largest factor that makes a fractional value whole, such as seconds to nanoseconds."""
MAX_PATH_CHARS: Final = 200
"""Most characters of the path to an event's value."""
MAX_VALUE_DIGITS: Final = 100
"""Most digits of an event's value that Drawdown multiplies.

A plausible number has fewer digits.
"""
_EXACT: Final = Context(prec=2 * MAX_VALUE_DIGITS)
_PATH: Final = re.compile(r"\$(?:\.[A-Za-z0-9_-]+)+")
_NUMBER: Final = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?")


@dataclass(frozen=True)
class EventValue:
    """The value of an event type.

    `aggregation`: `count` or `sum`. `path`: the path into the event's data, from `$`; None if events are counted.
    `scale`: the factor from the value to base units. Errors: UsageError.
    """

    aggregation: str
    path: str | None = None
    scale: int = 1

    def __post_init__(self) -> None:
        if self.aggregation == COUNT:
            if self.path is not None or self.scale != 1:
                raise UsageError("invalid count: it cannot have a path or a scale. To bill a value, pass --sum PATH")
            return
        path = self.path or ""
        if self.aggregation != SUM or len(path) > MAX_PATH_CHARS or not _PATH.fullmatch(path):
            raise UsageError(
                f"invalid path {path!r}: expected keys of the data, such as $.duration_ms or $.usage.tokens"
            )
        if len(self.keys) >= MAX_DEPTH:
            raise UsageError(f"invalid path {path!r}: expected at most {MAX_DEPTH - 1} keys after $")
        if not 1 <= self.scale <= MAX_VALUE_SCALE:
            raise UsageError(f"invalid scale {self.scale}: expected a whole number from 1 to {MAX_VALUE_SCALE:,}")

    @property
    def keys(self) -> list[str]:
        return (self.path or "$").split(".")[1:]

    def quantity(self, data: Mapping[str, object], at: str) -> int:
        """Return the quantity of an event, by its data.

        `at`: the sender's name for the data. Errors: Unfit.
        """
        if self.aggregation == COUNT:
            return 1
        found: object = data
        for key in self.keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        place = ".".join((at, *self.keys))
        return quantity_of(self._scaled(found, place), place)

    def _scaled(self, value: object, at: str) -> object:
        """Return a number times the scale; any other value unchanged. Errors: Unfit."""
        number = Decimal(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
        if self.scale == 1 or isinstance(number, bool) or not isinstance(number, int | Decimal):
            return value
        if isinstance(number, int):
            return number * self.scale
        if len(number.as_tuple().digits) > MAX_VALUE_DIGITS or abs(number.adjusted()) > MAX_VALUE_DIGITS:
            raise Unfit("bad_quantity", f"{at} has more than {MAX_VALUE_DIGITS} digits. Send fewer digits", at)
        return _EXACT.multiply(number, Decimal(self.scale))

    @property
    def share(self) -> str:
        """Return the quantity of one event as text, for messages."""
        times = f" times {self.scale:,}" if self.scale != 1 else ""
        return "1 unit" if self.aggregation == COUNT else f"the value at {self.path}{times}"

    def __str__(self) -> str:
        times = f" times {self.scale:,}" if self.scale != 1 else ""
        return "count of events" if self.aggregation == COUNT else f"sum of {self.path}{times}"
