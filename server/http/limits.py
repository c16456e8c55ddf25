"""The layers around every route: a limit a caller (of IPv6, a /64), headers on every answer, one meaning of where a
request ends, and an answer to every failure.

Guarantee: no exception leaves it. The log has a failure's kind and place, never its message.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from pathlib import Path
from traceback import extract_tb
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drawdown.schema.clock import Clock
from drawdown.schema.units import SECOND_MS
from drawdown.server.http.callers import caller_of
from drawdown.server.http.errors import ApiError, error_answer

log = structlog.get_logger()

MOST_CALLERS: Final = 10_000
HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class TokenBuckets:
    """A bucket of tokens for each caller; of the callers, those seen last are remembered."""

    def __init__(self, per_s: int, most_callers: int = MOST_CALLERS) -> None:
        self._per_ms = per_s  # thousandths of a token a millisecond
        self._full = 2 * per_s * SECOND_MS
        self._most = most_callers
        self._left: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def has(self, caller: str, now_ms: int, amount: int = 1) -> bool:
        """Whether this caller has so many tokens now, which stay in the bucket."""
        return self._now(caller, now_ms) >= amount * SECOND_MS

    def take(self, caller: str, now_ms: int, amount: int = 1) -> bool:
        """Whether this caller may ask now."""
        left = self._now(caller, now_ms)
        allowed = left >= amount * SECOND_MS
        self._left.pop(caller, None)
        self._left[caller] = (left - amount * SECOND_MS if allowed else left, now_ms)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return allowed

    def _now(self, caller: str, now_ms: int) -> int:
        left, at_ms = self._left.get(caller, (self._full, now_ms))
        return min(self._full, left + max(now_ms - at_ms, 0) * self._per_ms)


class Limits:
    """The outermost ASGI application."""

    def __init__(self, app: ASGIApp, clock: Clock, requests_per_s: int, refused: Counter[str]) -> None:
        self._app = app
        self._refused = refused
        self._clock = clock
        self._buckets = TokenBuckets(requests_per_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                said = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(one for one in HEADERS if one[0] not in said)]
            await send(message)

        client = scope.get("client")
        app = self._app if self._may(scope["path"], caller_of(client and client[0])) else _TOO_MANY
        if app is _TOO_MANY:
            self._refused["requests"] += 1
        elif _is_ambiguous(scope):
            app = _AMBIGUOUS
        try:
            await app(scope, receive, framed)
        except Exception as error:
            log.error("request_failed", **told(error), status=status)
            if not status:
                await error_answer(ApiError(500, "failed", "something failed here; it was written down"))(
                    scope, receive, framed
                )
        route = scope.get("route")
        log.debug("request", method=scope["method"], route=getattr(route, "path", None), status=status)

    def _may(self, path: str, caller: str) -> bool:
        """Whether the process lives may always be asked."""
        return path == "/healthz" or self._buckets.take(caller, self._clock.now_ms())


_TOO_MANY: Final = error_answer(
    ApiError(429, "too_many_requests", "too many requests from this address", headers={"Retry-After": "1"})
)


_AMBIGUOUS: Final = error_answer(
    ApiError(400, "bad_request", "send Content-Length or Transfer-Encoding", headers={"Connection": "close"})
)


def _is_ambiguous(scope: Scope) -> bool:
    """Whether two readers could disagree where the request ends: then what follows it could be taken for another."""
    names = {name for name, _ in scope["headers"]}
    return b"content-length" in names and b"transfer-encoding" in names


def told(error: BaseException) -> dict[str, str]:
    """What may be logged of an error that was not expected: its message may hold values of others, or secrets."""
    frames = extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return {"kind": type(error).__name__, "where": where}
