"""What a second worker brings: pushes at a service that takes 200 ms, in shards that the engine hands out to one
process of `drawdown worker` and to two, which live already."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from drawdown.cli import cluster
from drawdown.cli.app import App
from drawdown.cli.cluster import TICKS, Jobs, connector, ticking
from drawdown.cli.nouns.tick import parse_shard
from drawdown.cli.processes import Stopping
from drawdown.cli.settings import Settings
from drawdown.providers.http.client import HttpClient
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, read
from drawdown.worker.cluster import install
from drawdown.worker.cluster.membership import Member, Terms
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import RunTogether, Steps
from drawdown.worker.push.push import Pushed, push
from tests.benchmarks.case_push import due, provider_at
from tests.benchmarks.databases import Databases, tidy, url_of
from tests.benchmarks.measure import Figure, Result
from tests.benchmarks.quick_server import serving
from tests.world import T0, Cells

LATENCY_MS: Final = 200
"""So that waiting is the limit, and not the cores, which the service shares here."""
SHARDS: Final = 8
WORKERS: Final = 2
TERMS: Final = Terms(SHARDS, 3_600, None, ())
BEGAN: Final = "SELECT COUNT(*) FROM drawdown_cluster.procrastinate_workers"
LEFT: Final = "SELECT COUNT(*) FROM drawdown_cluster.procrastinate_jobs WHERE task_name = 'tick'"
LANES: Final = 2


def run(databases: Databases, pushes: int, runs: int) -> list[Result]:
    """Alternating, one worker and two."""
    engine = databases.new("postgresql")
    install.install(engine)
    spent: dict[int, list[float]] = {1: [], WORKERS: []}
    with serving(LATENCY_MS) as url:
        for number in range(2 * runs):
            due(engine, pushes)
            count = (1, WORKERS, WORKERS, 1)[number % 4]
            spent[count].append(_timed(engine, url, count))
            assert _number(engine, "SELECT COUNT(*) FROM pushes WHERE state <> 'accepted'") == 0
    databases.drop(engine)
    alone, beside = spent[1], spent[WORKERS]
    times = [one / both for one, both in zip(alone, beside, strict=True)]
    return [
        Result(
            case="workers",
            database="postgresql",
            compares=f"{pushes:,} pushes in {SHARDS} shards, handed out by the engine, sent over loopback to a service "
            f"that takes {LATENCY_MS} ms, and settled: one worker over {WORKERS}, on however many cores there are",
            figures=[
                Figure(f"times as fast by {WORKERS}", "", times, at_least=1.8),
                Figure("one worker", "pushes/s", [pushes / took for took in alone]),
                Figure(f"{WORKERS} workers", "pushes/s", [pushes / took for took in beside]),
            ],
            totals={"accepted": pushes * len(alone + beside)},
        )
    ]


def _timed(engine: sa.Engine, service: str, count: int) -> float:
    """Seconds from when the jobs are handed out until all are done, by so many that live already."""
    url = url_of(engine.url)
    tidy(engine)
    engine.dispose()
    with tempfile.TemporaryDirectory() as folder, _living(url, service, Path(folder), count):
        own = connect(url)
        _until(own, BEGAN, LANES * count)
        began = time.perf_counter()
        asyncio.run(_hand_out(_jobs(url, service, Path(folder))))
        _until(own, LEFT, 0)
        took = time.perf_counter() - began
        own.dispose()
        return took


@contextmanager
def _living(url: str, service: str, folder: Path, count: int) -> Iterator[None]:
    """Workers, each a process of its own."""

    def one() -> None:
        made = _jobs(url, service, folder)
        made.stopping.on_signals()
        cluster.work(made)

    begun = [multiprocessing.get_context("fork").Process(target=one) for _ in range(count)]
    for process in begun:
        process.start()
    try:
        yield
    finally:
        for process in begun:
            process.terminate()
        for process in begun:
            process.join()


class _Pushing(Jobs):
    """A worker whose ticks push, and do nothing else."""

    service: str

    def tick(self, shard: str) -> None:
        http, now = HttpClient(), FixedClock(T0 + 600_000)
        with self._one_of(self._ticks) as app:
            provider = provider_at(app.engine, self.service, http, 1_000_000)
            context = Context(f"bench-{shard}", now, {"autumn": provider.capabilities}, shard=parse_shard(shard))

            def steps() -> Steps[list[Pushed]]:
                done: list[Pushed] = yield RunTogether([push(context, "autumn"), push(context, "autumn")])
                return done

            runner.run(steps(), runner.World(app.engine, {"autumn": provider}, Cells(), now, http))

    def watch(self, shard: str) -> None:
        pass

    def beat(self) -> None:
        pass


def _jobs(url: str, service: str, folder: Path) -> _Pushing:
    app = App(Settings(database_url=url, state_dir=str(folder)), FixedClock(T0))
    made = _Pushing(app, TERMS, Member("bench", ""), Stopping())
    made.service = service
    return made


async def _hand_out(jobs: Jobs) -> None:
    engine = ticking(jobs, connector(jobs.app.settings.latest_database_url))
    async with engine.open_async():
        for number in range(SHARDS):
            shard = f"{number}/{SHARDS}"
            with suppress(Exception):  # it waits already
                await engine.configure_task(
                    "tick", queue=TICKS, lock=f"tick {shard}", queueing_lock=f"tick {shard}"
                ).defer_async(timestamp=0, shard=shard)


def _until(engine: sa.Engine, text: str, number: int) -> None:
    ends = time.monotonic() + 120
    while _number(engine, text) != number:
        assert time.monotonic() < ends, text
        time.sleep(0.005)


def _number(engine: sa.Engine, text: str) -> int:
    return int(read(engine, lambda c: c.execute(sa.text(text)).scalar_one()))
