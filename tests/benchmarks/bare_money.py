"""The least that answers as a call that moves credit does: it finds the key, inserts a row, moves a row, and commits.

python -m tests.benchmarks.bare_money URL: prints its port, and answers until it is ended.
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

TABLES: Final = (
    "CREATE TABLE bare_uses (use_key TEXT PRIMARY KEY, org_id TEXT, metric TEXT, amount BIGINT, at_ms BIGINT)",
    "CREATE TABLE bare_wallets (org_id TEXT PRIMARY KEY, balance BIGINT)",
)
INSERT: Final = "INSERT INTO bare_uses (use_key, org_id, metric, amount, at_ms) VALUES (:key, :org, :metric, 1, 0)"
UPDATE: Final = "UPDATE bare_wallets SET balance = balance - 1 WHERE org_id = :org"
SAID: Final = json.dumps({"decision": "allow", "rule": "none", "used": 0}).encode()
AT_ONCE: Final = {"sqlite": 1, "postgresql": 6}
"""Transactions: SQLite has one writer."""


def prepare(connection: sa.Connection, orgs: int) -> None:
    """The tables of the bare handler, with a wallet for each organisation."""
    for text in TABLES:
        connection.exec_driver_sql(text)
    wallets = [{"org": f"org-{number}"} for number in range(orgs)]
    connection.execute(sa.text("INSERT INTO bare_wallets (org_id, balance) VALUES (:org, 0)"), wallets)


def bare(engine: sa.Engine) -> Callable[..., Any]:
    """An application without a route, a limit or a model."""
    pool, insert, update = ThreadPoolExecutor(AT_ONCE[engine.dialect.name]), sa.text(INSERT), sa.text(UPDATE)

    async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[dict[str, object]], Any]) -> None:
        order = json.loads((await receive())["body"])
        token = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        values = {"key": order["key"], "org": order["org"], "metric": order["metric"]}

        def work(connection: sa.Connection) -> None:
            assert api_keys.find(connection, token, 0) is not None
            connection.execute(insert, values)
            connection.execute(update, values)

        await asyncio.get_running_loop().run_in_executor(pool, database.write, engine, work)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(SAID)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": SAID})

    return app


@contextmanager
def serving_bare(url: str) -> Iterator[int]:
    """The port of such a handler in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bare_money", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
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
