"""Stop calls to a provider or cell that fails repeatedly, for a while.

Guarantee: after `open_after` failures in a row, calls stop for OPEN_FOR_MS. During an outage, Drawdown makes few calls,
and other providers or cells are not delayed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from drawdown.schema.units import SECOND_MS

OPEN_AFTER: Final = 5
OPEN_FOR_MS: Final = 30 * SECOND_MS
"""Milliseconds for which Drawdown does not call a failing provider, cell, endpoint or payment service."""


@dataclass
class Breaker:
    """The circuit of a provider or cell, which counts failures in a row.

    If failures name their customers, each new name counts once. `open_after`: the number of failures that opens the
    circuit. `open_until_ms`: the end of the wait, in milliseconds. `named`: the names that counted.
    """

    failures: int = 0
    open_after: int = OPEN_AFTER
    open_until_ms: int = 0
    named: set[str] = field(default_factory=set)

    def allows(self, now_ms: int) -> bool:
        """Return True if calls may be made.

        After the wait, it is True until the next outcome, which closes the circuit or opens it again.
        """
        return self.failures < self.open_after or now_ms >= self.open_until_ms

    def note(self, *, failed: bool, now_ms: int, about: Collection[str] = ()) -> None:
        """Record the outcome of a call.

        `about`: the customers that the failure may concern; empty: all.
        """
        if not failed:
            self.failures = 0
            self.named.clear()
            return
        if self.failures < self.open_after and not (about and self.named.issuperset(about)):
            self.failures += 1
            self.named.update(about)
        if self.failures >= self.open_after:
            self.open_until_ms = now_ms + OPEN_FOR_MS
