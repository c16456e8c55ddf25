"""A client that sends calls over real sockets.

It speaks HTTP/1.1 over TCP and TLS, and parses with httptools (llhttp).

Guarantee: the client returns `NotSent` only if it did not have a connection to write the request to. As soon as a
connection has the request (`Connection.ask`), every failure is `NoAnswer`. The client does not retry, follow redirects
or store cookies. If the dialer chooses a proxy, the proxy only connects, and cannot read a request. Without a proxy, a
connection leads only to an address that `socket_to` made a socket for. Each address is resolved at most `names_kept_s`
before.

A response is whole, or it is a failure. If a server answers endlessly (`100 Continue`, headers, tiny pieces, empty
chunks), the client stops at the limits of this module. Unrequested bytes end the connection, and never count as the
response to the next request.

Drawdown does not use an existing HTTP client. ops/decisions/0022 lists the situations that each client reports wrongly,
or in which it delays other calls. Each situation was tried on a socket (tests/contract/test_http_client.py).
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, cast
from urllib.parse import urlsplit

import aiohappyeyeballs
import httptools

from drawdown.providers.http import MAX_ANSWER_BYTES, Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.http.egress import CA_FILE, PROXY, Lookup, Outgoing, ProxyUrl, system_lookup
from drawdown.schema.errors import UsageError
from drawdown.schema.text import quote_value

MAX_CONNECTIONS: Final = 512
"""Most open connections to providers.

Further calls wait for a free connection, up to CONNECT_TIMEOUT_S.
"""
KEEP_ALIVE_S: Final = 4.0
"""Seconds for which Drawdown reuses an idle connection.

Common servers close an idle connection after five seconds. A request on a closing connection has an unknown outcome.
"""
UNPROVEN: Final = " (if it asks for a client certificate: DRAWDOWN_CELL_CERT_FILE or DRAWDOWN_PROVIDER_CERT_FILE)"
URLS_KEPT: Final = 256
"""Parsed URLs in the cache."""

_OWN_HEADERS: Final = frozenset({"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"})
"""Headers that only the client sets, because they decide where a request ends.

