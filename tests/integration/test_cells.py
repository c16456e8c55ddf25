"""Halts over real sockets: signed, bounded, allow-listed, and no redirect followed."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from drawdown.cli.demo_cell import DemoCell
from drawdown.schema.clock import FixedClock
from drawdown.worker.cell_urls import origin
from drawdown.worker.cells import CellClient, CellSettings
from drawdown.worker.effects import HaltRequest
from tests.world import T0

SECRET = "canary-secret-of-the-cells"


class Odd(BaseHTTPRequestHandler):
    """Answers by the first part of the path."""

    requests: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.requests.append(self.path)
        kind = self.path.split("/")[1]
        if kind == "redirect":
            self.send_response(302)
            self.send_header("Location", "/target/admin/halt-org")
            self.end_headers()
        elif kind == "huge":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 200_000)
        elif kind == "nonsense":
            self.wfile.write(b"\x00\x01\x02 not HTTP\r\n\r\n")
        elif kind == "cut":
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.send_response(int(kind))
            self.end_headers()

    def log_message(self, *_: object) -> None:
        return


class Roomy(ThreadingHTTPServer):
    """Takes many connections at once; with the default of five waiting, a busy machine drops some."""

    request_queue_size = 128


@pytest.fixture
def odd() -> Iterator[str]:
    Odd.requests.clear()
    server = Roomy(("127.0.0.1", 0), Odd)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def send(url: str, *, allowed: str | None = None, secret: str = SECRET) -> str | None:
    found = allowed or origin(url) or ""
    client = CellClient(CellSettings(frozenset({found}), secret), FixedClock(T0))
    (answer,) = asyncio.run(client.send([HaltRequest("acme", "cell-1", url, T0)]))
    return answer


def test_a_cell_that_checks_the_signature_acknowledges() -> None:
    halted: list[tuple[str, str]] = []
    cell = DemoCell("cell-1", SECRET, FixedClock(T0), lambda name, org: halted.append((name, org)))
    try:
        assert send(cell.url) is None
        assert halted == [("cell-1", "acme")]
        assert send(cell.url, secret="another-secret-of-the-cells") == "the cell answered 401"
    finally:
        cell.close()


def test_a_cell_refuses_a_signature_that_is_old() -> None:
    cell = DemoCell("cell-1", SECRET, FixedClock(T0 + 301_000), lambda _name, _org: None)
    try:
        assert send(cell.url) == "the cell answered 401"
    finally:
        cell.close()


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("204", None),
        ("500", "the cell answered 500"),
        ("404", "the cell answered 404"),
        ("redirect", "the cell answered 302"),
        ("huge", "the cell's answer is too long"),
    ],
)
def test_only_a_success_acknowledges(odd: str, kind: str, answer: str | None) -> None:
    assert send(f"{odd}/{kind}") == answer
    assert Odd.requests == [f"/{kind}/admin/halt-org"]


@pytest.mark.parametrize("kind", ["nonsense", "cut"])
def test_nonsense_and_cut_connections_are_failures(odd: str, kind: str) -> None:
    assert send(f"{odd}/{kind}") in ("the answer is not HTTP", "the connection broke")


def test_nobody_listening_is_a_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert send(f"http://127.0.0.1:{taken.getsockname()[1]}") == "no connection"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://169.254.169.254/latest",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://user:pass@127.0.0.1/",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "//127.0.0.1",
        "",
    ],
)
def test_a_url_off_the_allow_list_is_never_called(odd: str, url: str) -> None:
    assert "allow-list" in (send(url, allowed=odd) or "")
    assert Odd.requests == []


def test_without_a_secret_nothing_is_sent(odd: str) -> None:
    assert "DRAWDOWN_CELL_SECRET" in (send(f"{odd}/204", secret="") or "")
    assert Odd.requests == []


def test_a_dead_cell_delays_no_other(odd: str) -> None:
    allowed = frozenset({origin(odd) or "", "http://127.0.0.1:1"})
    client = CellClient(CellSettings(allowed, SECRET), FixedClock(T0))
    halts = [HaltRequest(f"org-{n}", "c", f"{odd}/204" if n % 2 else "http://127.0.0.1:1", T0) for n in range(40)]
    answers = asyncio.run(client.send(halts))
    assert [answer is None for answer in answers] == [bool(n % 2) for n in range(40)]


def test_the_secret_is_in_no_representation() -> None:
    assert SECRET not in repr(CellSettings(frozenset(), SECRET))
