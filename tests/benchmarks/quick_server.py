"""A billing service as fast as one process of Python can be: it charges everything, after the latency asked for.

python -m tests.benchmarks.quick_server LATENCY_MS: prints its port; answers GET /arrivals with the moments (ms, its own
clock) at which tracks arrived since the last such question. It ends with its standard input: with whoever began it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from urllib.parse import parse_qsl

REMAINING = 1_000
"""Of each balance, whatever was charged."""


class Track(asyncio.Protocol):
    """HTTP/1.1 with Content-Length, one request after the other on a connection."""

    arrivals: list[float]

    def __init__(self, latency_s: float, arrivals: list[float]) -> None:
        self.latency_s = latency_s
        self.arrivals = arrivals
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.rest += data
        while (end := self.rest.find(b"\r\n\r\n")) >= 0:
            head = self.rest[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.rest) < end + 4 + length:
                return
            body, self.rest = self.rest[end + 4 : end + 4 + length], self.rest[end + 4 + length :]
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get /arrivals"):
            said = json.dumps(self.arrivals).encode()
            self.arrivals.clear()
            return self.send(said)
        if head.startswith(b"post /admin/"):  # a cell, told to halt
            return self.later(b"{}")
        if b"/billing/" in head[:30]:
            return self.later(stripes(head, body))
        asked = json.loads(body)
        if head.startswith(b"post /v1/customers.get"):
            balance = {"feature_id": "compute", "granted": 1_000_000, "remaining": REMAINING, "usage": 1}
            told = {"id": asked["customer_id"], "balances": {"compute": balance}, "subscriptions": []}
            return self.later(json.dumps(told).encode())
        if head.startswith(b"post /v1/features.list"):
            return self.later(b'{"list":[{"id":"compute","type":"metered","consumable":true}]}')
        self.arrivals.append(time.monotonic() * 1000)
        value = asked["value"]
        feature = json.dumps(asked["feature_id"])
        said = (
            f'{{"customer_id":{json.dumps(asked["customer_id"])},"value":{value},"balance":{{"feature_id":{feature},'
            f'"granted":1000000,"remaining":{REMAINING},"usage":1}},"deductions":[{{"balance_id":"b","feature_id":{feature},'
            f'"plan_id":"p","value":{value}}}]}}'
        ).encode()
        return self.later(said)

    def later(self, said: bytes) -> None:
        if self.latency_s:
            asyncio.get_running_loop().call_later(self.latency_s, self.send, said)
        else:
            self.send(said)

    def send(self, body: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_1\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(body), body)
            )


def stripes(head: bytes, body: bytes) -> bytes:
    """Stripe: one meter, v1's events, and a stream with a session that lasts and an empty answer to each batch."""
    if head.startswith(b"post /v1/billing/meter_events"):
        identifier = dict(parse_qsl(body.decode()))["identifier"]
        return json.dumps({"object": "billing.meter_event", "identifier": identifier}).encode()
    if head.startswith(b"get /v1/billing/meters"):
        return b'{"data":[{"id":"mtr_1","event_name":"compute","status":"active"}],"has_more":false}'
    if head.startswith(b"post /v2/billing/meter_event_session"):
        times = b'"created":"2026-01-01T00:00:00Z","expires_at":"2026-01-01T00:15:00Z"'
        return b'{"authentication_token":"token",%s}' % times
    return b"{}"


async def serve(latency_ms: float) -> None:
    arrivals: list[float] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Track(latency_ms / 1000, arrivals), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    await ended.wait()
    server.close()


@contextmanager
def serving(latency_ms: float) -> Iterator[str]:
    """The URL of such a service, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.quick_server", str(latency_ms)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(serve(float(sys.argv[1])))
    except ImportError:
        asyncio.run(serve(float(sys.argv[1])))
