"""A circuit per provider or cell. Guarantee: after several failures in a row nothing is sent for a while. So an
outage costs one call now and then, and delays no other provider or cell."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from drawdown.schema.units import SECOND_MS

OPEN_AFTER: Final = 5
OPEN_FOR_MS: Final = 30 * SECOND_MS
"""Time for which Drawdown does not call a failing provider."""


@dataclass
class Breaker:
    """Counts calls that failed in a row. If failures name their customers, each new name counts once."""

    failures: int = 0
    open_after: int = OPEN_AFTER
    open_until_ms: int = 0
    named: set[str] = field(default_factory=set)

    def allows(self, now_ms: int) -> bool:
        """Return True if a call may be made. Once the time is over, one call decides."""
        return self.failures < self.open_after or now_ms >= self.open_until_ms

    def note(self, *, failed: bool, now_ms: int, about: Collection[str] = ()) -> None:
        """Record the outcome of a call. `about`: the only customers that its failure may concern."""
        if not failed:
            self.failures = 0
            self.named.clear()
            return
        if self.failures < self.open_after and not (about and self.named.issuperset(about)):
            self.failures += 1
            self.named.update(about)
        if self.failures >= self.open_after:
            self.open_until_ms = now_ms + OPEN_FOR_MS
