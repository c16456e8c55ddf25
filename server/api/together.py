"""Runs of one organisation that are accepted at once are decided in one transaction: a wallet that many draw on is
locked, and committed, once for all of them.

Guarantee: what cannot be decided together is decided alone, by the same function as ever: each request gets the answer
that it would have got alone. An organisation waits for no other. A request that comes alone waits for none; where
several came right before, it waits for GATHER_S at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from drawdown.schema.clock import Clock
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import tell_no_names
from drawdown.server.http.threads import Threads
from drawdown.worker.commands import executions
from drawdown.worker.commands.executions import Accepted, Asked

GATHER_S: Final = 0.005
"""How long a transaction that several would share waits for as many as shared the last one."""
MOST_TOGETHER: Final = 256
"""Runs of one transaction."""


@dataclass
class _Waiting:
    """A run, and where its answer is waited for."""

    asked: Asked
    answer: asyncio.Future[Accepted]

    def tell(self, found: Accepted | BaseException) -> None:
        """Whoever waited too long is told nothing any more."""
        if self.answer.done():
            return
        if isinstance(found, BaseException):
            self.answer.set_exception(found)
        else:
            self.answer.set_result(found)


@dataclass
class _Lane:
    """Those of one organisation that wait. `last`: how many were decided together before them."""

    waiting: list[_Waiting] = field(default_factory=list)
    last: int = 1
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Together:
    """One lane an organisation, while it has any. Of one event loop."""

    def __init__(self, threads: Threads, clock: Clock) -> None:
        self._threads = threads
        self._clock = clock
        self._lanes: dict[str, _Lane] = {}

    async def accept(self, asked: Asked) -> Accepted:
        """As `executions.accept`, and with its errors."""
        org = asked.request.org_id
        waiting = _Waiting(asked, asyncio.get_running_loop().create_future())
        lane = self._lanes.get(org)
        if lane is None:
            lane = self._lanes[org] = _Lane()
            lane.waiting.append(waiting)
            lane.task = asyncio.create_task(self._go(org, lane))
        else:
            lane.waiting.append(waiting)
            if len(lane.waiting) >= lane.last:
                lane.enough.set()
        return await waiting.answer

    async def _go(self, org: str, lane: _Lane) -> None:
        """Until nobody waits any more."""
        try:
            while lane.waiting:
                batch = [one for one in lane.waiting[:MOST_TOGETHER] if not one.answer.done()]
                del lane.waiting[:MOST_TOGETHER]
                if batch:
                    await self._decide(batch)
                lane.last = max(len(batch), 1)
                await _gather(lane)
        finally:
            del self._lanes[org]
            for one in lane.waiting:
                one.answer.cancel()

    async def _decide(self, batch: Sequence[_Waiting]) -> None:
        if len(batch) == 1:
            await self._alone(batch[0])
            return
        asked = [one.asked for one in batch]
        try:
            found = await self._threads.write(lambda c: self._accept_all(c, asked))
        except (Refused, UsageError):  # one of them at least: nothing was kept
            await asyncio.gather(*map(self._alone, batch))
        except Exception as error:
            for one in batch:
                one.tell(error)
        else:
            for one, accepted in zip(batch, found, strict=True):
                one.tell(accepted)

    def _accept_all(self, connection: sa.Connection, asked: Sequence[Asked]) -> list[Accepted]:
        """Whoever is refused is told why by `_accept`: no name is looked for before."""
        tell_no_names(connection)
        return executions.accept_together(connection, asked, self._clock.now_ms())

    def _accept(self, connection: sa.Connection, asked: Asked) -> Accepted:
        if not asked.tells_names:
            tell_no_names(connection)
        return executions.accept(connection, asked.key, asked.request, asked.by(self._clock.now_ms()))

    async def _alone(self, one: _Waiting) -> None:
        asked = one.asked
        try:
            found = await self._threads.write(lambda c: self._accept(c, asked))
        except Exception as error:
            one.tell(error)
        else:
            one.tell(found)


async def _gather(lane: _Lane) -> None:
    """Those who are answered may come again at once: they are waited for, as many as they were."""
    lane.enough.clear()
    if len(lane.waiting) < lane.last:
        with suppress(TimeoutError):
            await asyncio.wait_for(lane.enough.wait(), GATHER_S)
