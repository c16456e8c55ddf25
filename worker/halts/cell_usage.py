"""Asks cells for what they counted themselves, over HTTP: `GET /admin/usage?day=2026-01-31`.

Guarantee: only URLs on the operator's allow-list are called, as `worker/halts/guarded_calls.py` calls, and each request
is signed for its cell and day. An answer that is nonsense, too long, no 200 or never ends costs this cell's own answer,
and is never an empty one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlencode

from drawdown.providers.http import Answer, Call
from drawdown.providers.http.client import HttpClient
from drawdown.providers.http.names import Lookup, system_lookup
from drawdown.schema.clock import Clock
from drawdown.worker.engine.effects import UsageAnswer, UsageRequest
from drawdown.worker.halts.cell_client import TOO_LONG
from drawdown.worker.halts.cell_settings import CellSettings
from drawdown.worker.halts.cell_urls import parse
from drawdown.worker.halts.guarded_calls import Target, late
from drawdown.worker.halts.reasons import ANSWERED, UNSIGNED

USAGE_PATH: Final = "/admin/usage"
USAGE_TIMEOUT_S: Final = 30.0
"""For one cell's day: name, connection, TLS and the whole answer."""
MAX_USAGE_BYTES: Final = 8 << 20
"""Of one cell's day: some 100,000 organisations and sizes."""


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
        return list(await asyncio.gather(*(self._one(request) for request in requests)))

    async def _one(self, request: UsageRequest) -> UsageAnswer:
        url = parse(request.url)
        if url is None or url.origin not in self._settings.allowed:
            return UsageAnswer(error=f"the URL of cell {request.cell_id} is not allowed (DRAWDOWN_CELL_ORIGINS)")
        secrets = self._settings.secrets_of(request.cell_id)
        if not secrets:
            return UsageAnswer(error=UNSIGNED)
        target = Target(url, self._settings, USAGE_PATH)
        http = target.client(self._lookup, self._settings.outgoing, 1, USAGE_TIMEOUT_S)
        try:
            async with asyncio.timeout(USAGE_TIMEOUT_S):
                return await self._asked(target, http, request, secrets)
        except TimeoutError:
            return UsageAnswer(error=late(USAGE_TIMEOUT_S))
        finally:
            await http.close()

    async def _asked(
        self, target: Target, http: HttpClient, request: UsageRequest, secrets: tuple[str, ...]
    ) -> UsageAnswer:
        """While a secret is rotated, a cell that refuses the new one is asked again with the old one."""
        url = f"{target.full}?{urlencode({'day': request.day})}"
        status, body = 0, b""
        for secret in secrets:
            now_s = self._clock.now_ms() // 1000
            proof = usage_signature(secret, now_s, request.cell_id, request.day)
            headers = {"Accept": "application/json", "X-Timestamp": str(now_s), "X-Signature": proof}
            headers["Accept-Encoding"] = "identity"
            result = await http.send(Call("GET", url, headers, b"", USAGE_TIMEOUT_S, MAX_USAGE_BYTES))
            if not isinstance(result, Answer):
                return UsageAnswer(error=target.failure(result, "DRAWDOWN_CELL_NETWORKS", TOO_LONG))
            status, body = result.status, result.body
            if status not in (401, 403):
                break
        return UsageAnswer(body) if status == 200 else UsageAnswer(error=f"{ANSWERED} {status}")
