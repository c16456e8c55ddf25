"""The connection to a server, for programs with threads and for programs with an event loop.

Guarantee: a process that was forked shares no connection with the one it comes from.
"""

from __future__ import annotations

import os
import ssl
from functools import cache
from typing import Final

import httpx
from tenacity import AsyncRetrying, Retrying, retry_if_exception_type

from drawdown_client import calls
from drawdown_client.calls import Answer, Backoff, Call
from drawdown_client.clock import World
from drawdown_client.errors import Unreachable
from drawdown_client.settings import Settings

_AGAIN: Final = retry_if_exception_type(Unreachable)
_FAILURES: Final = (httpx.HTTPError, httpx.StreamError)


@cache
def _tls() -> ssl.SSLContext:
    """One for all clients of a process: it takes longer to make than a call."""
    return httpx.create_ssl_context()


class Line:
    """For any thread."""

    def __init__(self, url: str, key: str, settings: Settings, world: World) -> None:
        self._url = calls.base_url(url)
        self._headers = calls.headers(key)
        self._settings = settings
        self._world = world
        self._made: dict[int, httpx.Client] = {}
        """By process: what another one made goes on being used there, and is never closed here."""

    def _http(self) -> httpx.Client:
        pid = os.getpid()
        if pid not in self._made:
            made = httpx.Client(
                base_url=self._url, headers=self._headers, timeout=calls.timeouts(self._settings), verify=_tls()
            )
            if self._made.setdefault(pid, made) is not made:  # another thread was first
                made.close()
        return self._made[pid]

    def once(self, call: Call) -> Answer:
        """Errors: Refused, Unreachable."""
        try:
            response = self._http().request(
                call.method, call.path, content=call.body, params=dict(call.query), headers=call.headers
            )
        except _FAILURES as error:
            raise calls.failed(error) from error
        return calls.read(response, self._world)

    def ask(self, call: Call) -> Answer:
        """Tried again within the bounds of a call that somebody waits for. Errors: as `once`."""
        again = Retrying(
            retry=_AGAIN,
            wait=Backoff(self._world),
            stop=calls.patience(self._settings, self._world),
            reraise=True,
        )
        return again(self.once, call)

    def close(self) -> None:
        if (made := self._made.get(os.getpid())) is not None:
            made.close()


class AsyncLine:
    """For one event loop."""

    def __init__(self, url: str, key: str, settings: Settings, world: World) -> None:
        self._settings = settings
        self._world = world
        self._http = httpx.AsyncClient(
            base_url=calls.base_url(url), headers=calls.headers(key), timeout=calls.timeouts(settings), verify=_tls()
        )

    async def once(self, call: Call) -> Answer:
        """Errors: Refused, Unreachable."""
        try:
            response = await self._http.request(
                call.method, call.path, content=call.body, params=dict(call.query), headers=call.headers
            )
        except _FAILURES as error:
            raise calls.failed(error) from error
        return calls.read(response, self._world)

    async def ask(self, call: Call) -> Answer:
        """Tried again within the bounds of a call that somebody waits for. Errors: as `once`."""
        again = AsyncRetrying(
            retry=_AGAIN,
            wait=Backoff(self._world),
            stop=calls.patience(self._settings, self._world),
            reraise=True,
        )
        return await again(self.once, call)

    async def close(self) -> None:
        await self._http.aclose()