A wrong header garbles the next request.
"""
_EACH: Final = {"accept-encoding": "gzip", "user-agent": "drawdown"}
"""Headers of each call, unless the call has its own."""
_URL: Final = re.compile(r"[!-~]+")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BROKEN_LINE: Final = re.compile(r"[\r\n\0]")


@dataclass
class _ConnectionPool:
    """The connections of one event loop."""

    loop: asyncio.AbstractEventLoop
    slots: asyncio.Semaphore
    most: int
    free: dict[Origin, deque[Connection]] = field(default_factory=dict)
    used: set[Connection] = field(default_factory=set)
    idle: OrderedDict[Connection, Origin] = field(default_factory=OrderedDict)
    """All free connections, the one that was used longest ago first."""

    def take(self, origin: Origin) -> Connection | None:
        """Return the usable connection that was used last, and mark it as in use.

        Return None if the origin does not have a usable idle connection.
        """
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
        """Release the slot of a connection, and keep the connection if it is usable."""
        self.slots.release()
        self.used.discard(connection)
        if connection.done_with():
            connection.idle_since = self.loop.time()
            self.free.setdefault(origin, deque()).append(connection)
            self.idle[connection] = origin
            self.make_room()

    def make_room(self, more: int = 0) -> None:
        """Close idle connections until `more` new connections fit into the limit.

        Close the connection that was idle longest first.
        """
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
        """Close all connections."""
        for connection in (*self.used, *(one for free in self.free.values() for one in free)):
            connection.abort()


CONNECT_TIMEOUT_S: Final = 10.0
"""Connect timeout, in seconds, from the wait for a free slot to the end of the TLS handshake."""


class HttpClient:
    """An `Http` for one event loop after another.

    The first call in each loop opens connections.

    Close the client before the loop ends. `dialer` decides where a connection leads.
    """

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
        self._lines: _ConnectionPool | None = None
        self._held: Counter[str] = Counter()

    async def send(self, call: Call) -> HttpResult:
        """Send a call once, and return its result. Raise an error only on cancellation."""
        try:
            origin, request = _request(call)
        except (ValueError, TypeError):  # the URL, the method or a header is invalid, and no connection is open
            return NotSent("invalid request: it cannot be sent")
        lines = self._here()
        ends_at = lines.loop.time() + call.timeout_s
        try:
            connection = await self._line(lines, origin, min(self._connect_timeout_s, call.timeout_s))
        except TimeoutError:
            return NotSent("no connection in time")
        except NoConnection as error:
            return NotSent(str(error))
        try:
            if not connection.is_open:  # the peer closed it immediately
                return NotSent("no connection")
            is_new = not connection.idle_since
            result = await _exchanged(lines.loop, connection, request, call, ends_at)
            if is_new and origin.tls and isinstance(result, NoAnswer) and not self._dialer.is_proven:
                return _perhaps_unproven(result)
            return result
        finally:
            lines.give_back(origin, connection)

    async def _line(self, lines: _ConnectionPool, origin: Origin, within_s: float) -> Connection:
        """Return a connection, and take a slot for it. Errors: NoConnection, TimeoutError."""
        if not lines.slots.locked():  # the usual path does not need a timer
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

    async def _connected(self, lines: _ConnectionPool, origin: Origin) -> Connection:
        """Return a new connection. Errors: NoConnection, TimeoutError."""
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
        """Close the connections. A later call opens new ones."""
        lines, self._lines = self._lines, None
        self._dialer.close()
        if lines is not None and lines.loop is asyncio.get_running_loop():
            lines.close()
            await asyncio.sleep(0)  # until each connection received its close

    def _here(self) -> _ConnectionPool:
        here = asyncio.get_running_loop()
        if self._lines is None or self._lines.loop is not here:
            self._lines = _ConnectionPool(here, asyncio.Semaphore(self._connections), self._connections)
        return self._lines


async def _exchanged(
    loop: asyncio.AbstractEventLoop, connection: Connection, request: bytes, call: Call, ends_at: float
) -> Answer | NoAnswer:
    """Write the request, and wait for its response.

    From here on, the result can no longer be `NotSent`.
    """
    answer = connection.ask(request, call.most_bytes)
    late = loop.call_at(ends_at, _expire, answer, f"no complete response within {call.timeout_s:g} s")
    try:
        await answer
        encoding = connection.headers.get("content-encoding", "identity")
        return Answer(connection.status, connection.headers, _plain(bytes(connection.body), encoding, call.most_bytes))
    except Unusable as error:
        return NoAnswer(str(error))
    finally:
        late.cancel()


def _perhaps_unproven(result: NoAnswer) -> NoAnswer:
    """Add a hint if the service may have asked for a client certificate.

    Since TLS 1.3 such a service closes the connection only after the handshake.
    """
    return NoAnswer(f"{result.reason}{UNPROVEN}") if result.reason in (NO_ANSWER, BROKE) else result


def _expire(answer: asyncio.Future[None], why: str) -> None:
    if not answer.done():
        answer.set_exception(Unusable(why))


@lru_cache(URLS_KEPT)
def _parts(url: str) -> tuple[Origin, str]:
    """Return the origin and the target of a URL. Errors: ValueError."""
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
    """Return a header's name in lower case.

    Errors: ValueError for an invalid name, or a name that only the client sets.
    """
    if name.lower() in _OWN_HEADERS or not _HEADER_NAME.fullmatch(name):
        raise ValueError
    return name.lower()


def _request(call: Call) -> tuple[Origin, bytes]:
    """Return the origin of a call, and its bytes.

    Errors: ValueError or TypeError for an invalid call.
    """
    origin, start, names = _start(call.method, call.url, tuple(call.headers))
    headers = {**_EACH, **dict(zip(names, call.headers.values(), strict=True))}
    if _BROKEN_LINE.search("".join(headers.values())):
        raise ValueError
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    length = f"content-length: {len(call.body)}\r\n" if call.body or call.method != "GET" else ""
    return origin, f"{start}{lines}{length}\r\n".encode() + call.body


@lru_cache(URLS_KEPT)
def _start(method: str, url: str, given: tuple[str, ...]) -> tuple[Origin, str, tuple[str, ...]]:
    """Return a call's origin, first two lines, and header names in lower case.

    All pushes of a provider have the same names of headers, but each push has its own idempotency key.
    """
    origin, target = _parts(url)
    if not method.isalpha() or not method.isascii():
        raise ValueError
    first = f"{method} {target} HTTP/1.1\r\nhost: {origin.host_header}\r\n"
    return origin, first, tuple(map(_name, given))


def _plain(body: bytes, encoding: str, most: int) -> bytes:
    """Return an unpacked body of at most `most` bytes.

    Errors: Unusable for another encoding, or an incomplete or large gzip.
    """
    if encoding.lower() == "identity" or not body:
        return body
    if encoding.lower() != "gzip":
        raise Unusable(f"the response has the encoding {quote_value(encoding)}: expected gzip or identity")
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, most + 1)
    except zlib.error:
        raise Unusable("cannot decode the response: invalid gzip") from None
    if len(plain) > most:
        raise Unusable(f"{TOO_MUCH} {most} bytes")
    if not unzip.eof or unzip.unused_data:
        raise Unusable("cannot decode the response: invalid gzip")
    return plain


MAX_HEAD_BYTES: Final = 64 * 1024
"""Largest size of a response's headers, including interim responses."""
MAX_HEADERS: Final = 256
"""Most headers and trailers in a response."""
MAX_INTERIM: Final = 8
"""Interim responses (1xx) before the final response."""
MAX_WIRE_BYTES: Final = MAX_HEAD_BYTES + 2 * MAX_ANSWER_BYTES
"""Largest size of a response with its framing."""
CHUNK_BYTES: Final = 7
"""Most bytes of framing for each byte of a response body.

Chunks of a single byte add five bytes each.
"""
FREE_PIECES: Final = 256
PIECE_BYTES: Final = 128
"""Fewest bytes of a response, on average, for each piece that the socket delivers.

The first FREE_PIECES pieces are free. Drawdown limits the number of pieces, because each piece takes the same time.
"""
ORIGIN_BYTES: Final = 32 * 1024 * 1024
"""Most bytes of one service's responses in flight.

A service that sends too much then neither delays others nor exhausts the memory.
"""


