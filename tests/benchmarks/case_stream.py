"""Pushes by Stripe's v2 stream over real loopback HTTP, durably marked: beside v1, one push a call."""

from __future__ import annotations

import time

import sqlalchemy as sa

from drawdown.providers.http.client import HttpClient
from drawdown.providers.protocol import Setup
from drawdown.providers.stripe import build
from drawdown.schema.clock import FixedClock
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import LANES, RunTogether, Steps
from drawdown.worker.push.push import Pushed, push
from tests.benchmarks.case_push import due
from tests.benchmarks.databases import Databases
from tests.benchmarks.measure import Figure, Result
from tests.benchmarks.quick_server import serving
from tests.world import T0, Cells

LATENCY_MS = 20
GOAL = 5_000.0


def run(databases: Databases, kind: str, scale: float, runs: int) -> list[Result]:
    """The two ways in turn; v1 is kept to its rate by Stripe, so a tenth of the pushes will do."""
    engine = databases.new(kind)
    count = max(int(20_000 * scale), 200)
    streamed, cpu, single = [], [], []
    with serving(LATENCY_MS) as url:
        for number in range(-1, runs):
            rates = (_settled(engine, url, count, url), _settled(engine, url, count // 10, ""))
            if number >= 0:  # the first round warms up
                streamed.append(rates[0][0])
                cpu.append(rates[0][1])
                single.append(rates[1][0])
    databases.drop(engine)
    figures = [
        Figure("settled by the stream", "pushes/s", streamed, at_least=GOAL),
        Figure("our CPU", "us/push", cpu),
        Figure("settled by v1", "pushes/s", single),
    ]
    compares = f"{count:,} pushes claimed, sent 100 a call to a service that takes {LATENCY_MS} ms, and settled, each "
    compares += "committed; at most 9,500 a second are sent. Beside v1, one a call, at most 950 a second"
    return [Result("stream", kind, compares, figures, totals={"accepted": count * (runs + 1)})]


def _settled(engine: sa.Engine, url: str, count: int, stream_url: str) -> tuple[float, float]:
    """Pushes a second, and microseconds of this process's CPU each."""
    due(engine, count, "stripe")
    http, clock = HttpClient(), FixedClock(T0 + 600_000)
    settings = {"secret_key": "sk_test_benchmark", "url": url, **({"stream_url": stream_url} if stream_url else {})}
    provider = build(Setup("stripe", settings, clock, http, engine))
    context = Context("bench", clock, {"stripe": provider.capabilities})
    world = runner.World(engine, {"stripe": provider}, Cells(), clock, http)

    def steps() -> Steps[list[Pushed]]:
        done: list[Pushed] = yield RunTogether([push(context, "stripe") for _ in range(LANES)])
        return done

    began, cpu = time.perf_counter(), time.process_time()
    done = runner.run(steps(), world)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    assert sum(lane.accepted for lane in done) == count, done
    return count / took, used * 1e6 / count
