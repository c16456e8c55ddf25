"""Sends calls over real sockets, by aiohttp.

Guarantee: `NotSent` needs two proofs: the request was never handed to a connection (`_Request.send` marks that, before
a byte can leave), and the error is one of making a connection. Every other failure is `NoAnswer`. Nothing is sent
twice, followed or remembered: no retries, no redirects, no cookies, and no proxy but one that is named.

Not by httpx, whose own pool is searched on every call, and whose messages cost as much as aiohttp's whole call: see
ops/decisions. The rows of httpx-aiohttp 0.2.0 that say otherwise, each tried on a socket
(tests/contract/test_http_client.py):

    situation                                    httpx-aiohttp raises or returns     here
    closed or reset after the request was read   ConnectTimeout, "not sent"          NoAnswer
    closed within the headers                    ConnectTimeout                      NoAnswer
    a kept connection that closes under a POST   ConnectTimeout                      NoAnswer
    the same under a GET                         sent again without a word           NoAnswer
    refused, no such host, certificate, no TLS   ConnectTimeout, as the above        NotSent
    no HTTP, headers without end                 aiohttp's own error, with the URL   NoAnswer
    an answer that nobody had asked for          the next request's answer           never seen
    a byte now and then, for ever                goes on, for ever                   NoAnswer
    a gzip that was cut short                    a whole answer                      NoAnswer
    64 KB of gzip that make 64 MB                64 MB                               NoAnswer
    101 without being asked                      an answer                           NoAnswer
    100 without end, or headers                  all it takes, and no other call     NoAnswer
"""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
import zlib
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import aiohttp
import certifi
from aiohttp import client_exceptions as trouble
from yarl import URL

from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.http.bounds import BoundedConnector, TooMuch

MAX_CONNECTIONS: Final = 512
CONNECT_TIMEOUT_S: Final = 10.0
"""For all of it together: a free slot, the host's address, TCP and TLS."""
ORIGIN_BYTES: Final = 32 * 1024 * 1024
"""Of all answers of one origin that are on their way: one that floods costs others nothing, and us no more memory."""
KEEP_ALIVE_S: Final = 4.0
"""Less than the five seconds after which common servers close: what is sent into a closing connection is unknown."""

_OWN_HEADERS: Final = frozenset({"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"})
"""What decides where a request ends: with one of these wrong, the next on the same connection is garbled."""


_URL: Final = re.compile(r"[!-~]+")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[^\r\n\0]*")


@dataclass
class _Handover:
    """Whether a request was handed to a connection; from then on its bytes may be on their way."""

    handed_over: bool = False


_HANDOVER: ContextVar[_Handover] = ContextVar("handover")


class _Stale(aiohttp.ClientError):
    """On a kept connection something had come in that nobody asked for."""


# "Not sent" hangs on this one method. Were it gone, a timeout would be taken for no connection.
assert "send" in vars(aiohttp.ClientRequest), "this version of aiohttp is not one that drawdown was tried with"


class _Request(aiohttp.ClientRequest):
    """Marks the moment after which nothing can be proven any more."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        handover = _HANDOVER.get()
        if handover.handed_over:  # aiohttp sends a GET again when its connection breaks
            raise aiohttp.ClientConnectionError
        if conn.protocol is None or conn.protocol.should_close:  # else that answer would be taken for this request's
            raise _Stale
        handover.handed_over = True
        return await super().send(conn)


# Before anything was handed over. The first that fits; these and the next are all that a reason is made of.
_UNSENT: Final[tuple[tuple[type[Exception], str], ...]] = (
    (trouble.ClientConnectorCertificateError, "the certificate is not trusted"),
    (trouble.ClientConnectorSSLError, "no TLS"),
    (trouble.ClientConnectorDNSError, "the host has no address"),
    (trouble.ClientProxyConnectionError, "no connection to the proxy"),
    (trouble.ClientHttpProxyError, "refused by the proxy"),
    (trouble.ConnectionTimeoutError, "no connection in time"),
    (trouble.ClientConnectorError, "no connection"),
    (trouble.InvalidURL, "not a URL"),
    (trouble.NonHttpUrlClientError, "not an http URL"),
    (_Stale, "the kept connection was not clean"),
)
_UNKNOWN: Final[tuple[tuple[type[Exception], str], ...]] = (
    (TooMuch, "more than an answer has: cut off"),
    (trouble.ClientResponseError, "the answer is not HTTP"),
    (trouble.ClientPayloadError, "the answer was cut short"),
    (trouble.ServerDisconnectedError, "closed before an answer"),
    (trouble.ClientConnectionError, "the connection broke"),
)


def _failure(error: Exception, handover: _Handover) -> NotSent | NoAnswer:
    """What an error proves."""
    if not handover.handed_over:
        for kind, text in _UNSENT:
            if isinstance(error, kind):
                return NotSent(text + _code(error))
    for kind, text in _UNKNOWN:
        if isinstance(error, kind):
            return NoAnswer(text)
    return NoAnswer(type(error).__name__)


def _code(error: Exception) -> str:
    """The system's word for it, such as ECONNREFUSED, where there is one."""
    name = errno.errorcode.get(error.errno or 0) if type(error) is trouble.ClientConnectorError else None
    return f" ({name})" if name else ""


class _Unusable(Exception):
    """What came back is no answer; the message says why."""


