"""Cells are asked for their own totals over real sockets: signed, bounded, allow-listed, no redirect followed."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from drawdown.providers.kit.emulator import FaultPlan
from drawdown.schema.clock import FixedClock
from drawdown.worker.engine.effects import UsageAnswer, UsageRequest
from drawdown.worker.halts import cell_client
from drawdown.worker.halts.addresses import origin
from drawdown.worker.halts.cell_client import CellUsageClient, usage_signature
from drawdown.worker.halts.cell_settings import CellSettings, cell_secret
from tests.emulators.cell import ROOT, CellEmulator
from tests.emulators.serve import serving_in_thread
from tests.world import T0

DAY = "2026-01-01"
WHOLE = json.dumps({"cell_id": "cell-1", "day": DAY, "usage": []}).encode()


class Odd(BaseHTTPRequestHandler):
    """Answers by the first part of the path."""

    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.requests.append(self.path)
        kind = self.path.split("/")[1]
        if kind == "nonsense":
            self.wfile.write(b"\x00\x01 not HTTP\r\n\r\n")
        elif kind == "cut":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif kind == "short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(WHOLE)
        elif kind == "endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 60_000)
        elif kind == "slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" ")
                time.sleep(0.05)
        elif kind == "redirect":
            self.send_response(302)
            self.send_header("Location", "/200/admin/usage")
            self.end_headers()
        else:
            self.send_response(int(kind))
            self.end_headers()
            self.wfile.write(WHOLE)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def odd() -> Iterator[str]:
    Odd.requests.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def asked(url: str, *, allowed: str | None = None, secrets: tuple[str, ...] = (ROOT,), day: str = DAY) -> UsageAnswer:
    settings = CellSettings(frozenset({allowed or origin(url) or ""}), secrets, networks=(ip_network("127.0.0.0/8"),))
    client = CellUsageClient(settings, FixedClock(T0))
    (answer,) = asyncio.run(client.read([UsageRequest("cell-1", url, day)]))
    return answer


def test_cell_usage_request_with_wrong_or_old_signature_is_refused() -> None:
    cell = CellEmulator()
    cell.counted[DAY] = [{"org_id": "acme", "memory_mb": 1024, "seconds": 60}]
    with serving_in_thread(cell, FixedClock(T0)) as url:
        found = asked(url)
        assert json.loads(found.body or b"")["usage"] == cell.counted[DAY]
        assert asked(url, secrets=("another-secret-of-the-cells",)).error == "the cell answered 401"
        assert asked(url, secrets=("a-newer-secret", ROOT)).error is None, "the old one is tried while it is rotated"
    with serving_in_thread(cell, FixedClock(T0 + 301_000)) as url:
        assert asked(url).error == "the cell answered 401"


def test_cell_usage_signature_for_different_cell_or_day_is_refused() -> None:
    secret = cell_secret(ROOT, "cell-1")
    proof = usage_signature(secret, T0 // 1000, "cell-1", DAY)
    assert proof != usage_signature(secret, T0 // 1000, "cell-2", DAY)
    assert proof != usage_signature(secret, T0 // 1000, "cell-1", "2026-01-02")
    assert proof != usage_signature(secret, T0 // 1000 + 1, "cell-1", DAY)
    cell = CellEmulator("cell-2", secret=secret)
    with serving_in_thread(cell, FixedClock(T0)) as url:
        assert asked(url).error == "the cell answered 401", "it is another cell, though its secret be the same"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("200", None),
        ("202", "the cell answered 202"),
        ("404", "the cell answered 404"),
        ("500", "the cell answered 500"),
        ("redirect", "the cell answered 302"),
        ("endless", "the cell's response is too long"),
        ("nonsense", "the response is not HTTP"),
        ("cut", "the connection closed before a response"),
        ("short", "the response was cut short"),
    ],
)
def test_cell_usage_incomplete_answer_is_an_error(odd: str, kind: str, error: str | None) -> None:
    found = asked(f"{odd}/{kind}")
    assert (found.error, found.body) == (error, None if error else WHOLE)
    assert set(Odd.requests) == {f"/{kind}/admin/usage?day={DAY}"}


def test_cell_usage_slow_answer_is_cut_off_by_timeout(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_client, "USAGE_TIMEOUT_S", 0.3)
    began = time.monotonic()
    assert asked(f"{odd}/slow").error == "no complete response within 0.3 s"
    assert time.monotonic() - began < 3


def test_cell_usage_answer_above_size_limit_is_refused(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_client, "MAX_USAGE_BYTES", len(WHOLE))
    assert asked(f"{odd}/200").body == WHOLE
    monkeypatch.setattr(cell_client, "MAX_USAGE_BYTES", len(WHOLE) - 1)
    assert asked(f"{odd}/200").error == "the cell's response is too long"


def test_cell_usage_origin_not_allowed_is_not_called(odd: str) -> None:
    assert "DRAWDOWN_CELL_ORIGINS" in (asked(f"{odd}/200", allowed="https://cell-1:8443").error or "")
    assert asked(f"{odd}/200", secrets=()).error == "missing signing secret. Set DRAWDOWN_CELL_SECRET"
    url = f"http://localhost:{urlsplit(odd).port}"
    client = CellUsageClient(CellSettings(frozenset({origin(url) or ""}), (ROOT,)), FixedClock(T0))
    (answer,) = asyncio.run(client.read([UsageRequest("cell-1", url, DAY)]))
    assert "loopback" in (answer.error or "") and Odd.requests == []


def test_cell_usage_unreachable_cell_does_not_affect_second_cell() -> None:
    with closing(socket.socket()) as nobody, serving_in_thread(CellEmulator(), FixedClock(T0)) as url:
        nobody.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        settings = CellSettings(frozenset({origin(url) or "", origin(gone) or ""}), (ROOT,))
        requests = [UsageRequest("cell-0", gone, DAY), UsageRequest("cell-1", url, DAY)]
        first, second = asyncio.run(CellUsageClient(settings, FixedClock(T0)).read(requests))
        assert (first.error, second.error) == ("no connection (ECONNREFUSED)", None)


def test_cell_usage_broken_cell_is_reported_as_error() -> None:
    for kind, error in (("broken", "the cell answered 500"), ("down", "the connection closed before a response")):
        cell = CellEmulator(faults=FaultPlan(rates={kind: 1.0}))
        with serving_in_thread(cell, FixedClock(T0)) as url:
            assert asked(url).error == error
