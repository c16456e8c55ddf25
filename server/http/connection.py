"""Limit the number of connections, and the time that each may be idle.

Guarantee: each address has a limited share of the slots. A connection that waits for headers, a body or its turn does
not block others. If all slots are taken, Drawdown closes a waiting connection of the caller with the most waiting
connections. Trusted proxies are exempt from the share, and Drawdown does not close their connections for others. If
Drawdown cannot close a waiting connection, some extra slots serve only health checks. Drawdown closes a connection if
a request's headers, the rest of an answered request, or a reader of the response is too slow.
`Connection` uses uvicorn's protocol only through asyncio's interfaces. It feeds the protocol in pieces, and gives the
protocol a separate transport. A request finds its connection in ASGI's state.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from drawdown.server.http.callers import caller_of
from drawdown.server.http.errors import ApiError, error_answer
from drawdown.server.http.limits import CONNECTION, HEADERS

MAX_CONNECTIONS: Final = 512
"""Most connections of a server.

Beyond them, the server accepts only connections for health (HEALTH_SLOTS).
"""
MAX_OF_AN_ADDRESS: Final = 128
"""Connections of one caller.

Trusted proxies are exempt, because many callers share a proxy.
"""
HEALTH_SLOTS: Final = 32
"""Connections beyond MAX_CONNECTIONS, only for health checks.

Each gets one response about health. If all are in use, the server closes the oldest of these connections for a new
connection.
"""
PATIENCE_S: Final = 15.0
"""Seconds to wait for headers, or for the rest of an answered request."""
HEALTH_PATIENCE_S: Final = 2.0
"""Seconds to wait for headers, or for the rest of an answered request, on a connection of HEALTH_SLOTS."""
WRITE_PATIENCE_S: Final = 15.0
"""Seconds to wait for a client that does not read a response."""
SWEEP_S: Final = 0.5
"""Seconds between two searches for connections that waited too long."""
MAX_HEAD_BYTES: Final = 16 * 1024
"""Largest size of a request's first line and headers, in bytes.

