"""Services that answer as none should, in a process of their own that yields to whoever else wants the processor: on
other machines, as in production, theirs would cost nothing here.

python -m tests.benchmarks.hostile_sites: prints the URL of each, a line each.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Final
from urllib.parse import urlsplit

from tests.contract import sockets

CONTINUE: Final = sockets.over_and_over(b"HTTP/1.1 100 Continue\r\n\r\n")
HEAD: Final = sockets.over_and_over(b"x-more: %s\r\n" % (b"a" * 1000), b"HTTP/1.1 200 OK\r\n")
MANNERS: Final = (
    CONTINUE, HEAD, sockets.endless, sockets.crumbs, sockets.drip, sockets.answering(sockets.BOMB),
    sockets.reset_at_once, sockets.silent,
)  # fmt: skip


async def _serve() -> None:
    async with AsyncExitStack() as stack:
        for manner in MANNERS:
            seen = await stack.enter_async_context(sockets.serving(manner))
            where = urlsplit(seen.url)
            print(f"{where.scheme}://{where.netloc}", flush=True)
        await asyncio.Event().wait()


@contextmanager
def hostile() -> Iterator[list[str]]:
    """Their URLs, one for each of `MANNERS`."""
    command = [sys.executable, "-m", "tests.benchmarks.hostile_sites"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield [process.stdout.readline().strip() for _ in MANNERS]
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    os.nice(19)
    asyncio.run(_serve())
