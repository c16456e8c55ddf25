"""Calls to endpoints of the operator's product over HTTP.

Guarantee: only URLs on the operator's allow-list are called, as `worker/halts/guarded_calls.py` calls, and each request
is signed. Each call ends within `CALL_MS`, whatever its endpoint does. A whole answer of 2xx says that the endpoint has
the message, and nothing else does.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from drawdown.schema.clock import Clock
from drawdown.schema.units import SECOND_MS
from drawdown.worker.engine.effects import HookAnswer, HookRequest
from drawdown.worker.halts.cell_urls import parse
from drawdown.worker.halts.guarded_calls import (
    CALL_ERRORS,
    TOO_LONG,
    Target,
    failure,
    is_bounded,
    session_for,
    trusted_tls,
)
from drawdown.worker.halts.judging import Lookup, system_lookup
from drawdown.worker.hooks.hook_settings import HookSettings
from drawdown.worker.hooks.schedule import CALL_MS
from drawdown.worker.hooks.signing import headers_of

AT_ONCE: Final = 8
"""Calls to one endpoint under way."""
MAX_ANSWER_BYTES: Final = 16 * 1024


class HookClient:
    """Sends messages to endpoints."""

    def __init__(self, settings: HookSettings, clock: Clock, lookup: Lookup = system_lookup) -> None:
        self._settings = settings
        self._clock = clock
        self._lookup = lookup
        self._tls: ssl.SSLContext | None = None

    async def send(self, messages: Sequence[HookRequest]) -> list[HookAnswer]:
        """One answer each, in order, within CALL_MS. Whoever calls gives no more at once than may be under way."""
        if self._tls is None:
            self._tls = trusted_tls()
        threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="hook-names")
        targets: dict[str, Target] = {}
        for text in {message.url for message in messages}:
            url = parse(text)
            if url is not None and url.origin in self._settings.allowed:
                targets[text] = Target(url, self._settings)
                targets[text].session = session_for(targets[text], self._lookup, threads, self._tls, AT_ONCE)
        try:
            return list(await asyncio.gather(*(self._one(targets.get(message.url), message) for message in messages)))
        finally:
            for target in targets.values():
                assert target.session is not None
                await target.session.close()
            threads.shutdown(wait=False, cancel_futures=True)

    async def _one(self, target: Target | None, message: HookRequest) -> HookAnswer:
        if target is None:
            return HookAnswer(error="its URL is not on the allow-list (DRAWDOWN_HOOK_ORIGINS)")
        secrets = self._settings.secrets_of(message.endpoint, message.generations)
        if not secrets:
            return HookAnswer(error="no secret to sign with: set DRAWDOWN_HOOK_SECRET")
        assert target.session is not None
        body = message.body.encode()
        signed = headers_of(secrets, message.message_id, self._clock.now_ms() // SECOND_MS, body)
        headers = {"content-type": "application/json", **signed}
        try:
            async with asyncio.timeout(CALL_MS / SECOND_MS):
                async with target.session.post(
                    target.full, data=body, headers=headers, allow_redirects=False
                ) as answer:
                    if not await is_bounded(answer, MAX_ANSWER_BYTES):
                        return HookAnswer(answer.status, TOO_LONG)
        except CALL_ERRORS as error:
            return HookAnswer(error=failure(error, target, CALL_MS / SECOND_MS, "DRAWDOWN_HOOK_NETWORKS"))
        taken = 200 <= answer.status < 300
        return HookAnswer(answer.status, None if taken else f"it answered {answer.status}")
