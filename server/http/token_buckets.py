"""Rates of callers. Guarantee: a bounded number of callers is remembered, and no clock is read here."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from drawdown.schema.units import SECOND_MS

MOST_CALLERS: Final = 10_000


class TokenBuckets:
    """A bucket of tokens for each caller; of the callers, those seen last are remembered."""

    def __init__(self, per_s: int, most_callers: int = MOST_CALLERS) -> None:
        self._per_ms = per_s  # thousandths of a token a millisecond
        self._full = 2 * per_s * SECOND_MS
        self._most = most_callers
        self._left: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def has(self, caller: str, now_ms: int, amount: int = 1) -> bool:
        """Whether this caller has so many tokens now, which stay in the bucket."""
        return self._now(caller, now_ms) >= amount * SECOND_MS

    def take(self, caller: str, now_ms: int, amount: int = 1) -> bool:
        """Whether this caller may ask now."""
        left = self._now(caller, now_ms)
        allowed = left >= amount * SECOND_MS
        self._left.pop(caller, None)
        self._left[caller] = (left - amount * SECOND_MS if allowed else left, now_ms)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return allowed

    def _now(self, caller: str, now_ms: int) -> int:
        left, at_ms = self._left.get(caller, (self._full, now_ms))
        return min(self._full, left + max(now_ms - at_ms, 0) * self._per_ms)