class Unusable(Exception):
    """Raised if the received bytes are not a response. The message has the reason."""


CUT_OFF: Final = "the response is too large, so Drawdown cut it off"
CUT_SHORT: Final = "the response was cut short"
NO_ANSWER: Final = "the connection closed before a response"
BROKE: Final = "the connection broke"
NOT_HTTP: Final = "the response is not HTTP"
TOO_MUCH: Final = "the response has more than"
INTERIM: Final = "the server sent only interim responses (1xx)"


class Connection(asyncio.Protocol):
    """The client's end of a connection, for one request at a time.

    Call `ask` for each request, and `done_with` after its response.

    `held` counts the bytes of all responses in flight from the same origin.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, held: Counter[str], origin: str) -> None:
        self._loop = loop
        self._held = held
        self._origin = origin
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.is_open = True
        self.idle_since = 0.0
        self._renew(0)

    def _renew(self, most: int) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self._most = most
        self._head = self._wire = self._pieces = self._named = self._interim = 0
        self._has_head = self._is_framed = self._is_whole = self._keeps = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes, most: int) -> asyncio.Future[None]:
        """Send a whole request, and return a future of its response.

        From here on, the service may receive the request.

        Errors of the future: Unusable.
        """
        assert self._transport is not None and self.is_open and self._answer is None, "one request at a time"
        self._renew(most)
        self._answer = self._loop.create_future()
        self._transport.write(request)
        return self._answer

    def done_with(self) -> bool:
        """Drop the response. Return True if the connection can be used again."""
        self._held[self._origin] -= len(self.body)
        self.body = bytearray()
        self._answer = None
        if not (self._is_whole and self._keeps):
            self.abort()
        return self.is_open

    def abort(self) -> None:
        """Close the connection immediately."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._is_whole:
            self.abort()  # unrequested bytes
            return
        self._wire += len(data)
        self._pieces += 1
        if self._wire > MAX_WIRE_BYTES or self._pieces > FREE_PIECES + self._wire // PIECE_BYTES:
            self._fail(CUT_OFF)
            return
        try:
            self._parser.feed_data(data)
        except Unusable as error:
            self._fail(str(error))
        except httptools.HttpParserError as error:  # invalid HTTP, a callback raised, or extra bytes
            self._keeps = False
            if not self._is_whole:
                said = error.__context__
                self._fail(str(said) if isinstance(said, Unusable) else NOT_HTTP)
        # The parser buffers a part of the framing that it has not reported yet, such as a trailer's name.
        free = 2 * MAX_HEAD_BYTES + CHUNK_BYTES * len(self.body) if self._has_head else MAX_HEAD_BYTES
        if self._wire - len(self.body) > free:
            self._fail(CUT_OFF)
        if self._is_whole:
            self._complete()

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answer is None or self._answer.done():
            return
        if exc is not None:
            self._fail(BROKE)
        elif self._has_head and not self._is_framed:
            self._is_whole = True  # without a declared length, the response ends with the connection
            self._complete()
        else:
            self._fail(CUT_SHORT if self._has_head else NO_ANSWER)

    def _complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def _fail(self, why: str) -> None:
        self._is_whole = False
        self.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unusable(why))

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        if self._is_whole:
            self._keeps = False  # a second response follows the first

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_whole:
            return
        self._named += 1
        self._head += len(name) + len(value)
        if self._named > MAX_HEADERS or self._head > MAX_HEAD_BYTES:
            raise Unusable(CUT_OFF)
        if self._has_head:
            return  # a trailer
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if key in ("content-length", "transfer-encoding"):
            self._is_framed = True
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        if self._is_whole:
            return
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self._has_head = True
            return
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise Unusable(CUT_OFF)
        if self.status == 101:
            raise Unusable(INTERIM)
        self.headers, self._is_framed = {}, False

    def on_body(self, data: bytes) -> None:
        if self._is_whole:
            return
        self.body += data
        self._held[self._origin] += len(data)
        if len(self.body) > self._most:
            raise Unusable(f"{TOO_MUCH} {self._most} bytes")
        if self._held[self._origin] > ORIGIN_BYTES:
            raise Unusable(f"concurrent responses have more than {ORIGIN_BYTES} bytes")

    def on_message_complete(self) -> None:
        if self._has_head and not self._is_whole:
            self._keeps = self._parser.should_keep_alive()
            self._is_whole = True


