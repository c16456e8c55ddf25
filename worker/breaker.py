"""A circuit breaker per provider or cell. Guarantee: after a row of failures nothing is sent for a while, so that an
outage costs one call now and then, and others lose no time to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drawdown.schema.units import SECOND_MS

OPEN_AFTER: Final = 5
OPEN_FOR_MS: Final = 30 * SECOND_MS


@dataclass
class Breaker:
    """Counts calls that failed in a row."""

    failures: int = 0
    open_after: int = OPEN_AFTER
    open_until_ms: int = 0

    def allows(self, now_ms: int) -> bool:
        """Whether a call may be made. Once the time is over, one call decides."""
        return self.failures < self.open_after or now_ms >= self.open_until_ms

    def note(self, *, failed: bool, now_ms: int) -> None:
        """Record what became of a call."""
        self.failures = self.failures + 1 if failed else 0
        if self.failures >= self.open_after:
            self.open_until_ms = now_ms + OPEN_FOR_MS
