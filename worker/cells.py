"""Telling cells over HTTP.

Guarantee: only URLs on the operator's allow-list are called, redirects are not followed, each request is signed, and a
cell that answers nonsense or never costs its own halt a retry and nobody else's.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx

from drawdown.schema.clock import Clock
from drawdown.worker.effects import HaltRequest

HALT_PATH: Final = "/admin/halt-org"
TIMEOUT_S: Final = 10.0
AT_ONCE: Final = 32
MAX_ANSWER_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class CellSettings:
    """`allowed`: origins (scheme://host:port) that may be called. `secret` signs; it is never logged."""

    allowed: frozenset[str]
    secret: str

    def __repr__(self) -> str:
        return f"CellSettings(allowed={sorted(self.allowed)}, secret=…)"


def origin(url: str) -> str | None:
    """The origin of a URL, with its port; None where the URL is no plain http(s) one."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or (443 if parts.scheme == 'https' else 80)}"


def signature(secret: str, timestamp_s: int, body: bytes) -> str:
    """HMAC-SHA256 in hex over `{timestamp}.{body}`, as cells check it."""
    return hmac.new(secret.encode(), f"{timestamp_s}.".encode() + body, hashlib.sha256).hexdigest()


class CellClient:
    """Sends halts to cells, a bounded number at once."""

    def __init__(self, settings: CellSettings, clock: Clock, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._transport = transport

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        """One answer each, in order: None where the cell acknowledged, else what went wrong."""
        at_once = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(
            transport=self._transport, timeout=TIMEOUT_S, follow_redirects=False, trust_env=False
        ) as client:

            async def one(halt: HaltRequest) -> str | None:
                async with at_once:
                    return await self._halt(client, halt)

            return list(await asyncio.gather(*(one(halt) for halt in halts)))

    async def _halt(self, client: httpx.AsyncClient, halt: HaltRequest) -> str | None:
        found = origin(halt.url)
        if found is None or found not in self._settings.allowed:
            return f"the URL of cell {halt.cell_id} is not on the allow-list (DRAWDOWN_CELL_ORIGINS)"
        if not self._settings.secret:
            return "no secret to sign with: set DRAWDOWN_CELL_SECRET"
        body = json.dumps({"halted_at": halt.halted_at, "org_id": halt.org_id}, sort_keys=True).encode()
        now_s = self._clock.now_ms() // 1000
        headers = {
            "Content-Type": "application/json",
            "X-Timestamp": str(now_s),
            "X-Signature": signature(self._settings.secret, now_s, body),
        }
        try:
            async with client.stream("POST", halt.url.rstrip("/") + HALT_PATH, content=body, headers=headers) as answer:
                return await _judge(answer)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{type(error).__name__}: {error}"[:300]


async def _judge(answer: httpx.Response) -> str | None:
    """A 2xx acknowledges; the body is read (and bounded) only so that the answer is known to be whole."""
    size = 0
    async for chunk in answer.aiter_raw():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            return "the cell's answer is too long"
    return None if answer.is_success else f"the cell answered {answer.status_code}"
