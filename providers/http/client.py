"""Sends calls over real sockets: HTTP/1.1, parsed by httptools (llhttp).

Guarantee: `NotSent` has one proof: no connection was there to write the request to. From the moment that it is handed
to one (`Connection.ask`), every failure is `NoAnswer`. Nothing is sent twice, followed or remembered: no retries, no
redirects, no cookies. A proxy connects where the dialer says so; it sees no byte of a request.

Not by a client of others: ops/decisions/0022 says which situations each of them tells wrongly, or lets cost others.
Each was tried on a socket (tests/contract/test_http_client.py).
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.http.connection import BROKE, NO_ANSWER, TOO_MUCH, Connection, Unusable
from drawdown.providers.http.dialing import CONNECT_TIMEOUT_S, Dialer, NoConnection, Origin

MAX_CONNECTIONS: Final = 512
KEEP_ALIVE_S: Final = 4.0
"""Less than the five seconds after which common servers close: what is sent into a closing connection is unknown."""
UNPROVEN: Final = " (if it asks for a client certificate: DRAWDOWN_CELL_CERT_FILE or DRAWDOWN_PROVIDER_CERT_FILE)"
URLS_KEPT: Final = 256
"""Whose parts are not worked out again."""

_OWN_HEADERS: Final = frozenset({"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"})
"""What decides where a request ends: with one of these wrong, the next on the same connection is garbled."""
_URL: Final = re.compile(r"[!-~]+")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BROKEN_LINE: Final = re.compile(r"[\r\n\0]")


@dataclass
class _Lines:
    """The connections of one event loop."""

    loop: asyncio.AbstractEventLoop
    slots: asyncio.Semaphore
    most: int
    free: dict[Origin, deque[Connection]] = field(default_factory=dict)
    used: set[Connection] = field(default_factory=set)
    idle: OrderedDict[Connection, Origin] = field(default_factory=OrderedDict)
    """All that are free: first the one that was used longest ago."""

    def take(self, origin: Origin) -> Connection | None:
        """The connection used last of those that may still be used; it is in use from now on."""
        free = self.free.get(origin)
        if not free:
            return None
        oldest = self.loop.time() - KEEP_ALIVE_S
        while free and free[0].idle_since < oldest:
            self._end(free.popleft())
        while free:
            connection = free.pop()
            self.idle.pop(connection, None)
            if connection.is_open:
                self.used.add(connection)
                return connection
        return None

    def give_back(self, origin: Origin, connection: Connection) -> None:
        """It is kept if it may be used again; its slot is free."""
        self.slots.release()
        self.used.discard(connection)
        if connection.done_with():
            connection.idle_since = self.loop.time()
            self.free.setdefault(origin, deque()).append(connection)
            self.idle[connection] = origin
            self.make_room()

    def make_room(self, more: int = 0) -> None:
        """There are never more connections than may be in use: idle ones go first, whomever they lead to."""
        while self.idle and len(self.idle) + len(self.used) + more > self.most:
            connection, origin = next(iter(self.idle.items()))
            free = self.free[origin]
            free.remove(connection)
            if not free:
                del self.free[origin]
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        self.idle.pop(connection, None)
        connection.abort()

    def close(self) -> None:
        """Close all of them."""
        for connection in (*self.used, *(one for free in self.free.values() for one in free)):
            connection.abort()


class HttpClient:
    """An `Http` for one event loop after another; connections are opened by the first call in each. Close it before the
    loop ends. `dialer` decides where a connection leads."""

    def __init__(
        self,
        *,
        connections: int = MAX_CONNECTIONS,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        dialer: Dialer | None = None,
    ) -> None:
        self._connections = connections
        self._connect_timeout_s = connect_timeout_s
        self._dialer = dialer or Dialer()
        self._lines: _Lines | None = None
        self._held: Counter[str] = Counter()

    async def send(self, call: Call) -> HttpResult:
        """Send once. Whatever the other side does is a result; only cancelling raises."""
        try:
            origin, request = _request(call)
        except (ValueError, TypeError):  # the URL, the method or a header; nothing was opened yet
            return NotSent("not a request that can be sent")
        lines = self._here()
        ends_at = lines.loop.time() + call.timeout_s
        try:
            connection = await self._line(lines, origin, min(self._connect_timeout_s, call.timeout_s))
        except TimeoutError:
            return NotSent("no connection in time")
        except NoConnection as error:
            return NotSent(str(error))
        try:
            if not connection.is_open:  # closed as soon as it was made
                return NotSent("no connection")
            is_new = not connection.idle_since
            result = await _exchanged(lines.loop, connection, request, call, ends_at)
            if is_new and origin.tls and isinstance(result, NoAnswer) and not self._dialer.is_proven:
                return _perhaps_unproven(result)
            return result
        finally:
            lines.give_back(origin, connection)

    async def _line(self, lines: _Lines, origin: Origin, within_s: float) -> Connection:
        """A connection, and a slot for it. Errors: NoConnection, TimeoutError."""
        if not lines.slots.locked():  # the usual way needs no timer
            await lines.slots.acquire()
            if (kept := lines.take(origin)) is not None:
                return kept
            lines.slots.release()
        async with asyncio.timeout(within_s):
            await lines.slots.acquire()
            try:
                return lines.take(origin) or await self._connected(lines, origin)
            except BaseException:
                lines.slots.release()
                raise

    async def _connected(self, lines: _Lines, origin: Origin) -> Connection:
        """A new connection. Errors: NoConnection, TimeoutError."""
        made = Connection(lines.loop, self._held, origin.text)
        lines.make_room(1)
        lines.used.add(made)
        try:
            await self._dialer.connect(lines.loop, origin, made)
        except BaseException:
            lines.used.discard(made)
            made.abort()
            raise
        return made

    async def close(self) -> None:
        """Give connections back; a later call opens new ones."""
        lines, self._lines = self._lines, None
        self._dialer.close()
        if lines is not None and lines.loop is asyncio.get_running_loop():
            lines.close()
            await asyncio.sleep(0)  # until they are told so

    def _here(self) -> _Lines:
        here = asyncio.get_running_loop()
        if self._lines is None or self._lines.loop is not here:
            self._lines = _Lines(here, asyncio.Semaphore(self._connections), self._connections)
        return self._lines


async def _exchanged(
    loop: asyncio.AbstractEventLoop, connection: Connection, request: bytes, call: Call, ends_at: float
) -> Answer | NoAnswer:
    """Hand the request over, and wait for its answer. Nothing here can say that it was not sent."""
    answer = connection.ask(request, call.most_bytes)
    late = loop.call_at(ends_at, _expire, answer, f"no whole answer within {call.timeout_s:g} s")
    try:
        await answer
        encoding = connection.headers.get("content-encoding", "identity")
        return Answer(connection.status, connection.headers, _plain(bytes(connection.body), encoding, call.most_bytes))
    except Unusable as error:
        return NoAnswer(str(error))
    finally:
        late.cancel()


def _perhaps_unproven(result: NoAnswer) -> NoAnswer:
    """Since TLS 1.3 a service that asks for a client certificate closes the connection after the handshake."""
    return NoAnswer(f"{result.reason}{UNPROVEN}") if result.reason in (NO_ANSWER, BROKE) else result


def _expire(answer: asyncio.Future[None], why: str) -> None:
    if not answer.done():
        answer.set_exception(Unusable(why))


@lru_cache(URLS_KEPT)
def _parts(url: str) -> tuple[Origin, str]:
    """Where a URL leads, and what is asked for there. Errors: ValueError."""
    if not _URL.fullmatch(url):
        raise ValueError
    found = urlsplit(url)
    if found.scheme not in ("http", "https") or not found.hostname or found.username is not None:
        raise ValueError
    port = found.port if found.port is not None else 443 if found.scheme == "https" else 80
    if not 0 < port < 65536:
        raise ValueError
    origin = Origin(found.scheme == "https", found.hostname, port, found.netloc)
    return origin, (found.path or "/") + (f"?{found.query}" if found.query else "")


@lru_cache(URLS_KEPT)
def _name(name: str) -> str:
    """A header's name in lower case. Errors: ValueError for what HTTP cannot say, or is ours to say."""
    if name.lower() in _OWN_HEADERS or not _HEADER_NAME.fullmatch(name):
        raise ValueError
    return name.lower()


