"""Asks cells for what they counted themselves, over HTTP: `GET /admin/usage?day=2026-01-31`.

Guarantee: only URLs on the operator's allow-list are called, as `worker/halts/guarded_calls.py` calls, and each request
is signed for its cell and day. An answer that is nonsense, too long, no 200 or never ends costs this cell's own answer,
and is never an empty one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import aiohttp

from drawdown.schema.clock import Clock
from drawdown.worker.engine.effects import ANSWERED, UsageAnswer, UsageRequest
from drawdown.worker.halts.cell_client import TOO_LONG
from drawdown.worker.halts.cell_settings import CellSettings
from drawdown.worker.halts.cell_urls import parse
from drawdown.worker.halts.guarded_calls import CALL_ERRORS, Target, failure, session_for, trusted_tls
from drawdown.worker.halts.judging import Lookup, system_lookup

USAGE_PATH: Final = "/admin/usage"
USAGE_TIMEOUT_S: Final = 30.0
"""For one cell's day: name, connection, TLS and the whole answer."""
MAX_USAGE_BYTES: Final = 8 << 20
"""Of one cell's day: some 100,000 organisations and sizes."""
NAMES_AT_ONCE: Final = 8


def usage_signature(secret: str, timestamp_s: int, cell_id: str, day: str) -> str:
    """HMAC-SHA256 in hex over `{timestamp}.usage`, the cell's id and the day, a line each. No halt reads like it: what
    signs a halt goes on with `{`."""
    text = f"{timestamp_s}.usage\n{cell_id}\n{day}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


class CellUsageClient:
    """Asks several cells side by side."""

    def __init__(self, settings: CellSettings, clock: Clock, lookup: Lookup = system_lookup) -> None:
        self._settings = settings
        self._clock = clock
        self._lookup = lookup

    async def read(self, requests: Sequence[UsageRequest]) -> list[UsageAnswer]:
        """One answer each, in order."""
        threads = ThreadPoolExecutor(NAMES_AT_ONCE, thread_name_prefix="cell-names")
        try:
            return list(await asyncio.gather(*(self._one(request, threads, trusted_tls()) for request in requests)))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    async def _one(self, request: UsageRequest, threads: ThreadPoolExecutor, tls: ssl.SSLContext) -> UsageAnswer:
        url = parse(request.url)
        if url is None or url.origin not in self._settings.allowed:
            return UsageAnswer(error=f"the URL of cell {request.cell_id} is not allowed (DRAWDOWN_CELL_ORIGINS)")
        secrets = self._settings.secrets_of(request.cell_id)
        if not secrets:
            return UsageAnswer(error="no secret to sign with: set DRAWDOWN_CELL_SECRET")
        target = Target(url, self._settings, USAGE_PATH)
        async with session_for(target, self._lookup, threads, tls, 1) as target.session:
            try:
                async with asyncio.timeout(USAGE_TIMEOUT_S):
                    return await self._asked(target, target.session, request, secrets)
            except CALL_ERRORS as error:
                return UsageAnswer(error=failure(error, target, USAGE_TIMEOUT_S, "DRAWDOWN_CELL_NETWORKS", TOO_LONG))

    async def _asked(
        self, target: Target, session: aiohttp.ClientSession, request: UsageRequest, secrets: tuple[str, ...]
    ) -> UsageAnswer:
        """While a secret is rotated, a cell that refuses the new one is asked again with the old one."""
        status = 0
        url = target.full.with_query({"day": request.day})
        for secret in secrets:
            now_s = self._clock.now_ms() // 1000
            proof = usage_signature(secret, now_s, request.cell_id, request.day)
            headers = {"Accept": "application/json", "X-Timestamp": str(now_s), "X-Signature": proof}
            async with session.get(url, headers=headers, allow_redirects=False) as answer:
                status = answer.status
                body = await _body(answer)
            if body is None:
                return UsageAnswer(error=TOO_LONG)
            if status not in (401, 403):
                break
        return UsageAnswer(body) if status == 200 else UsageAnswer(error=f"{ANSWERED} {status}")


async def _body(answer: aiohttp.ClientResponse) -> bytes | None:
    """The whole body; None where it is too long."""
    parts = bytearray()
    async for chunk in answer.content.iter_any():
        parts += chunk
        if len(parts) > MAX_USAGE_BYTES:
            answer.close()
            return None
    return bytes(parts)