NAMES_AT_ONCE: Final = 4
"""Concurrent lookups of host names, in separate threads.

A name server that hangs then does not delay transactions.
"""
NAMES_KEPT_S: Final = 10.0
"""Seconds for which Drawdown caches a resolved address.

Many connections to one host at a time need only one lookup.
"""
NEXT_ADDRESS_S: Final = 0.25
"""Seconds before Drawdown also tries a host's next address."""


MAX_PROXY_HEAD_BYTES: Final = 16 * 1024
"""Largest size of a proxy's response to CONNECT."""
NOT_TRUSTED: Final = f"the certificate is not trusted. Name its authority in {CA_FILE}"
NO_ADDRESS: Final = f"the host does not have an address. Set {PROXY} if only a proxy reaches it"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")


class NoConnection(Exception):
    """Raised if a connection failed, so the call was not sent.

    The message has the reason, in Drawdown's own words.
    """


@dataclass(frozen=True)
class Origin:
    """The target of a connection. `host_header`: the host as the URL spells it."""

    tls: bool
    host: str
    port: int
    host_header: str

    @cached_property
    def text(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


def _socket_to(found: tuple[Any, ...]) -> socket.socket:
    return socket.socket(*found[:3])


class Dialer:
    """The maker of connections for one client.

    `outgoing`: the trusted authorities, and the proxy. `socket_to`: a function that makes the socket for an address, or
    raises OSError for a forbidden address. The operator sets the proxy, so its address is not checked. `names_kept_s`:
    seconds to cache a resolved name; 0: each connection resolves the name again.
    """

    def __init__(
        self,
        *,
        outgoing: Outgoing | None = None,
        lookup: Lookup = system_lookup,
        socket_to: Callable[[tuple[Any, ...]], socket.socket] = _socket_to,
        names_kept_s: float = NAMES_KEPT_S,
    ) -> None:
        self._lookup = lookup
        self._socket_to = socket_to
        self._names_kept_s = names_kept_s
        self._outgoing = outgoing or Outgoing()
        self._threads: ThreadPoolExecutor | None = None
        self._names: dict[Origin, tuple[float, asyncio.Future[Sequence[tuple[Any, ...]]]]] = {}

    @property
    def is_proven(self) -> bool:
        """Return True if the dialer presents a client certificate."""
        return self._outgoing.certificate is not None

    async def connect(self, loop: asyncio.AbstractEventLoop, origin: Origin, protocol: asyncio.Protocol) -> None:
        """Connect to the origin, with TLS if its URL requires it.

        Errors: NoConnection; TimeoutError after the caller's time limit.
        """
        proxy = self._outgoing.proxy_for(origin.host, origin.port) if origin.tls else None
        raw = await self._reach(loop, origin) if proxy is None else await self._through(loop, proxy, origin)
        try:
            tls = self._outgoing.tls() if origin.tls else None
            await loop.create_connection(
                lambda: protocol, sock=raw, ssl=tls, server_hostname=origin.host if tls else None
            )
        except TimeoutError:
            raise
        except UsageError as error:  # a changed certificate file, or an invalid SSL_CERT_FILE
            raw.close()
            raise NoConnection(str(error)) from None
        except (OSError, RuntimeError) as error:
            raise NoConnection(_why(error)) from None

    async def _reach(self, loop: asyncio.AbstractEventLoop, origin: Origin, *, is_proxy: bool = False) -> socket.socket:
        """Return a connection by TCP. Errors: as `connect`."""
        try:
            found = await self._addresses(loop, origin)
        except (OSError, UnicodeError):  # UnicodeError: an invalid name
            raise NoConnection(
                f"{PROXY}: the host name of the proxy does not have an address. Check the name"
                if is_proxy
                else NO_ADDRESS
            ) from None
        except RuntimeError as error:  # the machine cannot start a thread for the lookup
            raise NoConnection(_why(error)) from None
        socket_to = _socket_to if is_proxy else self._socket_to
        try:
            return await aiohappyeyeballs.start_connection(
                found, happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1, loop=loop, socket_factory=socket_to
            )
        except TimeoutError:
            raise
        except (OSError, RuntimeError) as error:
            raise NoConnection(f"{PROXY}: {_why(error)} to the proxy" if is_proxy else _why(error)) from None

    async def _through(self, loop: asyncio.AbstractEventLoop, proxy: ProxyUrl, origin: Origin) -> socket.socket:
        """Return a connection that a proxy made. Errors: as `connect`."""
        raw = await self._reach(loop, Origin(False, proxy.host, proxy.port, proxy.host), is_proxy=True)
        try:
            await loop.sock_sendall(raw, _connect_request(proxy, origin))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                piece = await loop.sock_recv(raw, 4096)
                head += piece
                if not piece:
                    raise NoConnection(
                        f"{PROXY}: the proxy closed the connection before its response was complete. Check the proxy"
                    )
                if len(head) > MAX_PROXY_HEAD_BYTES:
                    raise NoConnection(
                        f"{PROXY}: the proxy's response has more than {MAX_PROXY_HEAD_BYTES:,} bytes before the "
                        "tunnel. Check the address of the proxy"
                    )
            if (status := _status_of(head)) is None:
                raise NoConnection(f"{PROXY}: the proxy's response is not HTTP. Check the address of the proxy")
            if not 200 <= status < 300:
                raise NoConnection(
                    f"{PROXY}: the proxy refused to connect, with status {status}. Check its configuration"
                )
        except OSError as error:
            raw.close()
            raise NoConnection(f"{PROXY}: {_why(error)} to the proxy") from None
        except BaseException:
            raw.close()
            raise
        return raw

    def close(self) -> None:
        """Stop the lookup of names, and clear the cache."""
        threads, self._threads = self._threads, None
        self._names.clear()
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    async def _addresses(self, loop: asyncio.AbstractEventLoop, origin: Origin) -> Sequence[tuple[Any, ...]]:
        """Return the addresses of an origin, by one lookup for all connections.

        Errors: OSError, UnicodeError; RuntimeError if no thread can start; NoConnection if `close` ends the lookup.
        """
        asked_at, asked = self._names.get(origin, (0.0, None))
        if asked is None or asked.get_loop() is not loop or loop.time() - asked_at >= self._names_kept_s:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(NAMES_AT_ONCE, thread_name_prefix="names")
            asked = loop.run_in_executor(self._threads, self._lookup, origin.host, origin.port)
            self._names[origin] = (loop.time(), asked)
        try:
            found = await asyncio.shield(asked)
        except (OSError, UnicodeError):
            self._names.pop(origin, None)
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not asked.cancelled() or (task is not None and task.cancelling()):
                raise
            raise NoConnection("no connection") from None  # `close` cancelled the lookup, which was still queued
        # Always use the requested port, because a lookup may return another port.
        return [(*kind, (where[0], origin.port, *where[2:])) for *kind, where in found]


def _connect_request(proxy: ProxyUrl, origin: Origin) -> bytes:
    where = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
    proof = f"proxy-authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
    return f"CONNECT {where} HTTP/1.1\r\nhost: {where}\r\nuser-agent: drawdown\r\n{proof}\r\n".encode()


def _status_of(head: bytes) -> int | None:
    found = _STATUS.match(head)
    return None if found is None else int(found[1])


def _why(error: Exception) -> str:
    """Return the reason why a connection could not be made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return NOT_TRUSTED
    if isinstance(error, ssl.SSLError | ConnectionResetError | ConnectionAbortedError):
        return "TLS failed"
    name = errno.errorcode.get(error.errno or 0) if isinstance(error, OSError) else None
    return "no connection" + (f" ({name})" if name else "")
