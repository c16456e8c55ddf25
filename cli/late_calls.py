"""What calls over HTTP, made by its first call: most commands, and a tick that has nobody to tell, make none, and what
calls is a fifth of what a command imports.

Guarantee: nothing is imported, opened or read before the first call.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drawdown.providers.http import Call, Http, HttpResult
    from drawdown.providers.http.client import HttpClient
    from drawdown.providers.http.outgoing import Outgoing
    from drawdown.schema.clock import Clock
    from drawdown.worker.engine.effects import (
        CellReader,
        HaltRequest,
        HaltSender,
        HookAnswer,
        HookRequest,
        HookSender,
        UsageAnswer,
        UsageRequest,
    )
    from drawdown.worker.halts.cell_settings import CellSettings
    from drawdown.worker.hooks.hook_settings import HookSettings


def client_of(outgoing: Outgoing | None) -> HttpClient:
    """What calls, and how its calls leave."""
    from drawdown.providers.http.client import Dialer, HttpClient

    return HttpClient(dialer=Dialer(outgoing=outgoing))


class LateHttp:
    """Calls of providers, of issuers that people sign in at, and others."""

    def __init__(self, outgoing: Outgoing | None = None) -> None:
        self._outgoing = outgoing

    @cached_property
    def _client(self) -> Http:
        return client_of(self._outgoing)

    async def send(self, call: Call) -> HttpResult:
        return await self._client.send(call)

    async def close(self) -> None:
        if "_client" in vars(self):
            await self._client.close()


class LateCells:
    """Halts that cells are told, and what cells are asked."""

    def __init__(self, settings: CellSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    @cached_property
    def _client(self) -> HaltSender:
        from drawdown.worker.halts.cell_client import CellClient

        return CellClient(self._settings, self._clock)

    @cached_property
    def _reader(self) -> CellReader:
        from drawdown.worker.halts.cell_client import CellUsageClient

        return CellUsageClient(self._settings, self._clock)

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        return await self._client.send(halts)

    async def read(self, requests: Sequence[UsageRequest]) -> list[UsageAnswer]:
        return await self._reader.read(requests)


class LateHooks:
    """Messages that the operator's product is told."""

    def __init__(self, settings: HookSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    @cached_property
    def _client(self) -> HookSender:
        from drawdown.worker.hooks.client import HookClient

        return HookClient(self._settings, self._clock)

    async def send(self, messages: Sequence[HookRequest]) -> list[HookAnswer]:
        return await self._client.send(messages)
