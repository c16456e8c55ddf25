"""Calls to cells over HTTP.

Guarantee: only URLs on the operator's allow-list are called, as `worker/halts/guarded_calls.py` calls, and each request
is signed. A cell whose answer is nonsense, too long or never ends costs its own halt a retry and no other cell's.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Final

from drawdown.providers.http import Answer, Call
from drawdown.providers.http.client import HttpClient
from drawdown.providers.http.names import Lookup, system_lookup
from drawdown.schema.clock import Clock
from drawdown.worker.engine.effects import HaltRequest
from drawdown.worker.halts.cell_settings import CellSettings
from drawdown.worker.halts.cell_urls import parse
from drawdown.worker.halts.guarded_calls import Target, late
from drawdown.worker.halts.reasons import ANSWERED, NOT_ALLOWED, UNSIGNED

HALT_PATH: Final = "/admin/halt-org"
TIMEOUT_S: Final = 10.0
"""For one halt: name, connection, TLS and answer together."""
AT_ONCE: Final = 256
AT_ONCE_PER_CELL: Final = 8
MAX_ANSWER_BYTES: Final = 64 * 1024
TOO_LONG: Final = "the cell's answer is too long"


def body_of(halt: HaltRequest) -> bytes:
    """What a cell is sent. The cell's id is in it, and so under the signature: no other cell obeys this."""
    said = {"cell_id": halt.cell_id, "halted_at": halt.halted_at, "org_id": halt.org_id}
    return json.dumps(said, sort_keys=True).encode()


def signature(secret: str, timestamp_s: int, body: bytes) -> str:
    """HMAC-SHA256 in hex over `{timestamp}.{body}`, as cells check it."""
    return hmac.new(secret.encode(), f"{timestamp_s}.".encode() + body, hashlib.sha256).hexdigest()


_Line = tuple[Target, HttpClient]


class CellClient:
    """Sends halts to cells, a bounded number at once: to each cell, and to all."""

    def __init__(self, settings: CellSettings, clock: Clock, lookup: Lookup = system_lookup) -> None:
        self._settings = settings
        self._clock = clock
        self._lookup = lookup
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots: dict[str | None, asyncio.Semaphore] = {}

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        """One answer each, in order: None where the cell acknowledged, else what went wrong."""
        lines: dict[str, _Line] = {}
        for text in {halt.url for halt in halts}:
            url = parse(text)
            if url is not None and url.origin in self._settings.allowed:
                target = Target(url, self._settings, HALT_PATH)
                lines[text] = target, target.client(self._lookup, self._settings.outgoing, AT_ONCE_PER_CELL, TIMEOUT_S)
        try:
            return list(await asyncio.gather(*(self._one(lines.get(halt.url), halt) for halt in halts)))
        finally:
            for _, http in lines.values():
                await http.close()

    def _slot(self, cell_id: str | None) -> asyncio.Semaphore:
        """A cell's share, or with None everybody's; semaphores belong to one event loop."""
        here = asyncio.get_running_loop()
        if self._loop is not here:
            self._loop, self._slots = here, {}
        return self._slots.setdefault(cell_id, asyncio.Semaphore(AT_ONCE if cell_id is None else AT_ONCE_PER_CELL))

    async def _one(self, line: _Line | None, halt: HaltRequest) -> str | None:
        if line is None:
            return f"the URL of cell {halt.cell_id} {NOT_ALLOWED}"
        secrets = self._settings.secrets_of(halt.cell_id)
        if not secrets:
            return UNSIGNED
        async with self._slot(halt.cell_id), self._slot(None):
            return await self._tell(*line, halt, secrets)

    async def _tell(self, target: Target, http: HttpClient, halt: HaltRequest, secrets: tuple[str, ...]) -> str | None:
        """While a secret is rotated, a cell that refuses the new one is told again with the old one."""
        body = body_of(halt)
        status = 0
        try:
            async with asyncio.timeout(TIMEOUT_S):
                for number in range(len(secrets)):
                    headers = self._headers(secrets[number:], body)
                    result = await http.send(Call("POST", target.full, headers, body, TIMEOUT_S, MAX_ANSWER_BYTES))
                    if not isinstance(result, Answer):
                        return target.failure(result, "DRAWDOWN_CELL_NETWORKS", TOO_LONG)
                    status = result.status
                    if status not in (401, 403):
                        break
        except TimeoutError:
            return late(TIMEOUT_S)
        return None if 200 <= status < 300 else f"{ANSWERED} {status}"

    def _headers(self, secrets: tuple[str, ...], body: bytes) -> dict[str, str]:
        now_s = self._clock.now_ms() // 1000
        names = ("X-Signature", "X-Signature-Previous")
        signed = {name: signature(secret, now_s, body) for name, secret in zip(names, secrets, strict=False)}
        return {"Accept-Encoding": "identity", "Content-Type": "application/json", "X-Timestamp": str(now_s), **signed}
