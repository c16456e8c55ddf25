"""Delay responses to requests for unknown objects.

Guarantee: for each API key, Drawdown answers MISSES_PER_S such requests a second without delay. Each further response
waits, longer if more responses wait. So a caller with many connections hardly delays other callers. A request that
finds its object never waits here, even with the same key.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from drawdown.server.http.callers import TokenBuckets

MISSES_PER_S: Final = 50
"""Responses a second about unknown objects that the server sends without delay.

The limit is for one key and process. A burst may have twice as many.
"""
LONGEST_MISS_S: Final = 5.0
"""Longest delay of a further response about an unknown object, in seconds."""


class Misses:
    """The delayed responses of one event loop."""

    def __init__(self) -> None:
        self._buckets = TokenBuckets(MISSES_PER_S)
        self._waiting: Counter[str] = Counter()

    async def wait(self, key: str, now_ms: int) -> None:
        """Wait until a response about an unknown object may be sent to this API key."""
        if self._buckets.take(key, now_ms):
            return
        self._waiting[key] += 1
        try:
            await asyncio.sleep(min(self._waiting[key] / MISSES_PER_S, LONGEST_MISS_S))
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
