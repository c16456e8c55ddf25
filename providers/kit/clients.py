"""Use httpx and httpx2 in providers.

A client can run on Drawdown's engine, and Drawdown's `Http` can run over your own client.

Guarantee: "not sent" needs two proofs. The client's `trace` shows that it never began to send the request's headers,
and the error is a connection error. The name of an exception alone is not a proof. A mocked transport does not emit a
trace, so a mocked `ReadTimeout` is unknown. If a client tries to send a request twice, it is stopped before the second
time.

Each function uses the library that you pass, or that made your client. Only `client_on` imports a library: httpx2, if
you do not pass one.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import ModuleType
from typing import Any, Final

from drawdown.providers.http import MAX_ANSWER_BYTES, TIMEOUT_S, Answer, Call, Http, HttpResult, NoAnswer, NotSent
from drawdown.schema.errors import UsageError

LIBRARIES: Final = ("httpx2", "httpx")
NOT_INSTALLED: Final = "setup.client() needs httpx2. Run: pip install 'drawdown[plugin]'"
SENDS_AGAIN: Final = "its httpx client sends a request again by itself"

_SENT: Final = "send_request_headers.started"
_UNCONNECTED: Final = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol")
"""Errors that can occur before the client sends anything.

Each can also occur later, after a retry or a redirect.
"""
_AFTER_SENDING: Final = ("ReadTimeout", "ReadError", "RemoteProtocolError", "ConnectError", "ConnectTimeout")
"""Errors of a cut connection, in turn, for the suite.

A retry that was refused ends in a `ConnectError`.
"""
_OURS: Final = frozenset({"host", "content-length", "connection", "transfer-encoding", "expect", "upgrade"})


class _SendsAgainError(Exception):
    """Raised to stop a client before it sends the same request twice."""


class _Trace:
    """A counter of the times that a client began to send a request.

    CONNECT goes to a proxy and does not carry a part of the request, so it does not count.
    """

    def __init__(self) -> None:
        self.begun = 0

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if not event.endswith(_SENT) or getattr(info.get("request"), "method", b"") in (b"CONNECT", "CONNECT"):
            return
        self.begun += 1
        if self.begun > 1:
            raise _SendsAgainError


async def ask(
    client: Any,
    method: str,
    url: str,
    *,
    timeout_s: float = TIMEOUT_S,
    most_bytes: int = MAX_ANSWER_BYTES,
    **options: Any,
) -> HttpResult:
    """Send one request, and return the proven result.

    `client`: an `AsyncClient` of httpx or httpx2.

    `options` are those of `client.build_request`: json, content, params, headers. The function never raises an error
    for a fault of the network or the service.
    """
    library = _library_of(client)
    try:
        request = client.build_request(method, url, timeout=timeout_s, **options)
    except (ValueError, TypeError, library.InvalidURL):
        return NotSent("invalid request: it cannot be sent")
    trace = _Trace()
    request.extensions = {**request.extensions, "trace": trace}
    try:
        async with asyncio.timeout(timeout_s):
            response = await client.send(request, stream=True, follow_redirects=False)
            try:
                body = await _whole(response, most_bytes)
            finally:
                await response.aclose()
    except Exception as error:  # a transport, an auth flow or an event hook may raise anything
        return _failure(library, error, trace)
    if trace.begun > 1:
        return NoAnswer(SENDS_AGAIN)
    if body is None:
        return NoAnswer(f"the response has more than {most_bytes} bytes")
    return Answer(response.status_code, {name.lower(): text for name, text in response.headers.items()}, body)


async def _whole(response: Any, most_bytes: int) -> bytes | None:
    """Return the whole body; None if it is longer than `most_bytes`."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > most_bytes:
            return None
    return bytes(body)


def _failure(library: ModuleType, error: Exception, trace: _Trace) -> NotSent | NoAnswer:
    if trace.begun > 1:
        return NoAnswer(SENDS_AGAIN)
    kind = type(error).__name__  # not its text, which may contain the URL and a key
    unconnected = isinstance(error, tuple(getattr(library, name) for name in _UNCONNECTED))
    if unconnected and not trace.begun:
        return NotSent(f"no connection ({kind})")
    return NoAnswer(f"no complete response ({kind})")


