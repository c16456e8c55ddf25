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
from dataclasses import dataclass, field
from typing import Final

from drawdown.schema.clock import Clock
from drawdown.schema.units import SECOND_MS
from drawdown.worker.engine.effects import HookAnswer, HookRequest
from drawdown.worker.halts.addresses import Network
from drawdown.worker.halts.cell_urls import CellUrl, parse
from drawdown.worker.halts.guarded_calls import (
    CALL_ERRORS,
    TOO_LONG,
    Lookup,
    Target,
    address_refused,
    failure,
    is_bounded,
    session_for,
    system_lookup,
    trusted_tls,
    why_not,
)
from drawdown.worker.hooks.schedule import CALL_MS
from drawdown.worker.hooks.signing import endpoint_secret, headers_of

AT_ONCE: Final = 8
"""Calls to one endpoint under way."""
MAX_ANSWER_BYTES: Final = 16 * 1024


@dataclass(frozen=True)
class HookSettings:
    """`allowed`: origins (scheme://host:port) that may be called. `roots` make each endpoint's secrets; of two, the
    first is the new one. `networks` are allowed besides public addresses. Secrets never print."""

    allowed: frozenset[str] = frozenset()
    roots: tuple[str, ...] = field(default=(), repr=False)
    networks: tuple[Network, ...] = ()

    @property
    def origins(self) -> frozenset[str]:
        """Those that this host can tell something: none without a secret."""
        return self.allowed if self.roots else frozenset()

    def secrets_of(self, endpoint: str, generations: Sequence[int]) -> tuple[str, ...]:
        """What signs messages for this endpoint, the newest first."""
        return tuple(endpoint_secret(root, endpoint, number) for number in generations for root in self.roots)

    def why_not(self, url: str, lookup: Lookup | None = None) -> str | None:
        """What would keep a message from this URL as its name stands this moment; None where nothing would."""
        return why_not(url, self, lookup or system_lookup, "DRAWDOWN_HOOK")

    def address_refused(self, url: CellUrl, host: str) -> str | None:
        """Why a connection for this URL is not made to this address; None where it may be."""
        return address_refused(self, url, host)


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
