"""Sends calls over real sockets: the httpx API over an aiohttp transport of our own.

Guarantee: `NotSent` needs two proofs: the request was never handed to a connection (`_Request.send` marks that, before
a byte can leave), and the error is one of making a connection. Whatever else happens is `NoAnswer`. Nothing is sent
twice, followed or remembered: no retries, no redirects, no cookies, and no proxy but one that is named.

The rows of httpx-aiohttp 0.2.0 that are corrected, each tried on a socket (tests/contract/test_http_client.py):

    situation                                    httpx-aiohttp raises or returns     here
    closed or reset after the request was read   ConnectTimeout, "not sent"          NoAnswer
    closed within the headers                    ConnectTimeout                      NoAnswer
    a kept connection that closes under a POST   ConnectTimeout                      NoAnswer
    the same under a GET                         sent again without a word           NoAnswer
    refused, no such host, certificate, no TLS   ConnectTimeout, as the above        NotSent
    no HTTP, headers without end                 aiohttp's own error, with the URL   NoAnswer
    an answer that nobody had asked for          the next request's answer           NotSent
    a byte now and then, for ever                goes on, for ever                   NoAnswer
    a gzip that was cut short                    a whole answer                      NoAnswer
    64 KB of gzip that make 64 MB                64 MB                               NoAnswer
    101 without being asked                      an answer                           NoAnswer
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import zlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import aiohttp
import httpx
from aiohttp import client_exceptions as trouble
from yarl import URL

from drawdown.providers.http import MAX_ANSWER_BYTES, Answer, Call, HttpResult, NoAnswer, NotSent

MAX_CONNECTIONS: Final = 512
CONNECT_TIMEOUT_S: Final = 10.0
"""For all of it together: a free slot, the host's address, TCP and TLS."""
KEEP_ALIVE_S: Final = 4.0
"""Less than the five seconds after which common servers close: what is sent into a closing connection is unknown."""

_OWN_HEADERS: Final = frozenset({"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"})
"""What decides where a request ends: with one of these wrong, the next on the same connection is garbled."""


@dataclass
class _Mark:
    """Whether a request was handed to a connection; from then on its bytes may be on their way."""

    handed_over: bool = False


_MARK: ContextVar[_Mark] = ContextVar("mark")


class _Stale(aiohttp.ClientError):
    """On a kept connection something had come in that nobody asked for."""


# "Not sent" hangs on this one method. Were it gone, a timeout would be taken for no connection.
assert "send" in vars(aiohttp.ClientRequest), "this version of aiohttp is not one that drawdown was tried with"


