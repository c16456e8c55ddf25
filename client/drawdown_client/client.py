"""The client for programs with threads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import cast

from drawdown_client import calls, items, reads
from drawdown_client.calls import Answer
from drawdown_client.clock import World, server_of
from drawdown_client.connection import Line
from drawdown_client.errors import ClientError
from drawdown_client.guard import Guard
from drawdown_client.items import Event
from drawdown_client.outbox import Outbox, log
from drawdown_client.reads import Balance, By, Moment, Usage
from drawdown_client.settings import Settings


class Events:
    """A sender of usage events."""

    def __init__(self, outbox: Outbox, settings: Settings, world: World) -> None:
        self._outbox, self._settings, self._world = outbox, settings, world

    def send(self, *events: Event) -> list[str]:
        """Record events, and return their ids.

        A thread sends the events in the background. Errors: BadItem, QueueFull, Closed, OSError of the spool. After an
        error, the events are not recorded.
        """
        made = [
            items.of_event(one, self._settings.source, self._world.now_ms(), self._world.new_id()) for one in events
        ]
        self._outbox.put(made)
        return [one.item_id for one in made]


class Samples:
    """A sender of samples of sandboxes, as hosts observe them."""

    def __init__(self, outbox: Outbox, world: World) -> None:
        self._outbox, self._world = outbox, world

    def send(self, *samples: Mapping[str, object]) -> list[str]:
        """Record samples, with the field names of docs/samples.md, and return their ids.

        Errors: as `Events.send`.
        """
        made = [items.of_sample(one, self._world.now_ms(), self._world.new_id()) for one in samples]
        self._outbox.put(made)
        return [one.item_id for one in made]


class Client:
    """A thread-safe client of one server, with one key.

    Use it as a context manager, or close it, because recorded items are sent in the background. `url`, `key`: None for
    the values of DRAWDOWN_URL and DRAWDOWN_KEY. `world`: clocks and randomness, for tests.

    Errors: ValueError for a missing key, or a missing or invalid address; OSError of the spool.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, settings: Settings | None = None, *,
        world: World | None = None,
    ) -> None:  # fmt: skip
        url, key = server_of(url, key)
        self.settings = settings or Settings()
        world = world or World()
        self._url, self._world = url, world
        self._line = Line(url, key, self.settings, world)
        self._bulk = Line(url, key, self.settings, world)
        self._outbox = Outbox(
            lambda kind, found: calls.results(self._bulk.once(calls.batch(kind, found)), len(found)),
            self._bulk.close,
            self.settings,
            world,
        )
        self.events = Events(self._outbox, self.settings, world)
        self.samples = Samples(self._outbox, world)
        self.guard = Guard(self._line, self.settings, world)

    def __repr__(self) -> str:
        return f"Client({self._url!r})"

    def record(
        self, event_type: str, quantity: int | float = 1, *, org_id: str | None = None,
        at: datetime | int | None = None, event_id: str | None = None, source: str | None = None,
        subject: str | None = None, project: str | None = None, plan_key: str | None = None,
        properties: Mapping[str, object] | None = None,
    ) -> str:  # fmt: skip
        """Record one event, and return its id.

        The default quantity is 1. Errors: as `Events.send`.
        """
        event = Event(event_type, quantity, org_id, at, event_id, source, subject, project, plan_key, properties)
        return self.events.send(event)[0]

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait up to `timeout_s` seconds for the results of all items recorded so far.

        Errors: Unsent; RuntimeError if `on_result` calls this method.
        """
        self._outbox.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Send all waiting items within `timeout_s` seconds, then stop. Errors: Unsent.

        The guard then also has `timeout_s` seconds to report uses. `timeout_s` None: `close_s` of the settings. If the
        client is already closed, the call has no effect. A later call to the server raises Closed.
        """
        timeout_s = self.settings.close_s if timeout_s is None else timeout_s
        try:
            self._outbox.close(timeout_s)
        finally:
            self.guard.close(timeout_s)
            self._line.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ClientError as unsent:
            if kind is None:
                raise
            log.error("%s", unsent)  # only log it, because the caller gets the error of the block

    def usage(self, org_id: str, from_: Moment | None = None, to: Moment | None = None, *, by: By = "feature") -> Usage:
        """Return an organisation's usage, from all pages of GET /v1/usage/{org_id}.

        `from_`: the start of the range; None: the start of this month in UTC. `to`: the end of the range, exclusive;
        None: the end of the present window. Errors: Refused, Unreachable; BadItem for a datetime without an offset.
        """
        pages = reads.Pages()
        while pages.whole is None:
            pages.add(self._line.ask(reads.usage(org_id, from_, to, by, pages)))
        return pages.whole

    def balance(self, org_id: str) -> Balance:
        """Return an organisation's balance, as GET /v1/balance/{org_id} does.

        Errors: Refused, Unreachable.
        """
        return cast(Balance, self._line.ask(reads.balance(org_id)))

    def post(self, path: str, order: Mapping[str, object] | None = None, *, key: str | None = None) -> Answer:
        """Call an operation of /openapi.json that changes data, by its path.

        `key`: the idempotency key; None: a new key. `order`: the body. If `order` has `dry_run`, the server returns the
        effect of the operation without any change. Errors: Refused, Unreachable.
        """
        return self._line.ask(calls.act(path, order or {}, key or self._world.new_id()))

    def get(self, path: str, **query: object) -> Answer:
        """Call an operation of /openapi.json that only reads data, by its path.

        Errors: Refused, Unreachable.
        """
        return self._line.ask(calls.look(path, query))
