"""How many calls to one provider are under way: as many as it declares, and fewer while it turns calls away.

Guarantee: never more than is declared, and never none. What one customer is refused slows no other: fewer calls are
allowed only where several customers have too many. How long each waits is what the provider said (`lines`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

TURNED_AWAY: Final = 10
"""Customers that are turned away in one round, or an eighth of those that are asked for, if that is fewer: half as many
calls are allowed. Fewer than the calls in a row after which the rest is not sent at all."""
STEPS: Final = 32
"""Rounds without that from none to all that is declared."""


@dataclass
class Allowance:
    """How many calls at once: half as many once calls are turned away, a step more after each round in which none is.
    Pure."""

    most: int
    allowed: int = 0
    least: int = 0
    """The fewest that were allowed so far."""
    begun: int = 0
    """Calls that were begun so far: the number of the next one."""
    since: int = 0
    """The number of the first call of this round: an answer to an earlier one says what held before."""
    _answers: int = 0
    _turned_away: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.allowed = self.least = self.most

    def begin(self) -> int:
        """A call is made; its number."""
        self.begun += 1
        return self.begun - 1

    def note(self, number: int, customer: str, *, turned_away: bool) -> bool:
        """Count an answer; whether fewer are allowed from now on."""
        if number < self.since:
            return False
        self._answers += 1
        if turned_away:
            self._turned_away.add(customer)
        if cut := len(self._turned_away) >= min(max(self.allowed // 8, 2), TURNED_AWAY) and self.allowed > 1:
            self.allowed //= 2
            self.least = min(self.least, self.allowed)
        elif self._answers >= self.allowed and not self._turned_away:
            self.allowed = min(self.allowed + -(-self.most // STEPS), self.most)
        elif self._answers < self.allowed:
            return False
        self.since, self._answers, self._turned_away = self.begun, 0, set()
        return cut


class Slots:
    """A place for each call that may be under way."""

    def __init__(self, most: int) -> None:
        self.allowance = Allowance(most)
        self._free = asyncio.Semaphore(most)
        self._held_back = 0

    async def __aenter__(self) -> int:
        """The number of the call."""
        await self._free.acquire()
        return self.allowance.begin()

    async def __aexit__(self, *_error: object) -> None:
        self._held_back += 1
        while self._held_back > self.allowance.most - self.allowance.allowed:
            self._held_back -= 1
            self._free.release()
