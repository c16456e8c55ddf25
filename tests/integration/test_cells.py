"""Halts over real sockets: signed, bounded, allow-listed, and no redirect followed."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from drawdown.cli.nouns.demo_cell import DemoCell
from drawdown.providers.http.client import NOT_TRUSTED
from drawdown.schema.clock import FixedClock
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import NO_RESPONSE, HaltRequest
from drawdown.worker.halts import cell_client
from drawdown.worker.halts.addresses import origin
from drawdown.worker.halts.cell_client import CellClient
from drawdown.worker.halts.cell_settings import CellSettings, cell_secret
from tests.contract import sockets
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
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def send(url: str, *, allowed: str | None = None, secret: str = SECRET) -> str | None:
    found = allowed or origin(url) or ""
    client = CellClient(CellSettings(frozenset({found}), (secret,) if secret else ()), FixedClock(T0))
    (answer,) = asyncio.run(client.send([HaltRequest("acme", "cell-1", url, T0)]))
    return answer


def test_cell_acknowledges_halt_with_valid_signature() -> None:
    halted: list[tuple[str, str]] = []
    cell = DemoCell(
        "cell-1", cell_secret(SECRET, "cell-1"), FixedClock(T0), lambda name, org: halted.append((name, org))
    )
    try:
        assert send(cell.url) is None
        assert halted == [("cell-1", "acme")]
        assert send(cell.url, secret="another-secret-of-the-cells") == "the cell answered 401"
    finally:
        cell.close()


def test_cell_refuses_halt_with_old_signature() -> None:
    cell = DemoCell("cell-1", cell_secret(SECRET, "cell-1"), FixedClock(T0 + 301_000), lambda _name, _org: None)
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
        ("huge", "the cell's response is too long"),
    ],
)
def test_halt_is_acknowledged_only_by_success_status(odd: str, kind: str, answer: str | None) -> None:
    assert send(f"{odd}/{kind}") == answer
    assert Odd.requests == [f"/{kind}/admin/halt-org"]


@pytest.mark.parametrize("kind", ["nonsense", "cut"])
def test_halt_malformed_answer_or_cut_connection_is_failure(odd: str, kind: str) -> None:
    assert send(f"{odd}/{kind}") in ("the response is not HTTP", "the connection closed before a response")


def test_halt_to_closed_port_is_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert send(f"http://127.0.0.1:{taken.getsockname()[1]}") == "no connection (ECONNREFUSED)"


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
def test_halt_url_off_allow_list_is_not_called(odd: str, url: str) -> None:
    assert "allow-list" in (send(url, allowed=odd) or "")
    assert Odd.requests == []


def test_halt_without_secret_is_not_sent(odd: str) -> None:
    assert "DRAWDOWN_CELL_SECRET" in (send(f"{odd}/204", secret="") or "")
    assert Odd.requests == []


def test_halt_to_dead_cell_does_not_affect_live_cell(odd: str) -> None:
    allowed = frozenset({origin(odd) or "", "http://127.0.0.1:1"})
    client = CellClient(CellSettings(allowed, (SECRET,)), FixedClock(T0))
    halts = [HaltRequest(f"org-{n}", "c", f"{odd}/204" if n % 2 else "http://127.0.0.1:1", T0) for n in range(40)]
    answers = asyncio.run(client.send(halts))
    assert [answer is None for answer in answers] == [bool(n % 2) for n in range(40)]


def test_cell_settings_repr_hides_secret() -> None:
    assert SECRET not in repr(CellSettings(frozenset(), (SECRET,)))


def test_halts_are_sent_within_concurrency_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cells that answer slowly, and count how many calls they hold."""
    monkeypatch.setattr(cell_client, "AT_ONCE", 11)
    held: dict[int, int] = {}
    most: dict[object, int] = {"both": 0}

    async def answer(request: web.Request) -> web.Response:
        port = request.url.port or 0
        held[port] = held.get(port, 0) + 1
        most[port] = max(most.get(port, 0), held[port])
        most["both"] = max(most["both"], sum(held.values()))
        await asyncio.sleep(0.02)
        held[port] -= 1
        return web.Response()

    async def run() -> list[str | None]:
        app = web.Application()
        app.router.add_post("/admin/halt-org", answer)
        server = web.AppRunner(app)
        await server.setup()
        for _ in range(2):
            await web.TCPSite(server, "127.0.0.1", 0).start()
        urls = [f"http://127.0.0.1:{address[1]}" for address in server.addresses]
        client = CellClient(CellSettings(frozenset(urls), (SECRET,)), FixedClock(T0))
        halts = [HaltRequest(f"org-{n}", urls[n % 2], urls[n % 2], T0) for n in range(60)]
        try:
            one, other = await asyncio.gather(client.send(halts[:30]), client.send(halts[30:]))
            return [*one, *other]
        finally:
            await server.cleanup()

    assert asyncio.run(run()) == [None] * 60
    assert most.pop("both") == 11
    assert max(most.values()) <= cell_client.AT_ONCE_PER_CELL


def test_halt_over_tls_is_sent_to_cell_name_and_verifies_certificate(tmp_path: Path) -> None:
    names: list[str | None] = []

    async def run() -> str | None:
        tls, _ = sockets.own_tls(tmp_path)
        tls.sni_callback = lambda _socket, name, _context: names.append(name)
        async with sockets.serving(sockets.polite, tls) as seen:
            url = f"https://cell.example:{urlsplit(seen.url).port}"
            found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))]
            settings = CellSettings(frozenset({url}), (SECRET,), networks=(ip_network("127.0.0.0/8"),))
            client = CellClient(settings, FixedClock(T0), lookup=lambda _host, _port: found)
            (answer,) = await client.send([HaltRequest("acme", "cell-1", url, T0)])
            assert seen.requests == []
            return answer

    assert asyncio.run(run()) == NOT_TRUSTED
    assert names == ["cell.example"]


def test_halts_at_time_limit_keep_responses_that_arrived() -> None:
    answered = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if (await request.json())["org_id"] == "slow":
            await answered.wait()
            await asyncio.sleep(30)
        answered.set()
        return web.Response()

    async def run() -> list[str | None]:
        app = web.Application()
        app.router.add_post("/admin/halt-org", answer)
        server = web.AppRunner(app, shutdown_timeout=0)
        await server.setup()
        await web.TCPSite(server, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{server.addresses[0][1]}"
        client = CellClient(CellSettings(frozenset({url}), (SECRET,)), FixedClock(T0))
        halts = [HaltRequest(org, "cell-1", url, T0) for org in ("slow", "acme")]
        polls = iter([False, False])
        try:
            return await runner._await_cells(
                client.send(halts), lambda: answered.is_set() and next(polls, True), len(halts)
            )
        finally:
            await server.cleanup()

    assert asyncio.run(run()) == [NO_RESPONSE, None]
