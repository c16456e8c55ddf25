"""The clock.

Guarantee: the time comes from one injected clock. Only `SystemClock` reads the machine's clock.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The source of the time, passed to all code that needs it."""

    trusted: bool
    """True if an operator set the time (`--at`).

    Rule S9 does not doubt a trusted clock.
    """

    def now_ms(self) -> int:
        """Return the present moment, in milliseconds since 1970 in UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def __init__(self, *, trusted: bool = False) -> None:
        self.trusted = trusted

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


@dataclass
class FixedClock:
    """A clock that stays at a fixed time, for `--at T`, tests and the simulation."""

    at_ms: int
    trusted: bool = True

    def now_ms(self) -> int:
        return self.at_ms


def utc(ms: int) -> str:
    """Return a moment (milliseconds) as text for messages: 2026-01-01T00:00:00Z."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
