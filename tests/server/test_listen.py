"""A connection is held by who uses it: whoever sends the rest of a request without end is cut off, answered or not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from uvicorn.server import ServerState

from drawdown.schema.clock import FixedClock
from drawdown.server.http import connection, listen
from drawdown.server.http.callers import proxies
from drawdown.server.http.connection import MAX_HEAD_BYTES, PIECE_BYTES, ConnectionSlots, protocol
from drawdown.server.http.limits import MOST_HEADERS, Limits
from tests.world import T0

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answers_unread(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """A route that reads no body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def connected() -> AsyncIterator[Connection]:
    app = Limits(answers_unread, FixedClock(T0), 1_000_000, Counter())
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, timeout_keep_alive=listen.KEEP_ALIVE_S,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )  # fmt: skip
    loop, state = asyncio.get_running_loop(), ServerState()
    made = protocol(ConnectionSlots(proxies(""), Counter()))
    server = await loop.create_server(lambda: made(config, state, {}, loop), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer
        writer.transport.abort()


async def answered(connection: Connection, sent: bytes) -> None:
    connection[1].write(sent)
    assert (await connection[0].readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200")


async def ended(connection: Connection, drips: bool) -> None:
    """Wait until the server closes; with `drips`, send a byte of the body now and then meanwhile."""
    end = asyncio.ensure_future(connection[0].read())
    while not end.done():
        if drips:
            with suppress(ConnectionError):
                connection[1].write(b"x")
        await asyncio.wait([end], timeout=0.01)
    with suppress(ConnectionResetError):
        assert await end == b""


@pytest.mark.parametrize("drips", [False, True])
def test_connection_with_unfinished_body_after_answer_is_closed(drips: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE_S", 0.2)
    monkeypatch.setattr(connection, "SWEEP_S", 0.05)

    async def run() -> None:
        async with connected() as connection:
            await answered(connection, POST % 1_000_000)
            connection[1].write(b"x")
            await asyncio.wait_for(ended(connection, drips), 10)

    asyncio.run(run())


def test_connection_with_late_body_after_answer_is_reused() -> None:
    async def run() -> None:
        async with connected() as connection:
            await answered(connection, POST % 100)
            for _ in range(100):
                connection[1].write(b"x")
                await asyncio.sleep(0)
            await answered(connection, POST % 100)

    asyncio.run(run())


GET = b"GET / HTTP/1.1\r\nHost: a\r\n%s\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n%s\r\n"
FULL = b"X: " + b"x" * (MAX_HEAD_BYTES - len(GET % b"X: \r\n")) + b"\r\n"


BEHIND_A_BODY = POST % 32_000 + b"\n\r\n " * 8_000
LARGE = {
    "a-byte": GET % (b"X: " + b"x" * PIECE_BYTES + FULL),
    "a-value": GET % (b"X: " + b"x" * 100_000 + b"\r\n"),
    "a-header": GET % (b"a:\r\n" * MOST_HEADERS),  # and the host
    "headers": GET % (b"a:\r\n" * 28_000),
    "bare-lines": GET.replace(b"\r", b"") % (b"a:\n" * 28_000),
    "a-target": b"GET /" + b"x" * 24_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "trailers": CHUNKED % (b"a:\r\n" * 28_000),
    "a-trailer": CHUNKED % (b"a: " + b"x" * 24_000 + b"\r\n"),
}
HEADS = [
    *((name, b"", 1) for name in LARGE),
    *((name, first, 20) for name in ("a-byte", "trailers") for first in (b"", GET % b"", BEHIND_A_BODY)),
]
"""Each that is too large, alone and in one piece; one with a head and one with trailers, in pieces, behind others."""


@pytest.mark.parametrize(("name", "first", "pieces"), HEADS, ids=lambda one: str(one)[:9])
def test_connection_request_head_beyond_size_is_refused(name: str, first: bytes, pieces: int) -> None:
    large = LARGE[name]

    async def run() -> None:
        async with connected() as (reader, writer):
            sent, size = first + large, len(first + large) // pieces + 1
            with suppress(ConnectionError):
                for at in range(0, len(sent), size):
                    writer.write(sent[at : at + size])
                    await asyncio.sleep(0.001)
            answers = b""
            with suppress(ConnectionError):
                while said := await reader.read(65_536):
                    answers += said
            well, refused = answers.count(b"200 OK"), answers.count(b"400 Bad Request") + answers.count(b" 431 ")
            if answers:  # a reset takes what was answered with it
                assert well + refused == bool(first) + 1
                assert refused or b"chunked" in large, "before its trailers came"

    asyncio.run(asyncio.wait_for(run(), 10))


def test_connection_request_head_within_size_is_accepted() -> None:
    async def run() -> None:
        async with connected() as connection:
            await answered(connection, GET % FULL)
            await answered(connection, GET % (b"a:\r\n" * (MOST_HEADERS - 1)))
            await answered(connection, POST % 100_000 + b"a:\r\n" * 25_000)
            await answered(connection, POST % 100_000 + b"\n" * 100_000)
            await answered(connection, CHUNKED % b"")
            await answered(connection, CHUNKED % (b"a:\r\n" * MOST_HEADERS))
            known = (GET % b"").replace(b"/", b"/v1/", 1)  # callers of open paths wait for their turn
            connection[1].write(known * 2_000)
            for _ in range(2_000):
                assert (await connection[0].readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200")

    asyncio.run(asyncio.wait_for(run(), 30))


def test_serve_freezes_loaded_objects_before_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Mock()
    monkeypatch.setattr(listen, "gc", done)
    monkeypatch.setattr(listen._Ending, "run", done.run)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    listen.serve(Mock(app=answers_unread, refused=Counter()), Mock(), "")
    assert [one[0] for one in done.method_calls] == ["collect", "freeze", "run"]
