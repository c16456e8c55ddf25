"""What a second process brings: a whole tick at the ledger, and pushes at a service that takes 20 ms, by one process
and by two beside each other, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

from drawdown.cli.processes import Stopping, in_processes, shards
from drawdown.providers.http.client import HttpClient
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import RunTogether, Steps
from drawdown.worker.engine.shard import Shard
from drawdown.worker.push.push import Pushed, push
from drawdown.worker.tick import tick
from tests.benchmarks.case_push import due, provider_at
from tests.benchmarks.case_tick import world_of
from tests.benchmarks.databases import Databases, tidy, url_of
from tests.benchmarks.fleet import Fleet, clock, give_credit, settle_in, use
from tests.benchmarks.measure import Figure, Result
from tests.benchmarks.quick_server import serving
from tests.world import T0, Cells

PROCESSES = 2
LATENCY_MS = 20
Part = Callable[[sa.Engine, Shard], int]


def run(databases: Databases, kind: str, fleet: Fleet, pushes: int, runs: int) -> list[Result]:
    """Both, each `runs` times by one process and by two."""
    engine = databases.new(kind)
    settle_in(engine, fleet.orgs)
    give_credit(engine, fleet.orgs)
    found = [_ledger(engine, kind, fleet, runs), _service(engine, kind, pushes, runs)]
    databases.drop(engine)
    return found


def _ledger(engine: sa.Engine, kind: str, fleet: Fleet, runs: int) -> Result:
    spent: dict[int, list[float]] = {1: [], PROCESSES: []}
    for number in range(2 * runs):
        use(engine, fleet, number)

        def one(own: sa.Engine, part: Shard, number: int = number) -> int:
            context, world = world_of(own, clock(number))
            context.shard = part
            return runner.run(tick(context), world).accepted

        count = _turn(number)
        spent[count].append(_timed(engine, count, one, fleet.pushes))
    what = f"a tick of {fleet.samples:,} samples and {fleet.pushes:,} pushes at the ledger"
    return _result("processes", kind, what, spent, fleet.pushes)


def _service(engine: sa.Engine, kind: str, pushes: int, runs: int) -> Result:
    spent: dict[int, list[float]] = {1: [], PROCESSES: []}

    def one(own: sa.Engine, part: Shard) -> int:
        http, now = HttpClient(), FixedClock(T0 + 600_000)
        provider = provider_at(own, url, http, 1_000_000)
        context = Context(f"bench-{part.lo}", now, {"autumn": provider.capabilities}, shard=part)

        def steps() -> Steps[list[Pushed]]:
            done: list[Pushed] = yield RunTogether([push(context, "autumn"), push(context, "autumn")])
            return done

        world = runner.World(own, {"autumn": provider}, Cells(), now, http)
        return sum(done.accepted for done in runner.run(steps(), world))

    with serving(LATENCY_MS) as url:
        for number in range(2 * runs):
            due(engine, pushes)
            count = _turn(number)
            spent[count].append(_timed(engine, count, one, pushes))
    what = f"{pushes:,} pushes claimed, sent over loopback to a service that takes {LATENCY_MS} ms, and settled"
    return _result("processes, sent", kind, what, spent, pushes)


def _turn(number: int) -> int:
    """Each is first as often as the other."""
    return (1, PROCESSES, PROCESSES, 1)[number % 4]


def _timed(engine: sa.Engine, count: int, one: Part, expected: int) -> float:
    """Seconds until all parts have ended, from their begin on."""
    url = url_of(engine.url)
    tidy(engine)
    engine.dispose()

    def part(shard: Shard, stopping: Stopping) -> int:
        own = connect(url)
        try:
            done = one(own, shard)
            return 0 if stopping.is_set() else done
        finally:
            own.dispose()

    began = time.perf_counter()
    ended = in_processes(shards(count), part)
    took = time.perf_counter() - began
    assert sum(result for _, result in ended if isinstance(result, int)) == expected, ended
    return took


def _result(case: str, kind: str, what: str, spent: dict[int, list[float]], pushes: int) -> Result:
    alone, beside = spent[1], spent[PROCESSES]
    return Result(
        case=case,
        database=kind,
        compares=f"{what}: one process over {PROCESSES}, on however many cores there are",
        figures=[
            Figure(f"times as fast by {PROCESSES}", "", [one / both for one, both in zip(alone, beside, strict=True)]),
            Figure("one process", "pushes/s", [pushes / took for took in alone]),
            Figure(f"{PROCESSES} processes", "pushes/s", [pushes / took for took in beside]),
        ],
        totals={"accepted": pushes * len(alone + beside)},
    )