Bytes up to the empty line count. The limit holds for trailers, too. The server never refuses smaller headers for their
size.
"""
PIECE_BYTES: Final = 4 * 1024
"""Bytes of headers that the server reads before it checks the length of the headers again."""

FULL: Final = ApiError(
    503, "too_many_connections", "too many connections. Try again later", headers={"Retry-After": "1"}
)


@dataclass(eq=False)
class ConnectionSlot:
    """The slot of a connection.

    `close`: a function that closes the connection in any state. `check`: a function that closes the connection if it
    waited too long.
    """

    caller: str
    of_proxy: bool
    for_health: bool
    close: Callable[[], None]
    check: Callable[[float], None]
    is_held: bool = field(default=True)


class ConnectionSlots:
    """The connections of one server.

    The counter `refused` counts, as `connections`, the connections that were refused, or closed in favour of another
    connection.
    """

    def __init__(self, is_proxy: Callable[[str | None], bool], refused: Counter[str]) -> None:
        self._is_proxy = is_proxy
        self._refused = refused
        self._taken: Counter[str] = Counter()
        self._all: dict[ConnectionSlot, None] = {}
        self._for_health: dict[ConnectionSlot, None] = {}
        self._idle: dict[str, OrderedDict[ConnectionSlot, None]] = {}
        """Connections that wait for headers, a body or their turn, by caller.

        The connection that waits longest is first.
        """
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        return len(self._all)

    def take(
        self, address: str | None, close: Callable[[], None], check: Callable[[float], None] = lambda _now: None
    ) -> ConnectionSlot | None:
        """Return a slot for a connection; None if its address already has its share.

        Trusted proxies have no such share. If all slots are taken, Drawdown closes an idle connection in favour of the
        new connection. If no connection is marked as idle, the new connection gets a slot for health. If these slots
        are full, Drawdown closes the oldest connection on them.
        """
        caller, of_proxy = caller_of(address), self._is_proxy(address)
        if not of_proxy and self._taken[caller] >= MAX_OF_AN_ADDRESS:
            self._refused["connections"] += 1
            return None
        is_full = self.count - len(self._for_health) >= MAX_CONNECTIONS
        if is_full and (victim := self._longest_idle()) is not None:
            self._refused["connections"] += 1
            self.give_back(victim)
            victim.close()
            is_full = False
        made = ConnectionSlot(caller, of_proxy, is_full, close, check)
        if made.for_health:
            if len(self._for_health) >= HEALTH_SLOTS:
                self._refused["connections"] += 1
                first = next(iter(self._for_health))
                self.give_back(first)
                first.close()
            self._for_health[made] = None
        self._all[made] = None
        self._taken[caller] += 1
        self.wait(made)
        self._sweep_later()
        return made

    def wait(self, slot: ConnectionSlot) -> None:
        """Mark a connection as idle.

        An idle connection has no request, or waits for a body or a turn. Drawdown does not mark the connections of
        trusted proxies, or connections for health.
        """
        if slot.is_held and not slot.of_proxy and not slot.for_health:
            self._idle.setdefault(slot.caller, OrderedDict())[slot] = None

    def work(self, slot: ConnectionSlot) -> None:
        """Mark a connection as busy with a request."""
        of_caller = self._idle.get(slot.caller)
        if of_caller is not None:
            of_caller.pop(slot, None)
            if not of_caller:
                del self._idle[slot.caller]

    def give_back(self, slot: ConnectionSlot) -> None:
        if not slot.is_held:
            return
        slot.is_held = False
        self.work(slot)
        del self._all[slot]
        self._for_health.pop(slot, None)
        self._taken[slot.caller] -= 1
        if not self._taken[slot.caller]:
            del self._taken[slot.caller]

    def _longest_idle(self) -> ConnectionSlot | None:
        """Return the longest idle connection of the caller with the most idle connections."""
        most = max(self._idle.values(), key=len, default=None)
        return None if most is None else next(iter(most))

    def _sweep_later(self) -> None:
        if self._sweeping is None and self._all:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        now = asyncio.get_running_loop().time()
        for slot in list(self._all):
            slot.check(now)
        self._sweep_later()


def protocol(slots: ConnectionSlots) -> type[Connection]:
    """Return the class of connections that share these slots, as uvicorn needs it."""
    return type("SharedConnection", (Connection,), {"slots": slots})


class Connection(asyncio.Protocol):
    """A connection that wraps uvicorn's own protocol.

    While the application reads a body or works, the limits of the application apply.
    """

    slots: ConnectionSlots

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._inner = H11Protocol(config, server_state, {**app_state, CONNECTION: self}, self._loop)
        self._slot: ConnectionSlot | None = None
        self._line: Line | None = None
        self._held = b""
        self._under_way = 0
        self._since: float | None = None
        """Time since which the connection waits for headers or the rest of a request."""
        self._unread_since: float | None = None

    @property
    def for_health(self) -> bool:
        """Return True if the connection answers only one request for health."""
        return self._slot is not None and self._slot.for_health

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._line = Line(cast(asyncio.Transport, transport), self)
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, (tuple, list)) and peer else None
        self._since = self._loop.time()
        self._slot = self.slots.take(address, self._line.abort, self._check)
        if self._slot is None:
            self._line.write(_refusal(FULL))
            self._line.close()
            self._loop.call_later(WRITE_PATIENCE_S, self._line.abort)
            return
        self._inner.connection_made(self._line)

    def data_received(self, data: bytes) -> None:
        if self._slot is None:
            return
        if self._held:
            self._held += data
        else:
            self._feed(data)

    def eof_received(self) -> None:
        if self._slot is not None:
            self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._slot is not None:
            self.slots.give_back(self._slot)
            self._inner.connection_lost(exc)
        self._held = b""

    def pause_writing(self) -> None:
        self._unread_since = self._loop.time()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        self._inner.resume_writing()

    # Reports about a request, through ASGI's state.

    def enter(self) -> None:
        """Count a request after its headers were read, and mark the connection as busy."""
        self._under_way += 1
        self._since = None
        if self._slot is not None:
            self.slots.work(self._slot)

    def rest(self) -> None:
        """Mark the connection as idle while its request waits for a body or a turn.

        Meanwhile, Drawdown may close the connection in favour of a new connection.
        """
        if self._slot is not None:
            self.slots.wait(self._slot)

    def resume(self) -> None:
        """Mark the connection as busy again."""
        if self._slot is not None:
            self.slots.work(self._slot)

    def end(self) -> None:
        """Count the end of a request."""
        self._under_way -= 1
        if not self._under_way and self._slot is not None:
            self.slots.wait(self._slot)

    # Calls of uvicorn's protocol on its transport.

    def resumed(self) -> None:
        """Feed the bytes that arrived while reading was paused."""
        if self._line is None or self._line.is_paused:
            return
        if self._held:
            held, self._held = self._held, b""
            self._feed(held)
        if not self._line.is_paused:
            self._line.resume_under()

    def closed(self) -> None:
        """Mark the connection as closing.

        The transport still waits until the client has read the last byte.
        """
        self._unread_since = self._unread_since or self._loop.time()

    def _feed(self, data: bytes) -> None:
        assert self._line is not None
        if self._since is None and not self._under_way:
            self._since = self._loop.time()
        for at in range(0, len(data), PIECE_BYTES):
            if self._line.is_paused:
                self._held = data[at:]
                return
            try:
                self._inner.data_received(data[at : at + PIECE_BYTES])
            except Exception:  # uvicorn cannot refuse an invalid request after a response began
                self._line.abort()
            if self._line.is_closing():
                return

    def _check(self, now: float) -> None:
        assert self._line is not None and self._slot is not None
        if self._unread_since is not None and now - self._unread_since > WRITE_PATIENCE_S:
            self._line.abort()
        patience = HEALTH_PATIENCE_S if self._slot.for_health else PATIENCE_S
        is_late = self._since is not None and now - self._since > patience
        if is_late and not self._under_way and not self._line.is_closing():
            self._line.close()


class Line(asyncio.Transport):
    """The transport that uvicorn's protocol writes to.

    It stays paused while the connection holds unread bytes.
    """

    def __init__(self, under: asyncio.Transport, owner: Connection) -> None:
        super().__init__()
        self._under, self._owner = under, owner
        self.is_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._under.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._under.is_closing()

    def close(self) -> None:
        self._owner.closed()
        self._under.close()

    def abort(self) -> None:
        self._under.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._under.write(data)

    def writelines(self, list_of_data: Any) -> None:
        self._under.writelines(list_of_data)

    def can_write_eof(self) -> bool:
        return self._under.can_write_eof()

    def write_eof(self) -> None:
        self._under.write_eof()

    def is_reading(self) -> bool:
        return not self.is_paused

    def pause_reading(self) -> None:
        self.is_paused = True
        if not self._under.is_closing():
            self._under.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading in the loop's next step, because the caller is still at work."""
        if self.is_paused:
            self.is_paused = False
            asyncio.get_running_loop().call_soon(self._owner.resumed)

    def resume_under(self) -> None:
        if not self._under.is_closing():
            with suppress(RuntimeError):  # the transport was not paused
                self._under.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._under.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._under.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._under.set_write_buffer_limits(high, low)


def _refusal(error: ApiError) -> bytes:
    """Return the bytes of a response to a connection without a request."""
    answer = error_answer(error)
    head = [*answer.raw_headers, *HEADERS, (b"connection", b"close")]
    lines = b"".join(b"%s: %s\r\n" % (name, value) for name, value in head)
    return b"HTTP/1.1 %d Service Unavailable\r\n%s\r\n%s" % (error.status, lines, bytes(answer.body))