def _request(call: Call) -> tuple[Origin, bytes]:
    """Where a call leads, and its bytes. Errors: ValueError or TypeError for what HTTP cannot say."""
    origin, head = _head(call.method, call.url, tuple(call.headers.items()))
    length = f"content-length: {len(call.body)}\r\n" if call.body or call.method != "GET" else ""
    return origin, f"{head}{length}\r\n".encode() + call.body


@lru_cache(URLS_KEPT)
def _head(method: str, url: str, given: tuple[tuple[str, str], ...]) -> tuple[Origin, str]:
    """Where a call leads, and its first lines but for its length: of one provider's pushes they are all the same."""
    origin, target = _parts(url)
    if not method.isalpha() or not method.isascii():
        raise ValueError
    lines = [f"{method} {target} HTTP/1.1", f"host: {origin.host_header}"]
    headers = {"accept-encoding": "gzip", "user-agent": "drawdown"}
    headers |= {_name(name): value for name, value in given}
    for name, value in headers.items():
        if _BROKEN_LINE.search(value):
            raise ValueError
        lines.append(f"{name}: {value}")
    return origin, "\r\n".join((*lines, ""))


def _plain(body: bytes, encoding: str, most: int) -> bytes:
    """Errors: Unusable. A gzip cut short is no whole one, and what it unpacks to has a limit."""
    if encoding.lower() == "identity" or not body:
        return body
    if encoding.lower() != "gzip":
        raise Unusable("an answer in an encoding that was not asked for")
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, most + 1)
    except zlib.error:
        raise Unusable("an answer that is not the gzip it says it is") from None
    if len(plain) > most:
        raise Unusable(f"{TOO_MUCH} {most} bytes")
    if not unzip.eof or unzip.unused_data:
        raise Unusable("an answer that is not the gzip it says it is")
    return plain
