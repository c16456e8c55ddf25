"""Call cells to send halts and read counts; share code for webhook endpoints.

Guarantee: Drawdown calls only URLs on the operator's allow-list, and signs each request to a cell. It connects only to
an address that it checks at that time, and does not reuse an earlier DNS lookup. If the operator set a proxy, the proxy
resolves the name, and Drawdown checks only the origin. It does not follow redirects or store cookies. If a response is
invalid, too long or endless, the error has Drawdown's own text, because a library's text may contain headers. After
such an error, Drawdown sends only that halt again, or treats only that cell's count as unknown, and not as zero.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from drawdown.providers.http import Answer, Call, NoAnswer, NotSent
from drawdown.providers.http.client import CUT_OFF, TOO_MUCH, Dialer, HttpClient
from drawdown.providers.http.egress import Lookup, Outgoing, system_lookup
from drawdown.schema.clock import Clock
from drawdown.worker.engine.effects import NO_RESPONSE, HaltRequest, UsageAnswer, UsageRequest
from drawdown.worker.halts.addresses import ANSWERED, NOT_ALLOWED, NOT_CALLED, UNSIGNED, CellUrl, Judge, parse
from drawdown.worker.halts.cell_settings import CellSettings

HALT_PATH: Final = "/admin/halt-org"
TIMEOUT_S: Final = 10.0
"""Timeout of one halt, in seconds, from the DNS lookup to the cell's response.

The halt may take two requests, the second with the previous secret.
"""
AT_ONCE: Final = 256
"""Halts in flight to all cells."""
AT_ONCE_PER_CELL: Final = 8
"""Halts in flight to one cell."""
MAX_ANSWER_BYTES: Final = 64 * 1024
"""Largest size of a cell's response to a halt."""
TOO_LONG: Final = "the cell's response is too long"


def body_of(halt: HaltRequest) -> bytes:
    """Return the body of a halt.

    The body contains the cell's id, which the signature covers, so that another cell does not obey the halt.
    """
    said = {"cell_id": halt.cell_id, "halted_at": halt.halted_at, "org_id": halt.org_id}
    return json.dumps(said, sort_keys=True).encode()


def signature(secret: str, timestamp_s: int, body: bytes) -> str:
    """Return HMAC-SHA256 in hex over `{timestamp}.{body}`, as cells check it."""
    return hmac.new(secret.encode(), f"{timestamp_s}.".encode() + body, hashlib.sha256).hexdigest()


ANSWER_TOO_LONG: Final = "the response is too long"


@dataclass
class Target:
    """A URL to call, with the policy that allows its addresses.

    `refused`: the reason why the last address was refused (None: it was allowed).
    """

    url: CellUrl
    judge: Judge
    path: str = ""
    """The path that is appended to the path of the URL."""
    refused: str | None = None

    @property
    def full(self) -> str:
        return f"{self.url.origin}{self.url.path}{self.path}"

    def socket_to(self, found: tuple[Any, ...]) -> socket.socket:
        """Check an address, and return a socket for it.

        This function makes every connection.

        Errors: OSError if the address is refused.
        """
        self.refused = self.judge.address_refused(self.url, found[4][0])
        if self.refused is not None:
            raise OSError(self.refused)
        return socket.socket(*found[:3])

    def client(self, lookup: Lookup, outgoing: Outgoing, at_once: int, within_s: float) -> HttpClient:
        """Return a client for this target, with at most `at_once` connections."""
        dialer = Dialer(outgoing=outgoing, lookup=lookup, socket_to=self.socket_to, names_kept_s=0)
        return HttpClient(connections=at_once, connect_timeout_s=within_s, dialer=dialer)

    def failure(self, result: NotSent | NoAnswer, allows: str, too_long: str = ANSWER_TOO_LONG) -> str:
        """Return the error text of a failed call.

        `allows`: the setting that can allow a refused address.
        """
        if self.refused is not None and isinstance(result, NotSent):
            return f"{self.refused}: {NOT_CALLED} {allows} allows it"
        return too_long if result.reason == CUT_OFF or result.reason.startswith(TOO_MUCH) else result.reason


_Line = tuple[Target, HttpClient]


