"""Store concurrent small bodies of one key in a shared transaction.

Guarantee: each body gets the response that it would get alone, after the commit. A fault of one body does not affect
others, because bodies that cannot be stored together are stored alone. A body that arrives alone does not wait. The
number of waiting bodies is bounded, for each key and in all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import sqlalchemy as sa

from drawdown.server.http.errors import SOON, ApiError
from drawdown.server.http.threads import Threads

SINGLE_BYTES: Final = 4 * 1024
"""Largest body that shares a transaction with others of its key, in bytes.

Such a body has a few events.
"""
MOST_SINGLES_OF_A_KEY: Final = 1_024
"""Small bodies of one key that wait for a shared transaction."""
MOST_SINGLES: Final = 4_096
"""Small bodies of all keys that wait for a shared transaction."""
SINGLES_AT_ONCE: Final = 256
"""Small bodies that one transaction takes."""

A = TypeVar("A")
R = TypeVar("R")


@dataclass
class _Waiting(Generic[A, R]):
    request: A
    answer: asyncio.Future[R]


@dataclass
class _Lane(Generic[A, R]):
    waiting: list[_Waiting[A, R]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Singles(Generic[A, R]):
    """The queues of small bodies, one for each key and kind with waiting bodies.

    For one event loop. `work`: answers a batch of bodies in order, on a thread.
    """

    def __init__(self, threads: Threads, work: Callable[[sa.Engine, Sequence[A]], Sequence[R]]) -> None:
        self._threads, self._work = threads, work
        self._lanes: dict[object, _Lane[A, R]] = {}
        self._count = 0

    async def ask(self, name: object, asked: A) -> R:
        """Return the response to a body.

        Errors: ApiError 429 if too many bodies wait; the errors of `work`.
        """
        there = self._lanes.get(name)
        # Behind a lock, most bodies have timed out.
        if there is not None and len(there.waiting) >= MOST_SINGLES_OF_A_KEY:
            there.waiting[:] = [one for one in there.waiting if not one.answer.done()]
        is_full = there is not None and len(there.waiting) >= MOST_SINGLES_OF_A_KEY
        if is_full or self._count >= MOST_SINGLES:
            raise ApiError(429, "busy", "too many small requests wait. Send the request again", headers=SOON)
        lane = self._lanes.setdefault(name, _Lane())
        one = _Waiting[A, R](asked, asyncio.get_running_loop().create_future())
        lane.waiting.append(one)
        if lane.task is None:
            lane.task = asyncio.create_task(self._go(name, lane))
        self._count += 1
        try:
            return await one.answer
        finally:
            self._count -= 1

    async def _go(self, name: object, lane: _Lane[A, R]) -> None:
        """Decide batches until the lane is empty.

        A body that arrives during a transaction is in the next batch.
        """
        try:
            while lane.waiting:
                batch = [one for one in lane.waiting[:SINGLES_AT_ONCE] if not one.answer.done()]
                del lane.waiting[:SINGLES_AT_ONCE]
                if batch:
                    await self._decide(batch)
        finally:
            del self._lanes[name]
            for one in lane.waiting:
                one.answer.cancel()

    async def _decide(self, batch: Sequence[_Waiting[A, R]]) -> None:
        def work(engine: sa.Engine) -> Sequence[R]:
            return self._work(engine, [one.request for one in batch])

        try:
            found = await self._threads.run(work)
        except Exception as error:  # each body gets the error
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one, answer in zip(batch, found, strict=True):
            if not one.answer.done():  # the request may no longer wait
                one.answer.set_result(answer)
