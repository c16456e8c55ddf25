"""Connections to a host: its addresses, TCP and TLS.

Guarantee: nothing of a request leaves here. A connection is made only to an address that `socket_to` was given and made
a socket for, and each address is asked for at that moment.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import aiohappyeyeballs
import certifi

from drawdown.providers.http.names import Lookup, system_lookup

CONNECT_TIMEOUT_S: Final = 10.0
"""For all of it together: a free slot, the host's address, TCP and TLS."""
NAMES_AT_ONCE: Final = 4
"""Names that are looked up at once, in threads of their own: a name server that hangs holds up no transaction."""
NAMES_KEPT_S: Final = 10.0
"""For how long an answer of the name server stands, where many connections are opened at once."""
NEXT_ADDRESS_S: Final = 0.25
"""After which the next address is tried beside the one before."""


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


def trusted_tls(ca_file: str | None = None) -> ssl.SSLContext:
    """Certificates of the public authorities, and those of a file. Errors: OSError (ssl.SSLError is one)."""
    context = ssl.create_default_context(cafile=certifi.where())
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


def _socket_to(found: tuple[Any, ...]) -> socket.socket:
    return socket.socket(*found[:3])


class Dialer:
    """Makes connections for one client. `tls`: whom to trust, by default the public authorities. `socket_to` makes the
    socket for an address, or raises OSError for one that is not to be connected to. With `names_kept_s` 0 each
    connection asks for the addresses anew."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        lookup: Lookup = system_lookup,
        socket_to: Callable[[tuple[Any, ...]], socket.socket] = _socket_to,
        names_kept_s: float = NAMES_KEPT_S,
    ) -> None:
        self._lookup = lookup
        self._socket_to = socket_to
        self._names_kept_s = names_kept_s
        self._tls = tls
        self._threads: ThreadPoolExecutor | None = None
        self._names: dict[Origin, tuple[float, asyncio.Future[Sequence[tuple[Any, ...]]]]] = {}

    async def connect(self, loop: asyncio.AbstractEventLoop, origin: Origin, protocol: asyncio.Protocol) -> None:
        """Connect, TLS included. Errors: NoConnection; TimeoutError of whoever waits no longer."""
        try:
            found = await self._addresses(loop, origin)
        except (OSError, UnicodeError):  # of a name that is none
            raise NoConnection("the host has no address") from None
        try:
            raw = await aiohappyeyeballs.start_connection(
                found, happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1, loop=loop, socket_factory=self._socket_to
            )
            tls = self._context() if origin.tls else None
            await loop.create_connection(
                lambda: protocol, sock=raw, ssl=tls, server_hostname=origin.host if tls else None
            )
        except TimeoutError:
            raise
        except (OSError, RuntimeError) as error:
            raise NoConnection(_why(error)) from None

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

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = trusted_tls()
        return self._tls


def _why(error: Exception) -> str:
    """What kept a connection from being made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "the certificate is not trusted"
    if isinstance(error, ssl.SSLError | ConnectionResetError | ConnectionAbortedError):
        return "no TLS"
    name = errno.errorcode.get(error.errno or 0) if isinstance(error, OSError) else None
    return "no connection" + (f" ({name})" if name else "")