class CellClient:
    """A client that sends halts to cells.

    At a time, it sends at most AT_ONCE halts, and at most AT_ONCE_PER_CELL halts to one cell.
    """

    def __init__(self, settings: CellSettings, clock: Clock, lookup: Lookup = system_lookup) -> None:
        self._settings = settings
        self._clock = clock
        self._lookup = lookup
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots: dict[str | None, asyncio.Semaphore] = {}

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        """Send halts. Return None (acknowledged) or the error of each halt, in order.

        If it is cancelled, it returns NO_RESPONSE for the halts without a response.
        """
        lines: dict[str, _Line] = {}
        for text in {halt.url for halt in halts}:
            url = parse(text)
            if url is not None and url.origin in self._settings.allowed:
                target = Target(url, self._settings, HALT_PATH)
                lines[text] = target, target.client(self._lookup, self._settings.outgoing, AT_ONCE_PER_CELL, TIMEOUT_S)
        sending = [asyncio.ensure_future(self._one(lines.get(halt.url), halt)) for halt in halts]
        try:
            return list(await asyncio.gather(*sending))
        except asyncio.CancelledError:  # an acknowledged halt is not sent again
            return [one.result() if one.done() and not one.cancelled() else NO_RESPONSE for one in sending]
        finally:
            for _, http in lines.values():
                await http.close()

    def _slot(self, cell_id: str | None) -> asyncio.Semaphore:
        """Return the semaphore of a cell; if `cell_id` is None, that of all cells.

        Semaphores belong to one event loop.
        """
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
        """Send a halt. If the cell refuses the new secret, try the previous secret."""
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


USAGE_PATH: Final = "/admin/usage"
USAGE_TIMEOUT_S: Final = 30.0
"""Timeout of a request for a cell's totals, in seconds.

The time is from the DNS lookup to the last byte of the response.
"""
MAX_USAGE_BYTES: Final = 8 << 20
"""Most bytes of a cell's response with the totals of a day.

They are enough for about 100,000 organisations and sizes.
"""


def usage_signature(secret: str, timestamp_s: int, cell_id: str, day: str) -> str:
    """Return HMAC-SHA256 in hex over `{timestamp}.usage`, cell id and day.

    Each of the three is on a separate line. The text cannot equal the signed text of a halt, which continues with `{`
    after the dot.
    """
    text = f"{timestamp_s}.usage\n{cell_id}\n{day}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


class CellUsageClient:
    """A client that reads the counts of several cells at the same time."""

    def __init__(self, settings: CellSettings, clock: Clock, lookup: Lookup = system_lookup) -> None:
        self._settings = settings
        self._clock = clock
        self._lookup = lookup

    async def read(self, requests: Sequence[UsageRequest]) -> list[UsageAnswer]:
        """Request the counts. Return a result for each request, in order."""
        return list(await asyncio.gather(*(self._one(request) for request in requests)))

    async def _one(self, request: UsageRequest) -> UsageAnswer:
        url = parse(request.url)
        if url is None or url.origin not in self._settings.allowed:
            return UsageAnswer(
                error=f"the URL of cell {request.cell_id} is not on the allow-list. Add its origin to "
                "DRAWDOWN_CELL_ORIGINS"
            )
        secrets = self._settings.secrets_of(request.cell_id)
        if not secrets:
            return UsageAnswer(error=UNSIGNED)
        target = Target(url, self._settings, USAGE_PATH)
        http = target.client(self._lookup, self._settings.outgoing, 1, USAGE_TIMEOUT_S)
        try:
            async with asyncio.timeout(USAGE_TIMEOUT_S):
                return await self._request_usage(target, http, request, secrets)
        except TimeoutError:
            return UsageAnswer(error=late(USAGE_TIMEOUT_S))
        finally:
            await http.close()

    async def _request_usage(
        self, target: Target, http: HttpClient, request: UsageRequest, secrets: tuple[str, ...]
    ) -> UsageAnswer:
        """Read counts. If the cell refuses the new secret, try the previous secret."""
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


def late(timeout_s: float) -> str:
    """Return the error text of a call that took too long."""
    return f"no complete response within {timeout_s:g} s"
