"""Connections: a share for each address, slots kept for health, and an end to whoever neither sends nor reads."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from uvicorn.server import ServerState

from drawdown.schema.clock import FixedClock
from drawdown.schema.errors import UsageError
from drawdown.server.http import connection, listen
from drawdown.server.http.bodies import Budget, body_of
from drawdown.server.http.callers import caller_of, proxies
from drawdown.server.http.connection import ConnectionSlots, protocol
from drawdown.server.http.limits import Limits, Strangers
from tests.world import T0

GATE = b"GET /gate HTTP/1.1\r\nHost: a\r\n\r\n"
NEVER = b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = b"x" * 5_000_000
Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def routes(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """Answers each path with itself, and one of them with much; one is never answered."""
    if scope["path"] == "/never":
        await asyncio.sleep(3_600)
    if scope["method"] == "POST":
        async with body_of(Request(scope, receive), 900, Budget(Counter())):
            await asyncio.sleep(3_600 if scope["path"] == "/work" else 0)
    body = LARGE if scope["path"] == "/large" else scope["path"].encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Listening:
    """A server on a port, and its connections."""

    def __init__(self, address: tuple[str, int], slots: ConnectionSlots, refused: Counter[str]) -> None:
        self.address, self.slots, self.refused = address, slots, refused
        self.held: list[Opened] = []

    async def open(self, sent: bytes = b"", address: str = "127.0.0.1") -> Opened:
        found = await asyncio.open_connection(*self.address, limit=64, local_addr=(address, 0))
        found[1].write(sent)
        return found

    async def hold(self, count: int, sent: bytes = b"GET / HTTP/1.1\r\n", address: str = "127.0.0.1") -> list[Opened]:
        """Connections whose head never ends, or that are never answered, each in its place."""
        before = self.slots.count
        made = [await self.open(sent, address) for _ in range(count)]
        self.held += made  # or they would be closed as soon as nobody knows of them
        while self.slots.count < before + count:
            await asyncio.sleep(0.01)
        return made

    async def get(self, path: str, address: str = "127.0.0.1") -> tuple[int, bytes]:
        """Status and body."""
        reader, writer = await self.open(
            b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path.encode(), address
        )
        try:
            return status_and_body(await asyncio.wait_for(reader.read(), 30))
        finally:
            writer.transport.abort()


def is_closed(opened: Opened) -> bool:
    return opened[0].at_eof() or opened[0].exception() is not None


async def one_answer(reader: asyncio.StreamReader) -> int:
    """The status of an answer on a connection that goes on."""
    raw = b""
    while not raw.endswith(b"/gate"):
        raw += await reader.read(1_000)
    return int(raw.split(b" ")[1])


def status_and_body(raw: bytes) -> tuple[int, bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        assert b"content-type: application/json" in head.lower() and b"nosniff" in head.lower(), head
        assert set(json.loads(body)["error"]) >= {"code", "message"}
    return int(head.split(b" ")[1]), body


@asynccontextmanager
async def listening(trusted: str = "") -> AsyncIterator[Listening]:
    refused: Counter[str] = Counter()
    app = Limits(routes, FixedClock(T0), 1_000_000, refused)
    config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_keep_alive=listen.KEEP_ALIVE_S)
    slots, loop, state = ConnectionSlots(proxies(trusted), refused), asyncio.get_running_loop(), ServerState()
    made = protocol(slots)
    server = await loop.create_server(lambda: made(config, state, {}, loop), "127.0.0.1", 0)
    async with server:
        yield Listening(server.sockets[0].getsockname(), slots, refused)
        for one in list(state.connections):
            one.transport.abort()


def run(work: Callable[[Listening], Awaitable[None]], trusted: str = "") -> None:
    async def whole() -> None:
        async with listening(trusted) as found:
            await asyncio.wait_for(work(found), 60)

    asyncio.run(whole())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limits, and smaller."""
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 8)
    monkeypatch.setattr(connection, "MAX_OF_AN_ADDRESS", 5)
    monkeypatch.setattr(connection, "HEALTH_SLOTS", 2)
    monkeypatch.setattr(connection, "SWEEP_S", 0.02)


@pytest.mark.usefixtures("few")
def test_connections_beyond_share_of_address_are_refused() -> None:
    async def work(here: Listening) -> None:
        held = await here.hold(5)
        status, body = await here.get("/a")
        assert status == 503 and b"too_many_connections" in body
        assert here.refused["connections"] == 1
        held[0][1].transport.abort()
        while here.slots.count == 5:
            await asyncio.sleep(0.01)
        assert await here.get("/a") == (200, b"/a"), "a place that was left is free again"

    run(work)


@pytest.mark.usefixtures("few")
def test_health_with_all_slots_taken_is_answered() -> None:
    async def work(here: Listening) -> None:
        await here.hold(8, NEVER)
        await asyncio.sleep(0.1)
        assert await here.get("/healthz") == (200, b"/healthz")
        assert await here.get("/readyz") == (200, b"/readyz")
        assert (await here.get("/a"))[0] == 503
        first, second = await here.hold(2)
        for _ in range(5):
            assert await here.get("/healthz") == (200, b"/healthz"), "nobody keeps these slots from who comes"
        assert await first[0].read() == b"" and here.slots.count <= 10, "and there is an end to them"
        assert here.refused["connections"] >= 1 and second

    run(work, trusted="127.0.0.0/8")


