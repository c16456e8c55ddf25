"""Servers on real loopback sockets that answer as no service should.

Guarantee: a server counts each request that reached it whole, and each connection; its port is closed afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

# Made for these tests, signs itself, and is trusted by nobody else.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBojCCAUmgAwIBAgIUNf6d7vH9T1tbyfOoL2h6InMYFXMwCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNZHJhd2Rvd24gdGVzdDAgFw0yNjExMjAxMDM0NTZaGA8yMTI2
MTAyNzEwMzQ1NlowGDEWMBQGA1UEAwwNZHJhd2Rvd24gdGVzdDBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABGS2fHhD6iajVAU8RDqEF0zMoRDs0RS2lpTolUCYLdmp
ZmhAankpuPgoT72iyC1A6uYhrFbXe8J4k62BpsyJ4XSjbzBtMB0GA1UdDgQWBBQD
JIw2dV0y0XIHFeQVKOCEaYw8WDAfBgNVHSMEGDAWgBQDJIw2dV0y0XIHFeQVKOCE
aYw8WDAPBgNVHRMBAf8EBTADAQH/MBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAA
ATAKBggqhkjOPQQDAgNHADBEAiAan/qIaIcL1HzP1IBd5dGPj4jsbl9nKRMZf3Ss
DvGbqAIgG2zhivStVvtcT8t03+t8FJqvbA8+ZOrKxGG3RxT3Jp0=
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgnrwwWNv4Zkna1ME2
2l2ACSJKXUe9E2O4e4ilvbsObFKhRANCAARktnx4Q+omo1QFPEQ6hBdMzKEQ7NEU
tpaU6JVAmC3ZqWZoQGp5Kbj4KE+9osgtQOrmIaxW13vCeJOtgabMieF0
-----END PRIVATE KEY-----
"""


@dataclass
class Peer:
    """One connection, as its server sees it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    seen: Seen

    async def request(self) -> bytes:
        """Read one request whole, and count it. Errors: asyncio.IncompleteReadError."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        body = await self.reader.readexactly(int(length[0]) if length else 0)
        self.seen.requests.append(head + body)
        return head + body

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Go away with a TCP reset."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.writer.transport.abort()


@dataclass
class Seen:
    """What reached a server."""

    url: str = ""
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)


Manner: TypeAlias = Callable[[Peer], Awaitable[None]]
"""How a connection is dealt with; when it returns, the connection is closed."""


@contextlib.asynccontextmanager
async def serving(manner: Manner, tls: ssl.SSLContext | None = None, scheme: str = "") -> AsyncIterator[Seen]:
    """A server that deals with every connection in this manner."""
    seen = Seen()
    tasks: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await manner(Peer(reader, writer, seen))
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls)
    host, port = server.sockets[0].getsockname()
    seen.url = f"{scheme or ('https' if tls else 'http')}://{host}:{port}/v1/track?who=query-canary"
    try:
        yield seen
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def own_tls(folder: Path) -> tuple[ssl.SSLContext, str]:
    """A server's side of TLS that nobody trusts, and the file to trust it by."""
    (folder / "certificate.pem").write_text(CERTIFICATE, encoding="ascii")
    (folder / "key.pem").write_text(KEY, encoding="ascii")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context, str(folder / "certificate.pem")


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answering(data: bytes) -> Manner:
    """Read each request, say this, close."""

    async def manner(peer: Peer) -> None:
        await peer.request()
        await peer.say(data)

    return manner


def body_of(body: bytes, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%s\r\n%s" % (len(body), headers, body)


async def polite(peer: Peer) -> None:
    """Answer every request, and keep the connection."""
    while True:
        await peer.request()
        await peer.say(OK)


async def close_at_once(peer: Peer) -> None:
    """Accept, and go."""


async def reset_at_once(peer: Peer) -> None:
    peer.reset()


async def reset_after_reading(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def close_after_one(peer: Peer) -> None:
    """Answer once as if the connection were kept, read the next request, and go."""
    await peer.request()
    await peer.say(OK)
    await peer.request()


async def endless(peer: Peer) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        await peer.say(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def over_and_over(piece: bytes, begin: bytes = b"") -> Manner:
    """Say the same without end, as fast as it is taken."""

    async def manner(peer: Peer) -> None:
        await peer.request()
        await peer.say(begin)
        while True:
            await peer.say(piece)
            await asyncio.sleep(0)

    return manner


async def crumbs(peer: Peer) -> None:
    """A byte at a time, each a piece of its own, for a body that would be whole in the end."""
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        await peer.say(b"x")
        await asyncio.sleep(0.0005)


async def drip(peer: Peer) -> None:
    """A byte at a time: never idle, never done."""
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for _ in range(1000):
        await peer.say(b"x")
        await asyncio.sleep(0.02)


async def silent(peer: Peer) -> None:
    await peer.request()
    await asyncio.sleep(60)


async def never_shakes_hands(peer: Peer) -> None:
    """Take what comes and say nothing: on https, the handshake never ends."""
    await asyncio.sleep(60)


async def plaintext(peer: Peer) -> None:
    """Answer whatever comes, as a server without TLS answers a handshake."""
    await peer.reader.read(1)
    await peer.say(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


async def two_answers(peer: Peer) -> None:
    """Answer once, and then again without being asked."""
    await peer.request()
    await peer.say(OK)
    await asyncio.sleep(0.05)
    await peer.say(body_of(b"not yours"))
    await polite(peer)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
BOMB = body_of(gzip.compress(bytes(64 * 1024 * 1024)), b"content-encoding: gzip\r\n")
