"""The least that answers as a call that moves credit does: it finds the key, inserts a row, moves a row, and commits.

python -m tests.benchmarks.bare_money URL: prints its port, and answers until it is ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema import database
from drawdown.worker.access import keys as api_keys
from tests.benchmarks.bare import answer, serve

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
        values = {"key": order["key"], "org": order["org_id"], "metric": order["metric"]}

        def work(connection: sa.Connection) -> None:
            assert api_keys.find_all(connection, [api_keys.hash_of(token)], 0)
            connection.execute(insert, values)
            connection.execute(update, values)

        await asyncio.get_running_loop().run_in_executor(pool, database.write, engine, work)
        await answer(send, SAID)

    return app


if __name__ == "__main__":
    serve(bare(database.connect(sys.argv[1])))
