"""The client for programs with an event loop.

A thread sends items, as for `Client`. The thread continues while the loop is busy, and after the loop ends. The methods
do not block the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import cast

from drawdown_client import calls, items, reads
from drawdown_client.async_guard import AsyncGuard
from drawdown_client.calls import Answer
from drawdown_client.clock import World, server_of
from drawdown_client.connection import AsyncLine, Line
from drawdown_client.errors import ClientError
from drawdown_client.items import Event, Item
from drawdown_client.outbox import Outbox, log
from drawdown_client.reads import Balance, By, Moment, Usage
from drawdown_client.settings import Settings


class _Sender:
    def __init__(self, outbox: Outbox, settings: Settings, world: World) -> None:
        self._outbox, self._settings, self._world = outbox, settings, world

    async def _put(self, made: Sequence[Item]) -> list[str]:
        if not self._outbox.offer(made):
            await asyncio.to_thread(self._outbox.put, made)
        return [one.item_id for one in made]


class AsyncEvents(_Sender):
    """A sender of usage events."""

    async def send(self, *events: Event) -> list[str]:
        """Record events, as `Events.send` does."""
        new_id, now_ms = self._world.new_id, self._world.now_ms()
        return await self._put([items.of_event(one, self._settings.source, now_ms, new_id()) for one in events])


class AsyncSamples(_Sender):
    """A sender of samples of sandboxes, as hosts observe them."""

    async def send(self, *samples: Mapping[str, object]) -> list[str]:
        """Record samples, as `Samples.send` does."""
        return await self._put([items.of_sample(one, self._world.now_ms(), self._world.new_id()) for one in samples])


class AsyncClient:
    """A client of one server, with one key, for one event loop.

    Use it as a context manager, or close it. Parameters and errors: as `Client`.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, settings: Settings | None = None, *,
        world: World | None = None,
    ) -> None:  # fmt: skip
        url, key = server_of(url, key)
        self.settings = settings or Settings()
        world = world or World()
        self._url, self._world = url, world
        self._line = AsyncLine(url, key, self.settings, world)
        self._bulk = Line(url, key, self.settings, world)
        self._outbox = Outbox(
            lambda kind, found: calls.results(self._bulk.once(calls.batch(kind, found)), len(found)),
            self._bulk.close,
            self.settings,
            world,
        )
        self.events = AsyncEvents(self._outbox, self.settings, world)
        self.samples = AsyncSamples(self._outbox, self.settings, world)
        self.guard = AsyncGuard(self._line, Line(url, key, self.settings, world), self.settings, world)

    def __repr__(self) -> str:
        return f"AsyncClient({self._url!r})"

    async def record(
        self, event_type: str, quantity: int | float = 1, *, org_id: str | None = None,
        at: datetime | int | None = None, event_id: str | None = None, source: str | None = None,
        subject: str | None = None, project: str | None = None, plan_key: str | None = None,
        properties: Mapping[str, object] | None = None,
    ) -> str:  # fmt: skip
        """Record one event, and return its id.

        The default quantity is 1. Errors: as `Events.send`.
        """
        event = Event(event_type, quantity, org_id, at, event_id, source, subject, project, plan_key, properties)
        return (await self.events.send(event))[0]

    async def flush(self, timeout_s: float = 30.0) -> None:
        """Wait for all results, as `Client.flush` does."""
        await asyncio.to_thread(self._outbox.flush, timeout_s)

    async def close(self, timeout_s: float | None = None) -> None:
        """Send all waiting items and stop, as `Client.close` does."""
        timeout_s = self.settings.close_s if timeout_s is None else timeout_s
        try:
            await asyncio.to_thread(self._outbox.close, timeout_s)
        finally:
            await self.guard.close(timeout_s)
            await self._line.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except ClientError as unsent:
            if kind is None:
                raise
            log.error("%s", unsent)  # only log it, because the caller gets the error of the block

    async def usage(
        self, org_id: str, from_: Moment | None = None, to: Moment | None = None, *, by: By = "feature"
    ) -> Usage:
        """Return an organisation's usage, as `Client.usage` does."""
        pages = reads.Pages()
        while pages.whole is None:
            pages.add(await self._line.ask(reads.usage(org_id, from_, to, by, pages)))
        return pages.whole

    async def balance(self, org_id: str) -> Balance:
        """Return an organisation's balance, as `Client.balance` does."""
        return cast(Balance, await self._line.ask(reads.balance(org_id)))

    async def post(self, path: str, order: Mapping[str, object] | None = None, *, key: str | None = None) -> Answer:
        """Call an operation that changes data, as `Client.post` does."""
        return await self._line.ask(calls.act(path, order or {}, key or self._world.new_id()))

    async def get(self, path: str, **query: object) -> Answer:
        """Call an operation that only reads data, as `Client.get` does."""
        return await self._line.ask(calls.look(path, query))
