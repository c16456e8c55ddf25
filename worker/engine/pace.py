"""Limit the calls a second to a provider, in slices of time.

Guarantee: the number of calls in any second keeps the limit. All waiting calls share one timer for each slice.
At 1,900 calls a second, a timer for each call took more CPU than the call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

SLICE_S: Final = 0.02
"""Length of a slice of time, in seconds.

All calls that the rate allows in a slice begin at its start.
"""
USED_SHARE: Final = 0.94
"""Share of the allowed rate that Drawdown uses.

The rest allows for calls that arrive closer together than they were sent. It also allows for a second that begins
inside a slice, and so touches two more slices.
"""
ALIGNED: Final = 2.0
"""Calls a slice from which a late timer does not move the next slices.

With fewer calls, slices begin at least their length apart. Otherwise a late slice and an early slice would exceed the
limit of a second by one call.
"""


class Pace:
    """A limiter of calls in one event loop, in the order of requests.

    A caller must have a slot of `fair_queue.Slots` first, so that only as many callers wait as the provider allows
    concurrent calls.
    """

    def __init__(self, a_second: float) -> None:
        self._each = max(a_second * SLICE_S, 1.0)
        self._slice_s = self._each / (a_second * USED_SHARE)
        self._left = 0.0
        self._began = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def turn(self) -> None:
        """Wait until a call may be made.

        If a caller is cancelled, the next caller gets its turn.
        """
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
        """Begin the next slice if its time has come.

        A fraction of a call is carried over to the next slice, but whole calls are not.
        """
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
    """Return the limiter for an allowed rate; None if the rate is unlimited.

    `allowed`: calls a second; `processes` processes share them equally.
    """
    return None if allowed is None else Pace(allowed / processes)
