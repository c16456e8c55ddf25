"""Calls under way together, whose answers are handed out as they come.

Guarantee: each place is answered once. A process that dies forgets few answers: of the calls begun, at most `most` are
not done with, and no answer waits for the others for longer than a second. A call is done with once its answers were
fetched and the next ones are asked for: until then they may be on their way into the database. Once `over` or `closed`
returns true no call begins, and what was not begun is answered as soon as nothing is under way; calls under way have
`grace_s` left once it is `over`, and all the time that they take while it is `closed` alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from itertools import islice
from typing import Final, Generic, TypeVar

A = TypeVar("A")
PORTION: Final = 128
"""Answers fetched at once, unless one call has more: few enough to lose, enough that commits cost little."""
PORTION_S: Final = 1.0
POLL_S: Final = 0.1
"""How often `over` is asked while nothing comes."""


class Flight(Generic[A]):
    """`count` answers that come one by one. `instead` says what stands for one that did not come, given its place and
    whether its call was begun."""

    def __init__(
        self,
        count: int,
        over: Callable[[], bool],
        instead: Callable[[int, bool], A],
        *,
        portion: int = PORTION,
        most: int | None = None,
        grace_s: float = 0.0,
        closed: Callable[[], bool] | None = None,
    ) -> None:
        self._over = over
        self._closed = closed
        self._instead = instead
        self._portion = max(PORTION, portion)
        self._grace_s = grace_s
        self._left = set(range(count))
        self._call_of: dict[int, set[int]] = {}
        """The places of the call that each place begun belongs to, but for those that are done with."""
        self._ready: dict[int, A] = {}
        self._fetched: list[int] = []
        self._first_at = 0.0
        self._changed = asyncio.Event()
        self._room = asyncio.Semaphore(count if most is None else most)
        self._tasks: list[asyncio.Task[None]] = []
        self._ends_at: float | None = None

    def over(self) -> bool:
        """Whether no call may be begun any more."""
        return self._over() or (self._closed is not None and self._closed())

    def start(self, works: Iterable[Callable[[], Awaitable[None]]]) -> None:
        """Have these make the calls, side by side."""
        self._tasks = [asyncio.ensure_future(self._whole(work)) for work in works]

    async def _whole(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            self._changed.set()

    async def room(self) -> None:
        """Wait until one more call may be begun."""
        await self._room.acquire()

    def begin(self, places: Iterable[int]) -> None:
        """From here on the answers of this call may be lost."""
        call = set(places)
        self._call_of.update(dict.fromkeys(call, call))

    def may_begin(self, places: Iterable[int]) -> bool:
        """Begin a call, unless none may be begun any more; whether it was."""
        if self.over():
            return False
        self.begin(places)
        return True

    def answer(self, place: int, answer: A) -> None:
        """What came of one."""
        self._left.remove(place)
        self._ready[place] = answer
        if len(self._ready) == 1:
            self._first_at = asyncio.get_running_loop().time()
        if len(self._ready) in (1, self._portion) or not self._left:
            self._changed.set()

    @property
    def done(self) -> bool:
        """Whether every answer was fetched."""
        return not self._left and not self._ready

    async def fetch(self) -> dict[int, A]:
        """The next portion, by place: none is empty before all were fetched. Errors: whatever the works raise."""
        loop = asyncio.get_running_loop()
        self._done_with_fetched()
        while self._left and len(self._ready) < self._portion:
            if self._ready and loop.time() - self._first_at >= PORTION_S:
                break
            if all(task.done() for task in self._tasks) or self._is_over(loop.time()):
                await self._give_up()
                break
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._changed.wait()
        found = {place: self._ready.pop(place) for place in list(islice(self._ready, self._portion))}
        self._first_at = loop.time()
        self._fetched = list(found)
        return found

    def _done_with_fetched(self) -> None:
        for place in self._fetched:
            call = self._call_of.pop(place, None)
            if call is None:
                continue  # of no call: it was not sent
            call.remove(place)
            if not call:
                self._room.release()
        self._fetched = []

    def _is_over(self, at: float) -> bool:
        if self._left.isdisjoint(self._call_of) and self.over():
            return True  # nothing is under way, and nothing will be
        if self._ends_at is None and self._over():
            self._ends_at = at + self._grace_s
        return self._ends_at is not None and at >= self._ends_at

    async def _give_up(self) -> None:
        """Whatever has not been answered will not be."""
        await self.close()
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        for place in sorted(self._left):
            self.answer(place, self._instead(place, place in self._call_of))

    async def close(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
