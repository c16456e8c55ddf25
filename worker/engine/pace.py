"""The pace of calls to one provider: so many a second, let through in slices.

Guarantee: no second holds more calls than allowed. Waiting costs one timer for each slice, not one for each call: at
1,900 calls a second, a timer for each call took more CPU than the call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

SLICE_S: Final = 0.02
"""Length of a slice of a second. The calls that the rate allows in a slice begin together."""
USED_SHARE: Final = 0.94
"""The used share of the allowed rate.

The rest is for calls that arrive closer together than they were sent, and for a second that begins inside a slice: it
touches two more slices than it is long.
"""
ALIGNED: Final = 2.0
"""Calls a slice from which on a late timer does not move the slices after it. Below, slices are at least their length
apart: two that were let through late and early would be one too many in a second."""


class Pace:
    """Calls take turns, in the order in which they asked. For one event loop. A caller has a slot of `lines.Slots`
    before it asks: no more wait than the provider allows at once."""

    def __init__(self, a_second: float) -> None:
        self._each = max(a_second * SLICE_S, 1.0)
        self._slice_s = self._each / (a_second * USED_SHARE)
        self._left = 0.0
        self._began = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def turn(self) -> None:
        """Wait until a call may be made. A caller that is cancelled leaves its place to the next."""
        loop = asyncio.get_running_loop()
        self._begin(loop.time())
        if self._left >= 1 and not self._waiting:
            self._left -= 1
            return
        place = loop.create_future()
        self._waiting.append(place)
        self._wake_later(loop)
        await place

    def _begin(self, now: float) -> None:
        """Begin the next slice if it is time. A fraction of a call is carried over, whole calls are not."""
        due = self._began + self._slice_s
        if now < due:
            return
        self._left = self._left % 1 + self._each
        self._began = due if self._each >= ALIGNED and now < due + self._slice_s else now

    def _wake_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None:
            self._timer = loop.call_at(self._began + self._slice_s, self._let_through, loop)

    def _let_through(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._begin(loop.time())
        while self._waiting and self._left >= 1:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                self._left -= 1
        if self._waiting:
            self._wake_later(loop)


def pace(allowed: float | None, processes: int = 1) -> Pace | None:
    """Return the pace for so many calls a second, shared by so many processes; None if any number is allowed."""
    return None if allowed is None else Pace(allowed / processes)
