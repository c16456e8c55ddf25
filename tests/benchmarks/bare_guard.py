"""The least that answers as a check of the guard does: it finds the key, reads a counter, and decides nothing.

python -m tests.benchmarks.bare_guard URL: prints its port, and answers until it is ended.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
import uvicorn

from drawdown.schema import database
from drawdown.worker.access import keys as api_keys

COUNTED: Final = "SELECT used FROM guard_counters WHERE org_id = :org AND metric = :metric"
SAID: Final = {"decision": "allow", "rule": "none", "used": 0}


def bare(engine: sa.Engine) -> Callable[..., Any]:
    """No route, no limit, no model."""
    pool = ThreadPoolExecutor(6)

    async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[dict[str, object]], Any]) -> None:
        order = json.loads((await receive())["body"])
        token = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")

        def work(connection: sa.Connection) -> None:
            assert api_keys.find(connection, token, 0) is not None
            connection.execute(sa.text(COUNTED), {"org": order["org"], "metric": order["metric"]}).one_or_none()

        await asyncio.get_running_loop().run_in_executor(pool, database.read, engine, work)
        body = json.dumps(SAID).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


@contextmanager
def serving_bare(url: str) -> Iterator[subprocess.Popen[str]]:
    """Such a handler in a process of its own, which says its port first."""
    command = [sys.executable, "-m", "tests.benchmarks.bare_guard", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class _Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)


if __name__ == "__main__":
    made = bare(database.connect(sys.argv[1]))
    _Server(uvicorn.Config(made, port=0, log_config=None, access_log=False, lifespan="off", http="h11")).run()
