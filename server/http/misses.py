"""The wait of an answer that found nothing.

Guarantee: if requests of a key name things that do not exist, a number of them a second is answered at once. Each
further one is answered later, the longer the more of them wait. However many connections a caller holds, they cost the
others little. A request that finds its object never waits here, also by the same key.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from drawdown.server.http.callers import TokenBuckets

MISSES_PER_S: Final = 50
"""Answers that found nothing, by one key and process, at once; twice as many after a quiet second."""
LONGEST_MISS_S: Final = 5.0
"""Longest delay of a further response that found nothing."""


class Misses:
    """The waits of one event loop."""

    def __init__(self) -> None:
        self._buckets = TokenBuckets(MISSES_PER_S)
        self._waiting: Counter[str] = Counter()

    async def wait(self, key: str, now_ms: int) -> None:
        """Return when a key's request may be answered that found nothing."""
        if self._buckets.take(key, now_ms):
            return
        self._waiting[key] += 1
        try:
            await asyncio.sleep(min(self._waiting[key] / MISSES_PER_S, LONGEST_MISS_S))
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
