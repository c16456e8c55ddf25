"""Who is next: keys take turns, so that one that sends much delays another by what is under way, and no more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """So many turns at a time, in one event loop. Each key waits in a line of its own, and the lines take turns."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        """In the order of their turns; of those in it, who no longer waits is passed over."""

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Wait for a turn of this key, and have it until the end."""
        await self._wait(key)
        try:
            yield
        finally:
            self._next()

    async def _wait(self, key: str) -> None:
        if self._free:  # then nobody waits
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._lines.setdefault(key, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it was given a turn in that moment
                self._next()
            raise

    def _next(self) -> None:
        while self._lines:
            key, line = next(iter(self._lines.items()))
            del self._lines[key]
            place = line.popleft()
            if line:
                self._lines[key] = line
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