@pytest.mark.usefixtures("few")
def test_idle_connections_do_not_block_quiet_address() -> None:
    """512 half-sent heads of four addresses had every gate answered by 503."""

    async def work(here: Listening) -> None:
        floods = [f"127.0.0.{number}" for number in (2, 3, 4)]
        for address in floods:
            await here.hold(2, address=address)
        quiet = (await here.hold(1, GATE, address="127.0.0.5"))[0]
        assert await one_answer(quiet[0]) == 200
        await here.hold(1, address="127.0.0.2")
        assert here.slots.count == 8, "all are taken"
        for _ in range(20):
            assert await here.get("/gate", "127.0.0.6") == (200, b"/gate")
            async with asyncio.timeout(5):
                while here.slots.count >= 8:  # one of theirs went for it
                    await asyncio.sleep(0.01)
            await here.hold(8 - here.slots.count, address="127.0.0.2" if here.slots.count % 2 else "127.0.0.3")
        quiet[1].write(GATE)
        assert await one_answer(quiet[0]) == 200, "who holds few is not closed for them"
        assert here.refused["connections"] >= 20

    run(work)


@pytest.mark.usefixtures("few")
def test_slow_bodies_do_not_block_quiet_address() -> None:
    """512 bodies of four addresses, of which a few bytes came, had a quarter of the gate's calls answered by 503."""

    async def work(here: Listening) -> None:
        post = b"POST /%s HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n"
        worked_on = await here.hold(2, post % b"work" + b"x" * 900, "127.0.0.2")
        await asyncio.sleep(0.05)
        slow = await here.hold(3, post % b"gate" + b"xx", "127.0.0.2")
        slow += await here.hold(3, post % b"gate" + b"xx", "127.0.0.3")
        await asyncio.sleep(0.05)
        assert here.slots.count == 8, "all are taken"
        assert [await here.get("/gate", "127.0.0.6") for _ in range(5)] == [(200, b"/gate")] * 5
        assert here.refused["connections"] >= 1, "a slow one went for it"
        assert not any(is_closed(one) for one in worked_on), "who sent its whole body is not closed"
        assert sum(is_closed(one) for one in slow) >= 1
        kept = next(one for one in slow if not is_closed(one))
        kept[1].write(b"x" * 898)
        assert await one_answer(kept[0]) == 200, "a slow body may still end"

    run(work)


@pytest.mark.usefixtures("few")
def test_connection_in_use_is_not_closed_for_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strangers, "may_ask", lambda *_: False)
    monkeypatch.setattr(Strangers, "turn", lambda *_: 0.0)

    async def work(here: Listening) -> None:
        held = await here.hold(4, NEVER) + await here.hold(4, NEVER, "127.0.0.2")
        await asyncio.sleep(0.1)
        assert (await here.get("/a"))[0] == 503 and not any(is_closed(one) for one in held)

    run(work)


def test_unfinished_heads_in_health_slots_are_closed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 0)
    monkeypatch.setattr(connection, "HEALTH_PATIENCE_S", 0.05)
    monkeypatch.setattr(connection, "SWEEP_S", 0.02)

    async def work(here: Listening) -> None:
        held = await here.hold(3)
        assert [await reader.read() for reader, _ in held] == [b""] * 3
        assert await here.get("/healthz") == (200, b"/healthz")

    run(work)


def test_connection_of_client_that_does_not_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_PATIENCE_S", 0.05)
    monkeypatch.setattr(connection, "SWEEP_S", 0.02)

    async def work(here: Listening) -> None:
        for close in (b"", b"Connection: close\r\n"):  # answered while it is paused, and closed before it was read
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                deaf.setblocking(False)
                await asyncio.get_running_loop().sock_connect(deaf, here.address)
                deaf.send(b"GET /large HTTP/1.1\r\nHost: a\r\n%s\r\n" % close)
                while not here.slots.count:
                    await asyncio.sleep(0.01)
                while here.slots.count:  # the test's own limit says if it never ends
                    await asyncio.sleep(0.01)

    run(work)


def test_connection_with_invalid_http_is_refused_and_closed() -> None:
    async def work(here: Listening) -> None:
        for sent in (b"\x16\x03\x01 no http\r\n\r\n", b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"a" * 70_000),
                     b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"):  # fmt: skip
            reader, writer = await here.open(sent)
            raw = await reader.read()
            assert raw.startswith(b"HTTP/1.1 400") and b"connection: close" in raw.lower()
            writer.close()

    run(work)


def test_request_with_two_lengths_is_refused_and_smuggled_request_ignored() -> None:
    async def work(here: Listening) -> None:
        head = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        reader, writer = await here.open(head + b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        raw = await reader.read()
        assert status_and_body(raw)[0] == 400 and b"smuggled" not in raw and raw.count(b"HTTP/1.1") == 1
        writer.close()

    run(work)


def test_rate_limit_caller_of_ipv6_is_its_64_bit_prefix() -> None:
    assert caller_of("2001:db8::1") == caller_of("2001:db8::ffff:1:2:3") != caller_of("2001:db8:0:1::1")
    assert caller_of("::ffff:192.0.2.1") == caller_of("192.0.2.1") != caller_of("192.0.2.2")
    assert caller_of("fe80::1%eth0") == caller_of("fe80::2")
    assert caller_of(None) == caller_of("") == "-" and caller_of("testclient") == "testclient"


def test_trusted_proxies_match_addresses_and_networks() -> None:
    trusted = proxies("10.0.0.7, 10.1.0.0/16,fd00::/8")
    assert [trusted(one) for one in ("10.0.0.7", "10.1.2.3", "::ffff:10.0.0.7", "fd00::1")] == [True] * 4
    assert [trusted(one) for one in ("10.0.0.8", "fe00::1", "", None, "unix")] == [False] * 5
    assert proxies("*")("203.0.113.1") and not proxies("")("127.0.0.1")
    with pytest.raises(UsageError, match="PROXIES"):
        proxies("proxy.internal")
