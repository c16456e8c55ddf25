"""Calls to URLs that people registered: cells, and the operator's product.

Guarantee: a connection is made only to an address that was judged when the connection was made: an earlier answer of
DNS does not count. Redirects, proxies and cookies are not followed or kept. An answer that is too long, never ends or
is no HTTP is an error in our words: those of a library may hold headers.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import certifi
from aiohttp import client_exceptions as trouble
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from drawdown.providers.http.bounds import BoundedConnector, TooMuch
from drawdown.worker.halts.cell_urls import CellUrl
from drawdown.worker.halts.judging import Judge, Lookup


@dataclass
class Target:
    """One URL that may be called; `refused`: why the last address it had was not connected to."""

    url: CellUrl
    judge: Judge
    path: str = ""
    """Behind the URL's own."""
    refused: str | None = None
    session: aiohttp.ClientSession | None = None

    @property
    def full(self) -> URL:
        return URL(f"{self.url.origin}{self.url.path}{self.path}", encoded=True)

    def socket_to(self, found: Any) -> socket.socket:
        """The one place where a connection begins: to the address given here, and to no other."""
        self.refused = self.judge.address_refused(self.url, found[4][0])
        if self.refused is not None:
            raise OSError(self.refused)
        return socket.socket(*found[:3])


class _Resolver(AbstractResolver):
    """Names by the system, in threads of its own: a name server that hangs holds up no transaction."""

    def __init__(self, lookup: Lookup, threads: ThreadPoolExecutor) -> None:
        self._lookup = lookup
        self._threads = threads

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host, port)
        return [
            ResolveResult(hostname=host, host=where[0], port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, _, _, _, where in found
        ]

    async def close(self) -> None:
        return


def trusted_tls() -> ssl.SSLContext:
    """Certificates of the public authorities."""
    return ssl.create_default_context(cafile=certifi.where())


def session_for(
    target: Target, lookup: Lookup, threads: ThreadPoolExecutor, tls: ssl.SSLContext, at_once: int
) -> aiohttp.ClientSession:
    """Connections for one target, so many at once."""
    connector = BoundedConnector(
        limit=at_once,
        ssl=tls,
        resolver=_Resolver(lookup, threads),
        use_dns_cache=False,
        socket_factory=target.socket_to,
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"accept-encoding": "identity", "user-agent": "drawdown"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


async def is_bounded(answer: aiohttp.ClientResponse, most_bytes: int) -> bool:
    """The body is read only so that the answer is known to be whole."""
    size = 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        if size > most_bytes:
            answer.close()
            return False
    return True


CALL_ERRORS: Final = (aiohttp.ClientError, OSError, ValueError)
"""What a call may raise; TimeoutError is an OSError."""
TOO_LONG: Final = "the answer is too long"
_FAILURES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (trouble.ClientConnectorCertificateError, "the certificate is not trusted"),
    (trouble.ClientConnectorSSLError, "no TLS"),
    (trouble.ClientConnectorDNSError, "the host has no address"),
    (trouble.ClientConnectorError, "no connection"),
    (trouble.ClientResponseError, "the answer is not HTTP"),
    (trouble.ClientPayloadError, "the answer was cut short"),
    (trouble.ClientConnectionError, "the connection broke"),
)


def failure(error: Exception, target: Target, timeout_s: float, allows: str, too_long: str = TOO_LONG) -> str:
    """What went wrong. `allows`: the setting that would allow an address."""
    if target.refused is not None and isinstance(error, trouble.ClientConnectorError):
        return f"{target.refused}: not called unless {allows} allows it"
    if isinstance(error, TooMuch):
        return too_long
    if isinstance(error, TimeoutError):
        return f"no whole answer within {timeout_s:g} s"
    return next((text for kind, text in _FAILURES if isinstance(error, kind)), type(error).__name__)
