"""Decide concurrent requests for the same row in one transaction.

Drawdown locks and commits a busy wallet or counter once for all these requests. Requests that only read share one read.

Guarantee: each request gets the response that it would get alone, after the commit. If requests cannot be decided
together, each is decided alone. A refused request is decided alone, too, unless its error would be the same. A lane
does not wait for other lanes. A request that arrives alone does not wait. If several requests arrived just before, a
request that writes waits at most GATHER_S.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import sqlalchemy as sa

from drawdown.ledger.reservations import NotTogether
from drawdown.schema.clock import Clock
from drawdown.schema.errors import DrawdownError, LockHeld, Refused, UsageError
from drawdown.schema.ids import tell_few_names, tell_no_names
from drawdown.server.http.errors import SOON, ApiError
from drawdown.server.http.threads import Threads

GATHER_S: Final = 0.005
"""Longest time that a shared transaction waits for further requests.

The wait ends once the transaction has as many requests as the previous transaction.
"""
MOST_TOGETHER: Final = 256
"""Requests that share one transaction."""
STUCK_S: Final = 1.0
"""Longest time that a read delays later calls."""
MOST_WAITING: Final = 1_024
"""Requests that wait in one queue.

Above the limit, Drawdown refuses a request, and the client must resend it.
"""

A = TypeVar("A")
R = TypeVar("R")


@dataclass
class _Waiting(Generic[A, R]):
    """A request, and the future of its response."""

    request: A
    answer: asyncio.Future[R]

    def tell(self, found: R | BaseException) -> None:
        """Set the response, unless the request no longer waits."""
        if self.answer.done():
            return
        if isinstance(found, BaseException):
            self.answer.set_exception(found)
        else:
            self.answer.set_result(found)


@dataclass
class _Lane(Generic[A, R]):
    """The requests that wait for one row.

    `last`: the number of requests in the last batch.
    """

    waiting: list[_Waiting[A, R]] = field(default_factory=list)
    last: int = 1
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True)
class Way(Generic[A, R]):
    """The functions that decide requests, at the time of their transaction.

    `all_`: returns a response for each request. A DrawdownError in place of a response refuses that request, which
    Drawdown then does not store. If each request must be decided alone, `all_` raises Refused or UsageError. `alone`:
    decides one request; if it is None, the caller gets NotTogether. `lane`: returns the row that a request needs.
    """

    lane: Callable[[A], object]
    all_: Callable[[sa.Connection, Sequence[A], int], Sequence[R | DrawdownError]]
    alone: Callable[[sa.Connection, A, int], R] | None
    tells_names: Callable[[A], bool]
    """A function that returns True if the caller may see names of any organisation."""
    reads: bool = False
    """True if the requests only read."""


class RequestBatcher(Generic[A, R]):
    """The queues of waiting requests, a lane for each row, for one event loop."""

    def __init__(self, threads: Threads, clock: Clock, way: Way[A, R], names: Callable[[], bool]) -> None:
        """Store the parts of the batcher.

        `names`: a function that returns True if Drawdown may search for the nearest id now.
        """
        self._clock = clock
        self._names = names
        self._way = way
        self._threads = threads
        self._stuck: set[asyncio.Task[None]] = set()
        self._lanes: dict[object, _Lane[A, R]] = {}

    async def ask(self, asked: A) -> R:
        """Return the response to a request that is decided with others.

        Errors: the errors of `Way.all_` and `Way.alone`; NotTogether if the request must be decided alone and
        `Way.alone` is None; ApiError 429 if too many requests wait.
        """
        name = self._way.lane(asked)
        waiting = _Waiting[A, R](asked, asyncio.get_running_loop().create_future())
        lane = self._lanes.get(name)
        # If a row stays locked, most of its requests have timed out.
        if lane is not None and len(lane.waiting) >= MOST_WAITING:
            lane.waiting[:] = [one for one in lane.waiting if not one.answer.done()]
        if lane is None:
            lane = self._lanes[name] = _Lane()
            lane.waiting.append(waiting)
            lane.task = asyncio.create_task(self._go(name, lane))
        elif len(lane.waiting) >= MOST_WAITING:
            raise ApiError(429, "busy", "too many concurrent requests. Send the request again", headers=SOON)
        else:
            lane.waiting.append(waiting)
            if len(lane.waiting) >= lane.last:
                lane.enough.set()
        return await waiting.answer

    async def _go(self, name: object, lane: _Lane[A, R]) -> None:
        """Decide batches until no request waits in the lane."""
        try:
            while lane.waiting:
                batch = [one for one in lane.waiting[:MOST_TOGETHER] if not one.answer.done()]
                del lane.waiting[:MOST_TOGETHER]
                if batch:
                    await self._in_time(batch)
                lane.last = max(len(batch), 1)
                if not self._way.reads:  # only writes wait for more requests, because they then share a commit
                    await _gather(lane)
        finally:
            del self._lanes[name]
            for one in lane.waiting:
                one.answer.cancel()

    async def _in_time(self, batch: Sequence[_Waiting[A, R]]) -> None:
        """Decide a batch, and then let the next batch begin.

        If a read hangs on a dead connection, the lane continues after STUCK_S.
        """
        if not self._way.reads:
            await self._decide(batch)
            return
        task = asyncio.create_task(self._decide(batch))
        self._stuck.add(task)
        task.add_done_callback(self._stuck.discard)
        await asyncio.wait((task,), timeout=STUCK_S)

    async def _decide(self, batch: Sequence[_Waiting[A, R]]) -> None:
        hands_back = self._way.alone is None
        if len(batch) == 1 and not hands_back:
            await self._alone(batch[0])
            return
        asked = [one.request for one in batch]
        try:
            if self._way.reads:
                found = await self._threads.read(lambda c: self._all(c, asked))
            else:
                found = await self._threads.write(lambda c: self._all(c, asked))
        except Exception as error:
            # After a refusal, nothing was stored, and some requests must be decided alone.
            is_refused = isinstance(error, Refused | UsageError)
            if is_refused and not hands_back:
                await asyncio.gather(*map(self._alone, batch))
                return
            # After LockHeld or a foreign error, no change was committed, so the caller can decide each request alone.
            is_rolled_back = isinstance(error, LockHeld) or not isinstance(error, DrawdownError)
            back = hands_back and (is_refused or is_rolled_back)
            for one in batch:
                one.tell(NotTogether(str(error)) if back else error)
        else:
            refused = []
            for one, answer in zip(batch, found, strict=True):
                is_same = self._way.reads and not self._way.tells_names(one.request)
                if isinstance(answer, DrawdownError) and (hands_back or is_same):
                    one.tell(answer)  # the caller retries alone, or a retry would return the same error
                elif isinstance(answer, DrawdownError):
                    refused.append(one)
                else:
                    one.tell(answer)
            await asyncio.gather(*map(self._alone, refused))

    def _all(self, connection: sa.Connection, asked: Sequence[A]) -> Sequence[R | DrawdownError]:
        """Decide a batch.

        A batch does not suggest ids. Only `_one`, which decides a request alone, suggests ids.
        """
        tell_no_names(connection)
        return self._way.all_(connection, asked, self._clock.now_ms())

    def _one(self, connection: sa.Connection, asked: A) -> R:
        if self._way.tells_names(asked):
            tell_few_names(connection, self._names)
        else:
            tell_no_names(connection)
        assert self._way.alone is not None, "a request that is decided alone needs a function for it"
        return self._way.alone(connection, asked, self._clock.now_ms())

    async def _alone(self, one: _Waiting[A, R]) -> None:
        try:
            if self._way.reads:
                found = await self._threads.read(lambda c: self._one(c, one.request))
            else:
                found = await self._threads.write(lambda c: self._one(c, one.request))
        except Exception as error:
            one.tell(error)
        else:
            one.tell(found)


async def _gather(lane: _Lane[A, R]) -> None:
    """Wait for as many requests as the last batch had, up to GATHER_S.

    The callers of the last batch may call again immediately.
    """
    lane.enough.clear()
    if len(lane.waiting) < lane.last:
        with suppress(TimeoutError):
            await asyncio.wait_for(lane.enough.wait(), GATHER_S)
