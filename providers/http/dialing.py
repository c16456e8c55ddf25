"""Connections to a host: its addresses, TCP and TLS.

Guarantee: nothing of a request leaves here. A connection is made only to an address that `socket_to` was given and made
a socket for, and each address is asked for at that moment.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import aiohappyeyeballs

from drawdown.providers.http.names import Lookup, system_lookup
from drawdown.providers.http.outgoing import CA_FILE, PROXY, Outgoing, ProxyUrl
from drawdown.schema.errors import UsageError

CONNECT_TIMEOUT_S: Final = 10.0
"""For all of it together: a free slot, the host's address, TCP and TLS."""
NAMES_AT_ONCE: Final = 4
"""Names that are looked up at once, in threads of their own: a name server that hangs holds up no transaction."""
NAMES_KEPT_S: Final = 10.0
"""For how long an answer of the name server stands, where many connections are opened at once."""
NEXT_ADDRESS_S: Final = 0.25
"""After which the next address is tried beside the one before."""


MAX_PROXY_HEAD_BYTES: Final = 16 * 1024
"""Of what a proxy answers to CONNECT."""
NOT_TRUSTED: Final = f"the certificate is not trusted (name its authority in {CA_FILE})"
NO_ADDRESS: Final = f"the host has no address: set {PROXY} if only a proxy reaches it"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")


class NoConnection(Exception):
    """Nothing was sent; the message says why, in words of ours alone."""


@dataclass(frozen=True)
class Origin:
    """Where a connection leads. `host_header`: the host as the URL has it."""

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
    """Makes connections for one client. `outgoing`: whom to trust, and through which proxy. `socket_to` makes the
    socket for an address, or raises OSError for one that is not to be connected to; a proxy's address is the
    operator's to say, and not judged. With `names_kept_s` 0 each connection asks for the addresses anew."""

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
        """Whether it has a client certificate to show."""
        return self._outgoing.certificate is not None

    async def connect(self, loop: asyncio.AbstractEventLoop, origin: Origin, protocol: asyncio.Protocol) -> None:
        """Connect, TLS included. Errors: NoConnection; TimeoutError of whoever waits no longer."""
        proxy = self._outgoing.proxy_for(origin.host, origin.port) if origin.tls else None
        raw = await self._reach(loop, origin) if proxy is None else await self._through(loop, proxy, origin)
        try:
            tls = self._outgoing.tls() if origin.tls else None
            await loop.create_connection(
                lambda: protocol, sock=raw, ssl=tls, server_hostname=origin.host if tls else None
            )
        except TimeoutError:
            raise
        except UsageError as error:  # a file that changed since the start
            raw.close()
            raise NoConnection(str(error)) from None
        except (OSError, RuntimeError) as error:
            raise NoConnection(_why(error)) from None

    async def _reach(self, loop: asyncio.AbstractEventLoop, origin: Origin, *, is_proxy: bool = False) -> socket.socket:
        """A connection by TCP. Errors: as `connect`."""
        try:
            found = await self._addresses(loop, origin)
        except (OSError, UnicodeError):  # of a name that is none
            raise NoConnection(f"{PROXY}: the proxy has no address" if is_proxy else NO_ADDRESS) from None
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
        """The same, that a proxy made. Errors: as `connect`."""
        raw = await self._reach(loop, Origin(False, proxy.host, proxy.port, proxy.host), is_proxy=True)
        try:
            await loop.sock_sendall(raw, _connect_request(proxy, origin))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                piece = await loop.sock_recv(raw, 4096)
                head += piece
                if not piece or len(head) > MAX_PROXY_HEAD_BYTES:
                    raise NoConnection(f"{PROXY}: the proxy's answer is no HTTP")
            if (status := _status_of(head)) is None:
                raise NoConnection(f"{PROXY}: the proxy's answer is no HTTP")
            if not 200 <= status < 300:
                raise NoConnection(f"{PROXY}: the proxy refuses to connect: it answered {status}")
        except OSError as error:
            raw.close()
            raise NoConnection(f"{PROXY}: {_why(error)} to the proxy") from None
        except BaseException:
            raw.close()
            raise
        return raw

    def close(self) -> None:
        """Look up no more names."""
        threads, self._threads = self._threads, None
        self._names.clear()
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    async def _addresses(self, loop: asyncio.AbstractEventLoop, origin: Origin) -> Sequence[tuple[Any, ...]]:
        """Asked for once, however many connections wait for it. Errors: OSError, UnicodeError."""
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
        # To the port that was asked for, whatever a lookup says.
        return [(*kind, (where[0], origin.port, *where[2:])) for *kind, where in found]


def _connect_request(proxy: ProxyUrl, origin: Origin) -> bytes:
    where = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
    proof = f"proxy-authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
    return f"CONNECT {where} HTTP/1.1\r\nhost: {where}\r\nuser-agent: drawdown\r\n{proof}\r\n".encode()


def _status_of(head: bytes) -> int | None:
    found = _STATUS.match(head)
    return None if found is None else int(found[1])


def _why(error: Exception) -> str:
    """What kept a connection from being made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return NOT_TRUSTED
    if isinstance(error, ssl.SSLError | ConnectionResetError | ConnectionAbortedError):
        return "no TLS"
    name = errno.errorcode.get(error.errno or 0) if isinstance(error, OSError) else None
    return "no connection" + (f" ({name})" if name else "")
