"""One wallet that 32 clients reserve on at once: many in one transaction, as in the server, beside each in its own."""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

import sqlalchemy as sa

from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.server.api.programs import AT_ONCE
from drawdown.server.api.together import Together
from drawdown.server.http.threads import Threads
from drawdown.worker.commands import executions
from drawdown.worker.commands.executions import Asked
from drawdown.worker.commands.run_request import Request
from tests.benchmarks.databases import Databases, tidy
from tests.benchmarks.measure import Figure, Result, alternate, stopwatch
from tests.benchmarks.wallets import NOW, at_once, give_wallets, one

CLIENTS: Final = 32
AT_LEAST: Final = 30.0
HOT: Final = "org-0"


def run(databases: Databases, kind: str, scale: float, runs: int) -> list[Result]:
    """Each client asks again as soon as it is answered."""
    engine = databases.new(kind)
    give_wallets(engine, 1)
    tidy(engine)
    each, few = max(int(200 * scale), 4), max(int(10 * scale), 1)
    numbers = itertools.count()
    shared_s, alone_s = alternate(lambda: _shared(engine, each, numbers), lambda: _alone(engine, few, numbers), runs)
    made, held = (
        one(engine, "SELECT COUNT(*) FROM reservations"),
        one(engine, "SELECT SUM(held_micro) FROM ledger_accounts"),
    )
    assert made == held == CLIENTS * (each + few) * (runs + 1), "each run is held, once"
    databases.drop(engine)
    return [
        Result(
            case="hot",
            database=kind,
            compares=f"{CLIENTS} clients that reserve on one wallet, each again as soon as it is answered, permission "
            f"included, each answer committed: {CLIENTS * each:,} decided together as the server does it, over "
            f"{CLIENTS * few:,} decided each in a transaction of its own. The HTTP around it is not in it",
            figures=[
                Figure(
                    "times each alone",
                    "",
                    [alone / shared for alone, shared in zip(alone_s, shared_s, strict=True)],
                    at_least=AT_LEAST,
                ),
                Figure("together", "/s", [1 / seconds for seconds in shared_s]),
                Figure("each alone", "/s", [1 / seconds for seconds in alone_s]),
            ],
            totals={"reserved": made},
        )
    ]


def _asked(number: int) -> Asked:
    return Asked(f"run-{number}", Request(HOT, 1), "bench", "a benchmark")


def _accept(engine: sa.Engine, asked: Asked) -> None:
    write(engine, lambda c: executions.accept(c, asked.key, asked.request, asked.by(NOW)))


def _alone(engine: sa.Engine, each: int, numbers: itertools.count[int]) -> float:
    """Seconds for one reserve; a thread a client."""

    def client(_number: int) -> None:
        for _ in range(each):
            _accept(engine, _asked(next(numbers)))

    return at_once(CLIENTS, client) / (CLIENTS * each)


def _shared(engine: sa.Engine, each: int, numbers: itertools.count[int]) -> float:
    """Seconds for one reserve; a task of one event loop a client, as in the server."""
    threads = Threads(engine, AT_ONCE, "bench")

    async def whole() -> None:
        together = Together(threads, FixedClock(NOW))

        async def client() -> None:
            for _ in range(each):
                await together.accept(_asked(next(numbers)))

        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    try:
        return stopwatch(lambda: asyncio.run(whole())) / (CLIENTS * each)
    finally:
        threads.close()
