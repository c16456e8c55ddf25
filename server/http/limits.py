"""Wrap every route: limit each caller, add headers, and answer every failure.

A caller is an IPv4 address or an IPv6 /64. A request with two lengths is refused.

Guarantee: exceptions do not leave this layer. The log contains the kind and the place of a failure, never its message.
Unauthenticated callers do not wait below the limits. Above the limits, all their requests share one queue with
TURNS_PER_S, for any number of connections or invented keys. If the turn of a request would come later than
LONGEST_TURN_S, Drawdown refuses the request after that time. It still answers /healthz then.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from traceback import extract_tb
from typing import Final, Generic, Protocol, TypeVar

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drawdown.schema.clock import Clock
from drawdown.schema.units import MINUTE_MS
from drawdown.server.http.callers import TokenBuckets, caller_of
from drawdown.server.http.errors import ApiError, error_answer

log = structlog.get_logger()

CONNECTION: Final = "drawdown.connection"
"""Key of the connection in the state of its requests' scopes."""
MOST_HEADERS: Final = 100
"""Most headers of a request.

An empty header takes as much time as any other.
"""
REFUSED_S: Final = 0.5
"""Seconds that the server waits before it reports too many requests."""
HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Connected(Protocol):
    """The connection of a request. `connection.Connection` implements it."""

    @property
    def for_health(self) -> bool: ...
    def enter(self) -> None: ...
    def rest(self) -> None: ...
    def resume(self) -> None: ...
    def end(self) -> None: ...


def connection_of(scope: Scope) -> Connected | None:
    """Return the connection of a request.

    Return None without a socket, as in a test.
    """
    found: Connected | None = scope.get("state", {}).get(CONNECTION)
    return found


@contextmanager
def resting(connection: Connected | None) -> Iterator[None]:
    """Mark the connection as idle while its request waits.

    Meanwhile, Drawdown may close the connection in favour of a new connection.
    """
    if connection is None:
        yield
        return
    connection.rest()
    try:
        yield
    finally:
        connection.resume()


T = TypeVar("T")
MOST_KNOWN: Final = 10_000
"""Keys and sessions that a process remembers as found."""
KNOWN_MS: Final = 60 * MINUTE_MS
"""Time for which a process remembers that it found a key or a session."""


class KnownProofs(Generic[T]):
    """The proofs that were found recently, with their results. For one event loop.

    A proof is the hash of a key or a session.
    """

    def __init__(self) -> None:
        self.found: OrderedDict[str, tuple[int, T]] = OrderedDict()

    def has(self, proof: str, now_ms: int) -> bool:
        found = self.found.get(proof)
        return found is not None and 0 <= now_ms - found[0] <= KNOWN_MS

    def note(self, proof: str, now_ms: int, found: T | None) -> None:
        """Remember the result of a proof.

        If `found` is None, forget the proof, because the proof is invalid, expired or revoked.
        """
        self.found.pop(proof, None)
        if found is None:
            return
        self.found[proof] = now_ms, found
        if len(self.found) > MOST_KNOWN:
            self.found.popitem(last=False)


class Limits:
    """The outermost ASGI layer, which limits callers and answers failures.

    `is_known`: a function that returns True if a request has a recently found proof.
    """

    def __init__(
        self,
        app: ASGIApp,
        clock: Clock,
        requests_per_s: int,
        refused: Counter[str],
        is_known: Callable[[Scope], bool] = lambda _scope: False,
    ) -> None:
        self._app = app
        self._refused = refused
        self._clock = clock
        self._is_known = is_known
        self._buckets = TokenBuckets(requests_per_s)
        self._strangers = Strangers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            connection = connection_of(scope)
            if connection is None:
                await self._http(scope, receive, send, None)
                return
            connection.enter()
            try:
                await self._http(scope, receive, send, connection)
            finally:
                connection.end()
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send, connection: Connected | None) -> None:
        status = 0
        is_last = connection is not None and connection.for_health

        async def framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                said = {name for name, _ in message["headers"]}
                own = (*HEADERS, *(((b"connection", b"close"),) if is_last else ()))
                message["headers"] = [*message["headers"], *(one for one in own if one[0] not in said)]
            await send(message)

        client = scope.get("client")
        caller = caller_of(client and client[0])
        app = await self._admitted(scope, caller, connection)
        try:
            await app(scope, receive, framed)
        except Exception as error:
            log.error("request_failed", **describe_error(error), status=status)
            if not status:
                await error_answer(ApiError(500, "failed", "internal error. The log of the server has the details"))(
                    scope, receive, framed
                )
        if status == HTTPStatus.UNAUTHORIZED and not _has_own_limits(scope["path"]):
            self._strangers.failed(caller, self._clock.now_ms())
        route = scope.get("route")
        log.debug("request", method=scope["method"], route=getattr(route, "path", None), status=status)

    async def _admitted(self, scope: Scope, caller: str, connection: Connected | None) -> ASGIApp:
        """Return the application that answers a request, after its wait."""
        path, now = scope["path"], self._clock.now_ms()
        if connection is not None and connection.for_health and path not in HEALTH_PATHS:
            return _FULL
        if len(scope["headers"]) > MOST_HEADERS:
            return _MANY_HEADERS
        if _is_ambiguous(scope):
            return _AMBIGUOUS
        if path != "/healthz" and not self._buckets.take(caller, now):
            self._refused["requests"] += 1
            await self._pause(connection, REFUSED_S)
            return _TOO_MANY
        if not self._must_wait(scope, caller, now):
            return self._app
        wait_s = self._strangers.turn(asyncio.get_running_loop().time())
        await self._pause(connection, LONGEST_TURN_S if wait_s is None else wait_s)
        if wait_s is not None or path == "/healthz":  # /healthz answers even without a turn
            return self._app
        self._refused["strangers"] += 1
        return _TOO_MANY

    def _must_wait(self, scope: Scope, caller: str, now_ms: int) -> bool:
        """Return True if the request is from a caller that must wait for its turn.

        Such a caller is unauthenticated and above the limits of `Strangers`.
        """
        path = scope["path"]
        if is_open(path):
            is_signed_in = path.startswith(PAGES) and self._is_known(scope)
            return not (is_signed_in or self._strangers.may_ask(caller, now_ms))
        if _has_own_limits(path) or not self._strangers.is_suspect(caller, now_ms):
            return False
        return not self._is_known(scope)

    async def _pause(self, connection: Connected | None, wait_s: float) -> None:
        """Wait.

        Meanwhile, Drawdown may close this connection to make space for a new connection.
        """
        with resting(connection):
            await asyncio.sleep(wait_s)


