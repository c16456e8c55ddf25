"""The connection to a server, for threads and for event loops.

Guarantee: a forked process does not share a connection with its parent process.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from functools import cache, partial
from typing import Final, Generic, TypeVar, cast

from tenacity import AsyncRetrying, Retrying, retry_if_exception_type

from drawdown_client import calls
from drawdown_client.calls import Answer, Backoff, Call, Received, TryTimeout
from drawdown_client.clock import World
from drawdown_client.errors import ClientError, Closed, Unreachable
from drawdown_client.http import httpx
from drawdown_client.settings import Settings

Http = TypeVar("Http")

_AGAIN: Final = retry_if_exception_type(Unreachable)
_FAILURES: Final = (httpx.HTTPError, httpx.StreamError)


@cache
def _tls() -> ssl.SSLContext:
    """Return the TLS context that all clients of a process share.

    The creation of a context takes longer than a call.
    """
    return httpx.create_ssl_context()


class _PerProcess(Generic[Http]):
    """The HTTP client of each process.

    Another process still uses its own client, so this process never closes it.
    """

    def __init__(self, new: Callable[..., Http], url: str, key: str, settings: Settings) -> None:
        """Check the address. Errors: ValueError."""
        self._new = partial(
            new, base_url=calls.base_url(url), headers=calls.headers(key), timeout=calls.timeouts(settings)
        )
        self._made: dict[int, Http] = {}
        self._is_closed = False

    def here(self) -> Http:
        """Return the client of this process. Errors: Closed."""
        self.require_open()
        pid = os.getpid()
        if pid not in self._made:  # another thread may be first; an unused client does not have connections
            self._made.setdefault(pid, self._new(verify=_tls(), cookies=calls.no_cookies()))
        return self._made[pid]

    def require_open(self) -> None:
        """Raise Closed if the line was closed."""
        if self._is_closed:
            raise Closed("the client is closed. Create another client")

    def mark_closed(self) -> Http | None:
        """Refuse later calls, and return the client of this process, if any, to close."""
        self._is_closed = True
        return self._made.get(os.getpid())


class Line:
    """A thread-safe connection to a server."""

    def __init__(self, url: str, key: str, settings: Settings, world: World) -> None:
        self._settings = settings
        self._world = world
        self._http = _PerProcess(httpx.Client, url, key, settings)

    def once(self, call: Call, within_s: float | None = None) -> Answer:
        """Make a call once, without retries. Errors: Refused, Unreachable, Closed.

        `within_s`: a time limit in seconds that is shorter than the usual limit of an attempt.
        """
        most_s = calls.try_s(self._settings) if within_s is None else min(within_s, calls.try_s(self._settings))
        left = cast(float, TryTimeout(self._settings, self._world, most_s))
        try:
            with self._http.here().stream(
                call.method,
                call.path,
                content=call.body,
                params=dict(call.query),
                headers=call.headers,
                timeout=calls.timeouts(self._settings, left, most_s),
            ) as response:
                received = Received(response)
                for chunk in response.iter_bytes():
                    received.add(chunk)
        except _FAILURES as error:
            raise calls.failed(error) from error
        except RuntimeError:  # httpx raises it if another thread closed the client meanwhile
            self._http.require_open()
            raise
        return calls.read(response, received.body, self._world)

    def ask(self, call: Call) -> Answer:
        """Make a call with retries, for a caller who waits for the response.

        The settings `call_tries` and `call_within_s` bound the retries. Errors: as `once`.
        """
        again = Retrying(
            retry=_AGAIN,
            wait=Backoff(self._world),
            stop=calls.patience(self._settings, self._world),
            reraise=True,
        )
        try:
            return again(self.once, call)
        except ClientError as error:
            # The place of the retry does not matter to the reader of the error.
            raise error.with_traceback(None) from error.__cause__

    def close(self) -> None:
        if (made := self._http.mark_closed()) is not None:
            made.close()


class AsyncLine:
    """A connection to a server for one event loop."""

    def __init__(self, url: str, key: str, settings: Settings, world: World) -> None:
        self._settings = settings
        self._world = world
        self._http = _PerProcess(httpx.AsyncClient, url, key, settings)

    async def once(self, call: Call) -> Answer:
        """Make a call once, without retries. Errors: Refused, Unreachable, Closed."""
        try:
            async with (
                asyncio.timeout(calls.try_s(self._settings)),
                self._http.here().stream(
                    call.method, call.path, content=call.body, params=dict(call.query), headers=call.headers
                ) as response,
            ):
                received = Received(response)
                async for chunk in response.aiter_bytes():
                    received.add(chunk)
        except TimeoutError:
            raise calls.too_slow(calls.try_s(self._settings)) from None
        except _FAILURES as error:
            raise calls.failed(error) from error
        except RuntimeError:  # httpx raises it if another task closed the client meanwhile
            self._http.require_open()
            raise
        return calls.read(response, received.body, self._world)

    async def ask(self, call: Call) -> Answer:
        """Make a call with retries, for a caller who waits for the response.

        The settings `call_tries` and `call_within_s` bound the retries. Errors: as `once`.
        """
        again = AsyncRetrying(
            retry=_AGAIN,
            wait=Backoff(self._world),
            stop=calls.patience(self._settings, self._world),
            reraise=True,
        )
        try:
            return await again(self.once, call)
        except ClientError as error:
            raise error.with_traceback(None) from error.__cause__

    async def close(self) -> None:
        if (made := self._http.mark_closed()) is not None:
            await made.aclose()
