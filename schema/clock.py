"""The clock. Guarantee: one injected clock. Only `SystemClock` reads the machine's."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Passed to everything that needs the time, the emulators of the tests included."""

    trusted: bool
    """True if an operator set the time (`--at`): then rule S9 asks no questions."""

    def now_ms(self) -> int:
        """The present moment in milliseconds since the epoch, UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def __init__(self, *, trusted: bool = False) -> None:
        self.trusted = trusted

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


@dataclass
class FixedClock:
    """A clock that stays where it was set: `--at T`, tests, the simulation."""

    at_ms: int
    trusted: bool = True

    def now_ms(self) -> int:
        return self.at_ms


def utc(ms: int) -> str:
    """Return a moment as refusals show it."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