class _Request(aiohttp.ClientRequest):
    """Marks the moment after which nothing can be proven any more."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        mark = _MARK.get()
        if mark.handed_over:  # aiohttp sends a GET again when its connection breaks
            raise aiohttp.ClientConnectionError
        if conn.protocol is None or conn.protocol.should_close:  # else that answer would be taken for this request's
            raise _Stale
        mark.handed_over = True
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
    (trouble.ClientResponseError, "the answer is not HTTP"),
    (trouble.ClientPayloadError, "the answer was cut short"),
    (trouble.ServerDisconnectedError, "closed before an answer"),
    (trouble.ClientConnectionError, "the connection broke"),
)


def _failure(error: Exception, mark: _Mark) -> httpx.TransportError:
    """What an error proves: ConnectError that nothing was sent, ReadError nothing at all."""
    if not mark.handed_over:
        for kind, text in _UNSENT:
            if isinstance(error, kind):
                return httpx.ConnectError(text + _code(error))
    for kind, text in _UNKNOWN:
        if isinstance(error, kind):
            return httpx.ReadError(text)
    return httpx.ReadError(type(error).__name__)


def _code(error: Exception) -> str:
    """The system's word for it, such as ECONNREFUSED, where there is one."""
    name = errno.errorcode.get(error.errno or 0) if type(error) is trouble.ClientConnectorError else None
    return f" ({name})" if name else ""


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse, mark: _Mark) -> None:
        self._response, self._mark = response, mark

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except Exception as error:
            raise _failure(error, self._mark) from None

    async def aclose(self) -> None:
        self._response.close()  # one that was read to its end has given its connection back already


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Raises ConnectError where nothing was sent, ReadError for all else. Limits the time to connect and no other: that
    is the caller's."""

    def __init__(self, tls: ssl.SSLContext, connections: int, connect_timeout_s: float, proxy: str | None) -> None:
        self._proxy = proxy
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=tls, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout_s, ceil_threshold=connect_timeout_s + 1),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            request_class=_Request,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        mark = request.extensions.setdefault("mark", _Mark())
        _MARK.set(mark)
        try:
            response = await self._session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=request.headers,
                data=request.content or None,
                allow_redirects=False,
                proxy=self._proxy,
            )
        except Exception as error:
            raise _failure(error, mark) from None  # what aiohttp says has URLs and headers in it
        return httpx.Response(
            response.status, headers=response.raw_headers, stream=_Body(response, mark), request=request
        )

    async def aclose(self) -> None:
        await self._session.close()


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
        self._open: tuple[AiohttpTransport, asyncio.AbstractEventLoop] | None = None

    async def send(self, call: Call) -> HttpResult:
        """Send once. Whatever the other side does is a result; only cancelling raises."""
        try:
            request = _request(call)
        except (ValueError, TypeError, httpx.InvalidURL):  # the URL, the method or a header; nothing was opened yet
            return NotSent("not a request that can be sent")
        mark = request.extensions["mark"]
        try:
            async with asyncio.timeout(call.timeout_s):
                transport = await self._transport()
                return await _answer(await transport.handle_async_request(request))
        except TimeoutError:
            late = NoAnswer(f"no whole answer within {call.timeout_s:g} s")
            return late if mark.handed_over else NotSent("no connection in time")
        except httpx.ConnectError as error:
            return NotSent(str(error))
        except httpx.TransportError as error:
            return NoAnswer(str(error))
        except Exception as error:
            return NoAnswer(type(error).__name__)

    async def close(self) -> None:
        """Give connections back; a later call opens new ones."""
        given_up, self._open = self._open, None
        await _close(given_up)

    async def _transport(self) -> AiohttpTransport:
        here = asyncio.get_running_loop()
        if self._open is not None and self._open[1] is here:
            return self._open[0]
        if self._tls is None:
            self._tls = _tls(None)
        transport = AiohttpTransport(self._tls, self._connections, self._connect_timeout_s, self._proxy)
        given_up, self._open = self._open, (transport, here)
        await _close(given_up)
        return transport


async def _close(opened: tuple[AiohttpTransport, asyncio.AbstractEventLoop] | None) -> None:
    """Close what belongs to this loop, or to one that has ended; what belongs to another is not ours to touch."""
    if opened is not None and (opened[1] is asyncio.get_running_loop() or opened[1].is_closed()):
        await opened[0].aclose()


def _tls(ca_file: str | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


def _request(call: Call) -> httpx.Request:
    """Errors: ValueError, TypeError or httpx.InvalidURL for what HTTP cannot say."""
    headers = httpx.Headers({"accept-encoding": "gzip", "user-agent": "drawdown", **call.headers})
    if not call.method.isalpha() or not _OWN_HEADERS.isdisjoint(headers):
        raise ValueError
    if any(byte in value for _, value in headers.raw for byte in b"\r\n\0"):
        raise ValueError
    url = httpx.URL(call.url)
    if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 80) < 65536:
        raise ValueError
    return httpx.Request(call.method, url, headers=headers, content=call.body, extensions={"mark": _Mark()})


async def _answer(response: httpx.Response) -> Answer:
    """The whole of it. Errors: httpx.ReadError for what is none, or too large."""
    try:
        if response.status_code < 200:
            raise httpx.ReadError("an answer of 1xx, and no other")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise httpx.ReadError(f"an answer of over {MAX_ANSWER_BYTES} bytes")
        plain = _plain(bytes(body), response.headers.get("content-encoding", "identity"))
        return Answer(response.status_code, dict(response.headers), plain)
    finally:
        await response.aclose()


def _plain(body: bytes, encoding: str) -> bytes:
    """Errors: httpx.ReadError. Not by httpx: that takes a gzip cut short for a whole one, and knows no limit."""
    if encoding.lower() == "identity" or not body:
        return body
    if encoding.lower() != "gzip":
        raise httpx.ReadError("an answer in an encoding that was not asked for")
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, MAX_ANSWER_BYTES + 1)
    except zlib.error:
        raise httpx.ReadError("an answer that is not the gzip it says it is") from None
    if len(plain) > MAX_ANSWER_BYTES:
        raise httpx.ReadError(f"an answer of over {MAX_ANSWER_BYTES} bytes")
    if not unzip.eof or unzip.unused_data:
        raise httpx.ReadError("an answer that is not the gzip it says it is")
    return plain
