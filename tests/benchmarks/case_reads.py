"""A tick of organisations at Autumn with credit to spare, over real loopback HTTP: who is asked by need, beside asking
about everybody that used something."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from drawdown.providers.http.client import HttpClient
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import read, write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import RunTogether, Steps
from drawdown.worker.push import push as pushing
from drawdown.worker.push.push import Pushed, push
from drawdown.worker.verdict.answers import OrgAnswers
from drawdown.worker.verdict.project import project
from drawdown.worker.verdict.refresh_requests import mark_for_projection
from drawdown.worker.verdict.rules import TURN_MS, turn_ms
from tests.benchmarks.case_push import due, provider_at
from tests.benchmarks.databases import Databases, tidy
from tests.benchmarks.measure import Figure, Result
from tests.benchmarks.quick_server import REMAINING, serving
from tests.world import T0, Cells

LATENCIES_MS = (0, 20)
NOW = T0 + 600_000
CALLS_A_S = 1_000_000
_SETTLED_IN = (
    "UPDATE orgs SET billing_provider = 'autumn', balance_micro = :micro, balance_read_ms = :read_ms, "
    "projection_read_ms = :read_ms, projection_due_ms = NULL WHERE org_id = :org"
)


def run(databases: Databases, kind: str, scale: float, runs: int) -> list[Result]:
    """Each latency."""
    engine = databases.new(kind)
    count = max(int(10_000 * scale), 50)
    found = [_latency(engine, kind, latency_ms, count, runs) for latency_ms in LATENCIES_MS]
    databases.drop(engine)
    return found


def _latency(engine: sa.Engine, kind: str, latency_ms: int, count: int, runs: int) -> Result:
    new, old = [], []
    with serving(latency_ms) as url:
        for _ in range(runs):
            new.append(_ticked(engine, url, count))
            with _everybody():
                old.append(_ticked(engine, url, count))
    return Result(
        case=f"reads, {latency_ms} ms",
        database=kind,
        compares=f"{count:,} pushes of organisations that were read in their turns of the hour, and reads after them, "
        f"at a service that takes {latency_ms} ms; beside asking about each of them",
        figures=[
            Figure("took", "s", [one[0] for one in new]),
            Figure("took, asking about everybody", "s", [one[0] for one in old]),
            Figure("share of that", "%", [100 * a[0] / b[0] for a, b in zip(new, old, strict=True)]),
            Figure("our CPU", "s", [one[1] for one in new]),
            Figure("our CPU, asking about everybody", "s", [one[1] for one in old]),
            Figure("reads", "", [one[2] for one in new]),
            Figure("reads, asking about everybody", "", [one[2] for one in old]),
        ],
        totals={"accepted": 2 * count * runs},
    )


def _ticked(engine: sa.Engine, url: str, count: int) -> tuple[float, float, float]:
    """Seconds, seconds of CPU, reads."""
    due(engine, count)
    _settle_in(engine)
    http, clock = HttpClient(), FixedClock(NOW)
    provider = provider_at(engine, url, http, CALLS_A_S, balance_feature="compute")
    context = Context("bench", clock, {"autumn": provider.capabilities})
    world = runner.World(engine, {"autumn": provider}, Cells(), clock, http)
    before = _reads(engine)
    began, cpu = time.perf_counter(), time.process_time()
    pushed = runner.run(_lane(context), world)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    left = _one(engine, "SELECT COUNT(*) FROM orgs WHERE projection_due_ms IS NOT NULL")
    assert (sum(one.accepted for one in pushed), left) == (count, 0), pushed
    return took, used, float(_reads(engine) - before)


def _lane(context: Context) -> Steps[list[Pushed]]:
    """What a tick does at one provider, but for halts."""
    pushed: list[Pushed] = yield RunTogether([push(context, "autumn"), push(context, "autumn")])
    yield from project(context, "autumn")
    return pushed


def _settle_in(engine: sa.Engine) -> None:
    """Whose pushes are due is billed at Autumn, and was read in its last turn before the last tick."""

    def work(connection: sa.Connection) -> None:
        orgs = connection.execute(sa.text("SELECT org_id FROM pushes WHERE state = 'due'")).scalars().all()
        last = NOW - WINDOW_MS - TURN_MS
        values = [{"org": org, "micro": REMAINING * 10**6, "read_ms": turn_ms(org, last)} for org in orgs]
        connection.execute(sa.text(_SETTLED_IN), values)

    write(engine, work)
    tidy(engine)


def _reads(engine: sa.Engine) -> int:
    return _one(engine, "SELECT COALESCE(SUM(reads), 0) FROM provider_reads")


def _one(engine: sa.Engine, text: str) -> int:
    return read(engine, lambda connection: int(connection.execute(sa.text(text)).scalar_one()))


@contextmanager
def _everybody() -> Iterator[None]:
    """Whatever an answer says, its organisation is asked about."""

    def ask(connection: sa.Connection, *, answers: Sequence[OrgAnswers], now_ms: int, **rest: Any) -> None:
        mark_for_projection(connection, [org.org_id for org in answers], now_ms)

    kept = vars(pushing)["ask_after_push"]
    vars(pushing)["ask_after_push"] = ask
    try:
        yield
    finally:
        vars(pushing)["ask_after_push"] = kept
