"""One wallet that 32 clients reserve on at once: many in one transaction, as in the server, beside each in its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.server.api.executions import WAY
from drawdown.server.api.programs import AT_ONCE
from drawdown.server.api.request_batching import RequestBatcher
from drawdown.server.http.threads import Restores, Threads
from drawdown.worker.engine.runner import NoWitness
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.actions import RequestedExecution
from drawdown.worker.executions.request import Request
from tests.benchmarks.databases import Databases, tidy
from tests.benchmarks.measure import Figure, Result, alternate, stopwatch
from tests.benchmarks.wallets import NOW, at_once, give_wallets, one

CLIENTS: Final = 32
IN_FLIGHT: Final = 8
"""Runs that each client starts at once, as a product does that fans out."""
AT_LEAST: Final = 30.0
"""Where clients start several at once. Clients of one each cannot be more than 32 times as fast: no transaction can
decide more runs than wait for it, and it takes no less time than that of one run."""
HOT: Final = "org-0"


def run(databases: Databases, kind: str, scale: float, runs: int) -> list[Result]:
    """Each client asks again as soon as it is answered: for one run at a time, and for several."""
    engine = databases.new(kind)
    give_wallets(engine, 1)
    tidy(engine)
    each, few = max(int(200 * scale), 4), max(int(10 * scale), 1)
    numbers = itertools.count()
    found: dict[int, tuple[list[float], list[float]]] = {}
    for in_flight in (1, IN_FLIGHT):
        found[in_flight] = alternate(
            lambda in_flight=in_flight: _shared(engine, in_flight, each, numbers),  # type: ignore[misc]
            lambda: _alone(engine, few, numbers),
            runs,
        )
    made, held = (
        one(engine, "SELECT COUNT(*) FROM reservations"),
        one(engine, "SELECT SUM(held_micro) FROM ledger_accounts"),
    )
    assert made == held == CLIENTS * (each * (1 + IN_FLIGHT) + 2 * few) * (runs + 1), "each run is held, once"
    databases.drop(engine)
    return [_result(kind, in_flight, each, few, *times) for in_flight, times in found.items()]


def _result(
    kind: str, in_flight: int, each: int, few: int, shared_s: Sequence[float], alone_s: Sequence[float]
) -> Result:
    ratios = [alone / shared for alone, shared in zip(alone_s, shared_s, strict=True)]
    return Result(
        case=f"hot, {in_flight} at once",
        database=kind,
        compares=f"{CLIENTS} clients that reserve on one wallet, {in_flight} at once, each again as soon as it is "
        f"answered, permission included, each answer committed: {CLIENTS * each * in_flight:,} decided together as the "
        f"server does it, over {CLIENTS * few:,} of as many clients decided each in a transaction of its own. The HTTP "
        "around it is not in it",
        figures=[
            Figure("times each alone", "", ratios, at_least=AT_LEAST if in_flight > 1 else None),
            Figure("together", "/s", [1 / seconds for seconds in shared_s]),
            Figure("each alone", "/s", [1 / seconds for seconds in alone_s]),
        ],
        totals={"reserved": CLIENTS * each * in_flight},
    )


def _asked(number: int) -> RequestedExecution:
    return RequestedExecution(f"run-{number}", Request(HOT, 1), "bench", "a benchmark")


def _accept(engine: sa.Engine, asked: RequestedExecution) -> None:
    write(engine, lambda c: executions.accept(c, asked.key, asked.request, asked.by(NOW)))


def _alone(engine: sa.Engine, each: int, numbers: itertools.count[int]) -> float:
    """Seconds for one reserve; a thread a client."""

    def client(_number: int) -> None:
        for _ in range(each):
            _accept(engine, _asked(next(numbers)))

    return at_once(CLIENTS, client) / (CLIENTS * each)


def _shared(engine: sa.Engine, in_flight: int, each: int, numbers: itertools.count[int]) -> float:
    """Seconds for one reserve; a task of one event loop a run that is asked for, as in the server."""
    threads = Threads(engine, Restores(NoWitness(), FixedClock(NOW)), AT_ONCE, "bench")

    async def whole() -> None:
        together = RequestBatcher(threads, FixedClock(NOW), WAY, lambda: True)

        async def client() -> None:
            for _ in range(each):
                await together.ask(_asked(next(numbers)))

        await asyncio.gather(*(client() for _ in range(CLIENTS * in_flight)))

    try:
        return stopwatch(lambda: asyncio.run(whole())) / (CLIENTS * in_flight * each)
    finally:
        threads.close()
