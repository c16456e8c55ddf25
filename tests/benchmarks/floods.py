"""Floods of a server by callers who prove nothing, or whose key finds nothing, in a process of their own.

python -m tests.benchmarks.floods KIND PORT [KEY]: floods until its standard input ends, then prints what was answered.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

Made = Callable[[int], bytes]
AGAIN_S: Final = 15.0
"""After which a connection that sent half a head is opened anew."""
ADDRESSES: Final = ("127.0.0.21", "127.0.0.22", "127.0.0.23", "127.0.0.24")


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def preview(key: str, org: str) -> bytes:
    body = json.dumps({"org_id": org, "estimate": 1}).encode()
    head = f"POST /v1/executions/preview HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
    return head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def made_up(_number: int) -> bytes:
    key = "ddk_" + base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    body = b'{"org_id":"org-1","metric":"idea"}'
    head = f"POST /v1/guard/check HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
    return head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


class Flood:
    """What is sent on one port, and how often each status came."""

    def __init__(self, port: int, key: str = "") -> None:
        self.port, self.key = port, key
        self.said: Counter[str] = Counter()

    async def heads(self, count: int = 512) -> None:
        """Heads that never end, from four addresses, opened again whenever they are closed."""
        await asyncio.gather(*(self._half(ADDRESSES[number % 4]) for number in range(count)))

    async def health(self) -> None:
        """As fast as they are answered."""
        await self._loops([get("/readyz")] * 250 + [get("/healthz")] * 250, 4)

    async def healthz(self) -> None:
        await self._loops([get("/healthz")] * 100, 1)

    async def keys(self, per_s: int = 1_000) -> None:
        """Keys that were never made, each once."""
        await asyncio.gather(*(self._made(made_up, 50 / per_s, ADDRESSES[0]) for _ in range(50)))

    async def names(self) -> None:
        """Ids that are mistyped, by a key that may name any organisation."""

        def slip(number: int) -> bytes:
            return preview(self.key, f"org-{number * 7919 % 100_000}x")

        await asyncio.gather(*(self._made(slip, 0, ADDRESSES[0], at * 1_000_003) for at in range(16)))

    async def _half(self, address: str) -> None:
        while True:
            with suppress(OSError, TimeoutError):
                reader, writer = await self._open(address)
                writer.write(b"GET / HTTP/1.1\r\nX: ")
                async with asyncio.timeout(AGAIN_S):
                    self.said[(await reader.read(12)).decode() or "closed"] += 1
                writer.transport.abort()
            await asyncio.sleep(0.01)

    async def _loops(self, requests: list[bytes], addresses: int) -> None:
        await asyncio.gather(
            *(
                self._made(lambda _number, sent=sent: sent, 0, ADDRESSES[number % addresses])  # type: ignore[misc]
                for number, sent in enumerate(requests)
            )
        )

    async def _made(self, make: Made, wait_s: float, address: str, number: int = 0) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, ValueError):
                reader, writer = await self._open(address)
                try:
                    async for _ in self._turns(wait_s):
                        number += 1
                        writer.write(make(number))
                        self.said[await _status(reader)] += 1
                finally:
                    writer.transport.abort()
            self.said["closed"] += 1
            await asyncio.sleep(0.01)

    async def _turns(self, wait_s: float) -> AsyncIterator[None]:
        """Each so long after the one before began."""
        due = time.monotonic()
        while True:
            yield
            due = max(due + wait_s, time.monotonic() - 1)
            await asyncio.sleep(max(due - time.monotonic(), 0))

    async def _open(self, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))


async def _status(reader: asyncio.StreamReader) -> str:
    head = await reader.readuntil(b"\r\n\r\n")
    at = head.lower().find(b"content-length:")
    if at >= 0:
        await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]))
    return head[9:12].decode()


KINDS: Final = ("heads", "health", "healthz", "keys", "names")


async def main(kind: str, port: int, key: str) -> None:
    flood = Flood(port, key)
    going = asyncio.create_task(getattr(flood, kind)())
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    await ended.wait()
    going.cancel()
    print(json.dumps(flood.said))


@contextmanager
def flooded(kind: str, port: int, key: str = "") -> Iterator[Counter[str]]:
    """Flood for as long as this lasts; what was answered is known afterwards."""
    command = [sys.executable, "-m", "tests.benchmarks.floods", kind, str(port), key]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said: Counter[str] = Counter()
    try:
        time.sleep(1.5)
        assert process.poll() is None
        yield said
        said.update(json.loads(process.communicate("", timeout=30)[0]))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), *(sys.argv[3:] or [""])))
