"""What the bare handlers of the benchmarks share: each serves in a process of its own, which prints its port first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


@contextmanager
def serving_bare(module: str, url: str) -> Iterator[tuple[int, int]]:
    """Port and process of the handler of a module, on the database of this URL."""
    process = subprocess.Popen([sys.executable, "-m", module, url], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()


class _Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)


def serve(app: Callable[..., Any]) -> None:
    """Answer until this process is ended."""
    _Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off", http="h11")).run()


async def answer(send: Callable[[dict[str, object]], Any], body: bytes) -> None:
    """Send a JSON answer."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
