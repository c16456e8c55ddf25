"""`drawdown serve` under attack: the most memory that its process ever holds, for each kind of attack.

Volumes are bounded, and memory is measured, never time. The attackers are several addresses of this machine, as many
as it takes to fill all places.
"""

from __future__ import annotations

import gzip
import json
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from drawdown.server.http.connection import MAX_CONNECTIONS
from tests.acceptance.commands import drawdown
from tests.server.test_process import FRESH, SECRETS, serving
from tests.sqlite_databases import migrated

LIMIT_MB = 300
SOURCES = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6")
BODY = 999_000
AT_ONCE = 16

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells a process's greatest memory")


def peak_mb(pid: int) -> int:
    """The most memory that a process has held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


class Attack:
    """Connections to one server, from several addresses by turns."""

    def __init__(self, port: int, stack: ExitStack) -> None:
        self.port, self.stack, self.sources = port, stack, cycle(SOURCES)

    def open(self, buffer: int | None = None) -> socket.socket:
        made = self.stack.enter_context(socket.socket())
        if buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        made.bind((next(self.sources), 0))
        made.settimeout(10)
        made.connect(("127.0.0.1", self.port))
        return made

    def send(self, data: bytes, buffer: int | None = None) -> None:
        """Send as much of it as is taken; then leave the connection open."""
        made = self.open(buffer)
        made.settimeout(0.05)
        with suppress(OSError):
            made.sendall(data)


def heads(attack: Attack) -> None:
    for _ in range(MAX_CONNECTIONS + 40):
        attack.send(b"GET / HTTP/1.1\r\nX: " + b"a" * 15_000)


def unknown_webhooks(attack: Attack) -> None:
    head = b"POST /webhooks/nosuch HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    for _ in range(MAX_CONNECTIONS):
        attack.send(head + b"x" * BODY)


def unproven_webhooks(attack: Attack) -> None:
    head = b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nStripe-Signature: t=1,v1=a\r\nContent-Length: 1000000\r\n\r\n"
    for _ in range(MAX_CONNECTIONS):
        attack.send(head + b"x" * BODY)


def deaf_readers(attack: Attack) -> None:
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 40
    for _ in range(MAX_CONNECTIONS):
        attack.send(asked, buffer=2048)


ATTACKS: tuple[Callable[[Attack], None], ...] = (heads, unknown_webhooks, unproven_webhooks, deaf_readers)


@pytest.fixture
def database(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/served.db"
    assert drawdown(migrated(url), "init").status == 0
    return url


def packed_batches() -> list[bytes]:
    """A few bytes that become as many as are taken, or more: spaces; items as deep, as wide and as many as may be."""
    data = {"quantity": 1, **{f"p{number}": {} for number in range(99)}}
    event = {"specversion": "1.0", "source": "s", "type": "t", "subject": "acme", "data": data}
    items = [json.dumps({**event, "id": f"e{number}"}) for number in range(1_000)]
    small = [json.dumps({"a": [[]] * 1_000})] * 1_000
    bodies = ["[" + " " * 60_000_000, "[" + ",".join(items) + "]", "[" + ",".join(small) + "]", "[" + "[]," * 2_700_000]
    return [gzip.compress(body.encode(), 1) for body in bodies]


def packed(port: int, key: str) -> None:
    """Many programs send such batches at once."""
    headers = {"authorization": f"Bearer {key}", "content-encoding": "gzip", "content-type": "application/json"}

    def send(number: int, body: bytes) -> int:
        transport = httpx.HTTPTransport(local_address=SOURCES[number % len(SOURCES)])
        with httpx.Client(transport=transport, timeout=120) as client:
            url = f"http://127.0.0.1:{port}/v1/events"
            return client.post(url, headers=headers, content=body).status_code

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(send, range(AT_ONCE), packed_batches() * (AT_ONCE // 4)))
    assert set(found) <= {200, 400, 413, 422, 429, 503} and {200, 413} <= set(found), found


def test_server_memory_under_attack_stays_below_limit(database: str, tmp_path: Path) -> None:
    """One process bears them one after the other: what it ever held is what is measured."""
    key = drawdown(database, "key", "create", "app", "--scope", "events:write", "--quiet").out.strip()
    env = {**SECRETS, "DRAWDOWN_LOG_LEVEL": "WARNING"}
    with serving(database, env, tmp_path / "log", program=FRESH) as (url, process):
        port = httpx.URL(url).port or 0
        packed(port, key)
        assert httpx.get(f"{url}/healthz", timeout=120).status_code == 200
        assert peak_mb(process.pid) < LIMIT_MB, "packed"
        for attack in ATTACKS:
            with ExitStack() as stack:
                attack(Attack(port, stack))
                assert httpx.get(f"{url}/healthz", timeout=120).status_code == 200, attack.__name__
                assert peak_mb(process.pid) < LIMIT_MB, attack.__name__
            assert json.loads(httpx.get(f"{url}/healthz", timeout=120).text) == {"status": "ok"}, attack.__name__
            assert peak_mb(process.pid) < LIMIT_MB, attack.__name__
