"""Call webhook endpoints of the operator's product over HTTP.

Guarantee: Drawdown calls only URLs on the operator's allow-list, as in `worker/halts/cell_client.py`, and signs each
request. Each call ends within `CALL_MS`, even if its endpoint hangs. Only a complete response with a status of 2xx
proves that the endpoint has the message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from drawdown.providers.http import Answer, Call
from drawdown.providers.http.client import HttpClient
from drawdown.providers.http.egress import Lookup, system_lookup
from drawdown.schema.clock import Clock
from drawdown.schema.units import SECOND_MS
from drawdown.worker.engine.effects import HookAnswer, HookRequest
from drawdown.worker.halts.addresses import parse
from drawdown.worker.halts.cell_client import Target, late
from drawdown.worker.hooks.deliver import CALL_MS
from drawdown.worker.hooks.hook_settings import HookSettings, headers_of

AT_ONCE: Final = 8
"""Most concurrent calls to one endpoint."""
MAX_ANSWER_BYTES: Final = 16 * 1024
"""Largest size of an endpoint's response, in bytes."""


class HookClient:
    """A client that sends messages to endpoints."""

    def __init__(self, settings: HookSettings, clock: Clock, lookup: Lookup = system_lookup) -> None:
        self._settings = settings
        self._clock = clock
        self._lookup = lookup

    async def send(self, messages: Sequence[HookRequest]) -> list[HookAnswer]:
        """Send messages within CALL_MS. Return a result for each, in their order.

        The caller must pass at most AT_ONCE messages for each endpoint.
        """
        lines: dict[str, tuple[Target, HttpClient]] = {}
        for text in {message.url for message in messages}:
            url = parse(text)
            if url is not None and url.origin in self._settings.allowed:
                target = Target(url, self._settings)
                lines[text] = target, target.client(self._lookup, self._settings.outgoing, AT_ONCE, CALL_MS / SECOND_MS)
        try:
            return list(await asyncio.gather(*(self._one(lines.get(message.url), message) for message in messages)))
        finally:
            for _, http in lines.values():
                await http.close()

    async def _one(self, line: tuple[Target, HttpClient] | None, message: HookRequest) -> HookAnswer:
        if line is None:
            return HookAnswer(error="the URL is not on the allow-list. Add its origin to DRAWDOWN_HOOK_ORIGINS")
        secrets = self._settings.secrets_of(message.endpoint, message.generations)
        if not secrets:
            return HookAnswer(error="missing signing secret. Set DRAWDOWN_HOOK_SECRET")
        target, http = line
        body, within_s = message.body.encode(), CALL_MS / SECOND_MS
        signed = headers_of(secrets, message.message_id, self._clock.now_ms() // SECOND_MS, body)
        headers = {"accept-encoding": "identity", "content-type": "application/json", **signed}
        try:
            async with asyncio.timeout(within_s):
                result = await http.send(Call("POST", target.full, headers, body, within_s, MAX_ANSWER_BYTES))
        except TimeoutError:
            return HookAnswer(error=late(within_s))
        if not isinstance(result, Answer):
            return HookAnswer(error=target.failure(result, "DRAWDOWN_HOOK_NETWORKS"))
        taken = 200 <= result.status < 300
        return HookAnswer(result.status, None if taken else f"the endpoint answered {result.status}")