def _has_own_limits(path: str) -> bool:
    """Return True for paths with their own limits.

    The gate has its own threads and needs no key. Webhooks are verified without the database. Failed sign-ins count by
    name and address.
    """
    return path.startswith(("/v1/gate/", "/webhooks/", *PAGES))


_FULL: Final = error_answer(
    ApiError(503, "too_many_connections", "too many connections. Try again later", headers={"Retry-After": "1"})
)


_MANY_HEADERS: Final = error_answer(
    ApiError(
        431,
        "too_many_headers",
        f"too many headers: at most {MOST_HEADERS} are allowed. Send fewer headers",
        headers={"Connection": "close"},
    )
)


_TOO_MANY: Final = error_answer(
    ApiError(
        429,
        "too_many_requests",
        "too many requests from this address. Send the request again after the time in Retry-After",
        headers={"Retry-After": "1"},
    )
)


_AMBIGUOUS: Final = error_answer(
    ApiError(
        400,
        "bad_request",
        "the request states two body lengths. Send either Content-Length or Transfer-Encoding, not both",
        headers={"Connection": "close"},
    )
)


def _is_ambiguous(scope: Scope) -> bool:
    """Return True if two readers could disagree about the end of the request.

    A reader could then take the rest of the request for another request.
    """
    names = {name for name, _ in scope["headers"]}
    return b"content-length" in names and b"transfer-encoding" in names


def describe_error(error: BaseException) -> dict[str, str]:
    """Return the kind and place of an unexpected error, for the log.

    Its message may contain data of other customers, or secrets.
    """
    frames = extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return {"kind": type(error).__name__, "where": where}


HEALTH_PATHS: Final = frozenset({"/healthz", "/readyz"})
PAGES: Final = ("/console", "/my")
"""Prefixes of the pages for people, who may be signed in."""
_PROVEN: Final = ("/v1/", "/api/v1/", "/admin/", "/cron/", "/webhooks/")
"""Prefixes of paths with requests that need a key or a signature, or have their own limits."""
OPEN_PER_S: Final = 20
"""Average requests a second of one caller for open paths.

Open paths are health, metrics, descriptions, and pages without a known session.
"""
FAILED_PER_S: Final = 10
"""Average failed authentications a second of one caller.

Above the limit, the caller's requests without a known key or session wait.
"""
ALL_FAILED_PER_S: Final = 50
"""Average failed authentications a second of all callers together.

Above the limit, all requests without a known key or session wait.
"""
TURNS_PER_S: Final = 100
"""Requests a second that the server accepts from callers above their limits."""
LONGEST_TURN_S: Final = 5.0
"""Longest wait in the queue of callers above their limits, in seconds."""
_ALL: Final = ""


def is_open(path: str) -> bool:
    """Return True for paths outside `_PROVEN`, such as health, metrics and pages."""
    return not path.startswith(_PROVEN)


class Strangers:
    """The limits of unauthenticated callers of one process."""

    def __init__(self) -> None:
        self._open = TokenBuckets(OPEN_PER_S)
        self._failed = TokenBuckets(FAILED_PER_S)
        self._all_failed = TokenBuckets(ALL_FAILED_PER_S, 1)
        self._next_s = 0.0

    def may_ask(self, caller: str, now_ms: int) -> bool:
        """Count a request for an open path; return False if the caller must wait."""
        return self._open.take(caller, now_ms)

    def failed(self, caller: str, now_ms: int) -> None:
        """Count a failed authentication of a caller."""
        self._failed.take(caller, now_ms)
        self._all_failed.take(_ALL, now_ms)

    def is_suspect(self, caller: str, now_ms: int) -> bool:
        """Return True if the next request must wait.

        Too many authentications of this caller, or of all callers, failed recently.
        """
        return not (self._failed.has(caller, now_ms) and self._all_failed.has(_ALL, now_ms))

    def turn(self, now_s: float) -> float | None:
        """Take the next turn, and return the seconds until that turn.

        If the wait would exceed LONGEST_TURN_S, return None, and do not take the turn.
        """
        at = max(self._next_s, now_s)
        if at - now_s > LONGEST_TURN_S:
            return None
        self._next_s = at + 1 / TURNS_PER_S
        return at - now_s