class HttpClient:
    """An `Http` for one event loop after another; connections are opened by the first call in each. Close it before the
    loop ends, or aiohttp complains. `ca_file` is trusted besides the usual authorities.

    Errors: OSError (ssl.SSLError is one) for a `ca_file` that cannot be read.
    """

    def __init__(
        self,
        *,
        connections: int = MAX_CONNECTIONS,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        ca_file: str | None = None,
        proxy: str | None = None,
    ) -> None:
        self._connections = connections
        self._connect_timeout_s = connect_timeout_s
        self._proxy = proxy
        self._tls = None if ca_file is None else _tls(ca_file)
        self._open: tuple[aiohttp.ClientSession, asyncio.AbstractEventLoop] | None = None
        self._held: Counter[str] = Counter()
        """Bytes of answers that are on their way, by origin."""

    async def send(self, call: Call) -> HttpResult:
        """Send once. Whatever the other side does is a result; only cancelling raises."""
        try:
            url, headers = _checked(call)
        except (ValueError, TypeError):  # the URL, the method or a header; nothing was opened yet
            return NotSent("not a request that can be sent")
        handover = _Handover()
        _HANDOVER.set(handover)
        try:
            async with asyncio.timeout(call.timeout_s):
                session = await self._session()
                response = await session.request(
                    call.method,
                    url,
                    headers=headers,
                    data=call.body or None,
                    allow_redirects=False,
                    proxy=self._proxy,
                )
                return await self._answer(response, str(url.origin()), call.most_bytes)
        except TimeoutError as error:
            late = NoAnswer(f"no whole answer within {call.timeout_s:g} s")
            if isinstance(error, trouble.ClientError):
                return _failure(error, handover)
            return late if handover.handed_over else NotSent("no connection in time")
        except _Unusable as error:
            return NoAnswer(str(error))
        except Exception as error:  # what aiohttp says has URLs and headers in it: only its kind is told
            return _failure(error, handover)

    async def _answer(self, response: aiohttp.ClientResponse, origin: str, most: int) -> Answer:
        """The whole of it. Errors: _Unusable for what is none, or too large; whatever reading raises."""
        body = bytearray()
        try:
            if response.status < 200:
                raise _Unusable("an answer of 1xx, and no other")
            async for chunk in response.content.iter_any():
                body += chunk
                self._held[origin] += len(chunk)
                if len(body) > most:
                    raise _Unusable(f"an answer of over {most} bytes")
                if self._held[origin] > ORIGIN_BYTES:
                    raise _Unusable(f"answers of over {ORIGIN_BYTES} bytes at once")
            headers: dict[str, str] = {}
            for name, value in response.headers.items():
                earlier = headers.get(name.lower())
                headers[name.lower()] = value if earlier is None else f"{earlier}, {value}"
            plain = _plain(bytes(body), headers.get("content-encoding", "identity"), most)
            return Answer(response.status, headers, plain)
        finally:
            self._held[origin] -= len(body)
            response.close()  # one that was read to its end has given its connection back already

    async def close(self) -> None:
        """Give connections back; a later call opens new ones."""
        given_up, self._open = self._open, None
        await _close(given_up)

    async def _session(self) -> aiohttp.ClientSession:
        here = asyncio.get_running_loop()
        if self._open is not None and self._open[1] is here:
            return self._open[0]
        if self._tls is None:
            self._tls = _tls(None)
        session = aiohttp.ClientSession(
            connector=BoundedConnector(limit=self._connections, ssl=self._tls, keepalive_timeout=KEEP_ALIVE_S),
            # To connect alone; for a call as a whole there is one limit, and it is ours.
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._connect_timeout_s, ceil_threshold=self._connect_timeout_s + 1
            ),
            headers={"accept-encoding": "gzip", "user-agent": "drawdown"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            request_class=_Request,
        )
        given_up, self._open = self._open, (session, here)
        await _close(given_up)
        return session


async def _close(opened: tuple[aiohttp.ClientSession, asyncio.AbstractEventLoop] | None) -> None:
    """Close what belongs to this loop, or to one that has ended; what belongs to another is not ours to touch."""
    if opened is not None and (opened[1] is asyncio.get_running_loop() or opened[1].is_closed()):
        await opened[0].close()


def _tls(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certifi.where())
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


def _checked(call: Call) -> tuple[URL, Mapping[str, str]]:
    """Errors: ValueError or TypeError for what HTTP cannot say."""
    if not call.method.isalpha():
        raise ValueError
    for name, value in call.headers.items():
        if name.lower() in _OWN_HEADERS or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError
    if not _URL.fullmatch(call.url):
        raise ValueError
    url = URL(call.url, encoded=True)
    if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 80) < 65536:
        raise ValueError
    return url, call.headers


def _plain(body: bytes, encoding: str, most: int) -> bytes:
    """Errors: _Unusable. Not by aiohttp: that takes a gzip cut short for a whole one, and knows no limit."""
    if encoding.lower() == "identity" or not body:
        return body
    if encoding.lower() != "gzip":
        raise _Unusable("an answer in an encoding that was not asked for")
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, most + 1)
    except zlib.error:
        raise _Unusable("an answer that is not the gzip it says it is") from None
    if len(plain) > most:
        raise _Unusable(f"an answer of over {most} bytes")
    if not unzip.eof or unzip.unused_data:
        raise _Unusable("an answer that is not the gzip it says it is")
    return plain