class OwnClient:
    """An `Http` over clients that you make.

    Example: `OwnClient(lambda: httpx.AsyncClient(http2=True))`.

    Each event loop gets a new client, because a tick ends its loop, and the connections of a client end with the loop.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        """Make the first client.

        Errors: UsageError for a client that follows redirects or retries.
        """
        self._make = make
        self._client: Any = make()
        self._loop: asyncio.AbstractEventLoop | None = None
        if (why := trouble(self._client)) is not None:
            raise UsageError(why)

    @property
    def client(self) -> Any:
        """Return the client of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop not in (None, loop):
            self._client = self._make()
        self._loop = loop
        return self._client

    async def send(self, call: Call) -> HttpResult:
        return await ask(
            self.client,
            call.method,
            call.url,
            timeout_s=call.timeout_s,
            most_bytes=call.most_bytes,
            headers=dict(call.headers),
            content=call.body or None,
        )

    async def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop in (None, asyncio.get_running_loop()):
            await client.aclose()


class EngineTransport:
    """A transport for an `AsyncClient` of either library that sends through an `Http`.

    The `Http` is Drawdown's engine, or a `Wire` of the suite.

    `varied`: True if calls without a response raise different errors in turn, for the suite.
    """

    def __init__(self, http: Http, library: ModuleType, *, varied: bool = False) -> None:
        self._http, self._library = http, library
        self._errors = itertools.cycle(_AFTER_SENDING if varied else ("ReadError",))

    async def handle_async_request(self, request: Any) -> Any:
        headers = {name: text for name, text in request.headers.items() if name.lower() not in _OURS}
        headers["accept-encoding"] = "gzip"  # the only encoding that the engine unpacks
        limits = [limit for limit in request.extensions.get("timeout", {}).values() if limit is not None]
        body = await request.aread()
        call = Call(request.method, str(request.url), headers, body, timeout_s=max(limits, default=TIMEOUT_S))
        result = await self._http.send(call)
        if isinstance(result, NotSent):
            raise self._library.ConnectError(result.reason, request=request)
        if (trace := request.extensions.get("trace")) is not None:
            said = trace(f"http11.{_SENT}", {"request": request})
            if isinstance(said, Awaitable):
                await said
        if isinstance(result, NoAnswer):
            raise getattr(self._library, next(self._errors))(result.reason, request=request)
        told = {name: text for name, text in result.headers.items() if name not in ("content-encoding", *_OURS)}
        return self._library.Response(result.status, headers=told, content=result.body, request=request)

    async def aclose(self) -> None:
        """Do nothing, because the connections belong to the engine."""

    async def __aenter__(self) -> EngineTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def client_on(http: Http, library: ModuleType | None = None, **options: Any) -> Any:
    """Return an `AsyncClient` on an `Http`, by default of httpx2.

    The client does not follow redirects, store cookies, or read settings of the environment. Errors: UsageError for
    options that send a request twice, or if httpx2 is not installed.
    """
    if library is None:
        try:
            import httpx2 as library
        except ImportError:
            raise UsageError(NOT_INSTALLED) from None
    assert library is not None
    chosen = {"trust_env": False, "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=[])), **options}
    client = library.AsyncClient(transport=EngineTransport(http, library), **chosen)
    if (why := trouble(client)) is not None:
        raise UsageError(why)
    return client


def trouble(client: Any) -> str | None:
    """Return why a client must not bill, such as redirects or retries; None if it may."""
    if getattr(client, "follow_redirects", False):
        return "its httpx client follows redirects, and a push must be sent once. Pass follow_redirects=False"
    transports = [getattr(client, "_transport", None), *(getattr(client, "_mounts", None) or {}).values()]
    for transport in transports:
        retries = getattr(getattr(transport, "_pool", None), "_retries", 0)
        named = any("retry" in kind.__name__.lower() for kind in type(transport).__mro__)
        if named or (isinstance(retries, int) and retries > 0):
            what = type(transport).__name__ if named else f"retries={retries}"
            return f"{SENDS_AGAIN} ({what}), and a push must be sent once. Remove it. Drawdown retries pushes itself"
    return None


def clients_of(provider: object) -> Iterable[Any]:
    """Yield the httpx clients in an object's attributes."""
    for held in vars(provider).values() if hasattr(provider, "__dict__") else ():
        if any(kind.__module__.partition(".")[0] in LIBRARIES for kind in type(held).__mro__) and hasattr(held, "send"):
            yield held


def _library_of(client: Any) -> ModuleType:
    """Return the library that made this client: httpx or httpx2. Errors: TypeError."""
    for kind in type(client).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in LIBRARIES:
            return sys.modules[name]
    raise TypeError(f"{type(client).__name__} is not an AsyncClient of httpx or httpx2")
