"""Connections: how many there may be, and for how long each may keep its slot without using it.

Guarantee: no address holds more than its share of the slots, and some are kept for health alone, so that a caller that
takes all others cannot make the process look dead. A connection ends when the head of a request, the rest of one that
is answered, or a reader of the answer does not come in time. A refusal here has the one shape of errors, too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from drawdown.server.http.callers import caller_of
from drawdown.server.http.errors import ApiError, error_answer
from drawdown.server.http.heads import Heads
from drawdown.server.http.limits import HEADERS

MAX_CONNECTIONS: Final = 512
MAX_OF_AN_ADDRESS: Final = 128
"""Trusted proxies excepted: behind one are many."""
HEALTH_SLOTS: Final = 32
"""Beside MAX_CONNECTIONS: on these, only HEALTH_PATHS are answered, once, and who comes sends the first away."""
HEALTH_PATHS: Final = frozenset({"/healthz", "/readyz"})
PATIENCE_S: Final = 15.0
"""For the head of a request, and for the rest of one that is answered."""
HEALTH_PATIENCE_S: Final = 2.0
"""The same on the slots kept for health."""
WRITE_PATIENCE_S: Final = 15.0
"""For whoever does not read what was answered."""

FULL: Final = ApiError(503, "too_many_connections", "too many connections; try again", headers={"Retry-After": "1"})
NO_HTTP: Final = ApiError(400, "bad_request", "this is no HTTP/1.1 request that can be read")


@dataclass(eq=False)
class ConnectionSlot:
    """What a connection holds. `close` ends it, whatever it is doing."""

    caller: str
    for_health: bool
    close: Callable[[], None]


class ConnectionSlots:
    """The connections of one server. `refused` counts what was turned away, by what it was."""

    def __init__(self, is_proxy: Callable[[str | None], bool], refused: Counter[str]) -> None:
        self._is_proxy = is_proxy
        self._refused = refused
        self._taken: Counter[str] = Counter()
        self._for_health: dict[ConnectionSlot, None] = {}

    @property
    def count(self) -> int:
        return self._taken.total()

    def take(self, address: str | None, close: Callable[[], None]) -> ConnectionSlot | None:
        """A slot for a connection from this address; None: it has its share already. Where all are taken, one of those
        for health, of which whoever has been there longest is sent away."""
        caller = caller_of(address)
        if not self._is_proxy(address) and self._taken[caller] >= MAX_OF_AN_ADDRESS:
            self._refused["connections"] += 1
            return None
        made = ConnectionSlot(caller, self.count - len(self._for_health) >= MAX_CONNECTIONS, close)
        if made.for_health:
            if len(self._for_health) >= HEALTH_SLOTS:
                self._refused["connections"] += 1
                next(iter(self._for_health)).close()
            self._for_health[made] = None
        self._taken[caller] += 1
        return made

    def give_back(self, slot: ConnectionSlot) -> None:
        self._for_health.pop(slot, None)
        self._taken[slot.caller] -= 1
        if not self._taken[slot.caller]:
            del self._taken[slot.caller]


def protocol(slots: ConnectionSlots) -> type[Patient]:
    """The connections that share these slots, as uvicorn wants it: a class."""
    return type("Connection", (Patient,), {"slots": slots})


class Patient(H11Protocol):
    """uvicorn's connection, with an end to everything that it waits for. While an application reads a body or works,
    it has limits of its own."""

    slots: ConnectionSlots
    _slot: ConnectionSlot | None = None
    _awaited: object = None
    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self.conn._receive_buffer = Heads()
        self._slot = self.slots.take(self.client[0] if self.client else None, transport.abort)
        if self._slot is None:
            self._refuse(FULL)
            return
        if self._slot.for_health:
            self.app = _health_alone(self.app)
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._slot is None:
            return
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._read_at_last()
        if self._slot is not None:
            self.slots.give_back(self._slot)
        super().connection_lost(exc)

    # Whoever sends nothing.

    def _watch(self) -> None:
        """One time for each thing that is awaited: more of it does not prolong it."""
        awaited = self._awaits()
        if awaited is not self._awaited:
            self._disarm()
        if awaited is not None and self._timer is None:
            patience = HEALTH_PATIENCE_S if self._slot is not None and self._slot.for_health else PATIENCE_S
            self._awaited, self._timer = awaited, self.loop.call_later(patience, self._give_up)

    def _awaits(self) -> object:
        theirs = self.conn.their_state
        rest = theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE
        return theirs if theirs is h11.IDLE or rest else None

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._awaited = self._timer = None

    def _give_up(self) -> None:
        awaited = self._awaited
        self._disarm()
        if self._awaits() is awaited and not self.transport.is_closing():
            self._close()

    # Whoever reads nothing.

    def pause_writing(self) -> None:
        super().pause_writing()
        self._must_read()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_at_last()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._must_read()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._must_read()

    def _close(self) -> None:
        """A transport that is closed still waits until the last byte was taken."""
        self.transport.close()
        self._must_read()

    def _must_read(self) -> None:
        if self._unread is None:
            self._unread = self.loop.call_later(WRITE_PATIENCE_S, self.transport.abort)

    def _read_at_last(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
        self._unread = None

    # What is refused before there is a request.

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(NO_HTTP)
        else:  # an answer is on its way already, and its connection cannot be used again
            self._close()

    def _refuse(self, error: ApiError) -> None:
        answer = error_answer(error)
        head = [*answer.raw_headers, *HEADERS, (b"connection", b"close")]
        lines = b"".join(b"%s: %s\r\n" % (name, value) for name, value in head)
        reason = b"Bad Request" if error.status == 400 else b"Service Unavailable"
        self.transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (error.status, reason, lines, bytes(answer.body)))
        self._close()


def _health_alone(app: ASGIApp) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        well = scope["path"] in HEALTH_PATHS
        more = [(b"connection", b"close"), *(() if well else HEADERS)]

        async def ending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await (app if well else error_answer(FULL))(scope, receive, ending)

    return answer
