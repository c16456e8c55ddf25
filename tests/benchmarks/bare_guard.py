"""The least that answers as a check of the guard does: it finds the key, reads a counter, and decides nothing.

python -m tests.benchmarks.bare_guard URL: prints its port, and answers until it is ended.
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

COUNTED: Final = "SELECT used FROM guard_counters WHERE org_id = :org AND metric = :metric"
SAID: Final = {"decision": "allow", "rule": "none", "used": 0}


def bare(engine: sa.Engine) -> Callable[..., Any]:
    """No route, no limit, no model."""
    pool = ThreadPoolExecutor(6)

    async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[dict[str, object]], Any]) -> None:
        order = json.loads((await receive())["body"])
        token = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")

        def work(connection: sa.Connection) -> None:
            assert api_keys.find_all(connection, [api_keys.hash_of(token)], 0)
            connection.execute(sa.text(COUNTED), {"org": order["org_id"], "metric": order["metric"]}).one_or_none()

        await asyncio.get_running_loop().run_in_executor(pool, database.read, engine, work)
        body = json.dumps(SAID).encode()
        await answer(send, body)

    return app


if __name__ == "__main__":
    serve(bare(database.connect(sys.argv[1])))
