"""Pushes settled a second over real loopback HTTP, durably marked: beside a strictly sequential client, and beside the
same bare transport at the same concurrency, which marks nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import sqlalchemy as sa

from drawdown.providers.autumn import AutumnProvider, build
from drawdown.providers.http import Answer, Call
from drawdown.providers.http.client import HttpClient
from drawdown.providers.protocol import Setup
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import read, write
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import RunTogether, Steps
from drawdown.worker.push.push import Pushed, push
from tests.benchmarks.databases import Databases, tidy
from tests.benchmarks.measure import Figure, Result
from tests.benchmarks.quick_server import serving
from tests.world import T0, Cells

LATENCIES_MS = (0, 20, 200)
RATE = 400
"""Calls a second allowed, where it is measured how much of that is used."""
_keys = itertools.count()


def run(databases: Databases, kind: str, scale: float, runs: int) -> list[Result]:
    """Each latency, then the allowed rate."""
    engine = databases.new(kind)
    found = [_latency(engine, kind, latency_ms, scale, runs) for latency_ms in LATENCIES_MS]
    found.append(_rate(engine, kind, max(int(RATE * 6 * scale), 20)))
    databases.drop(engine)
    return found


def _latency(engine: sa.Engine, kind: str, latency_ms: int, scale: float, runs: int) -> Result:
    count = max(int((4_000 if latency_ms == 200 else 10_000) * scale), 20)
    few = max(int({0: 600, 20: 120, 200: 15}[latency_ms] * scale), 3)
    ours, alone, bare, cpu = [], [], [], []
    with serving(latency_ms) as url:
        for number in range(-1, runs):
            rates = (_ours(engine, url, count), _sequential(engine, url, few), _bare(url, count))
            if number >= 0:  # the first round warms up
                (rate, cpu_us), one, most = rates
                ours.append(rate)
                cpu.append(cpu_us)
                alone.append(one)
                bare.append(most)
    many = [mine / other for mine, other in zip(ours, alone, strict=True)]
    share = [100 * mine / other for mine, other in zip(ours, bare, strict=True)]
    goals = (100.0, 70.0) if latency_ms == 20 else (None, None)
    return Result(
        case=f"push, {latency_ms} ms",
        database=kind,
        compares=f"{count:,} pushes claimed, sent over loopback to a service that takes {latency_ms} ms, and settled, "
        f"each committed; beside one call and one commit after the other, and beside the bare transport",
        figures=[
            Figure("settled", "pushes/s", ours),
            Figure("times the sequential client", "", many, at_least=goals[0]),
            Figure("share of the bare transport", "%", share, at_least=goals[1]),
            Figure("our CPU", "us/push", cpu),
            Figure("sequential client", "pushes/s", alone),
            Figure("bare transport", "calls/s", bare),
        ],
        totals={"accepted": count * (runs + 1)},
    )


def provider_at(engine: sa.Engine, url: str, http: HttpClient, calls_per_s: int, **more: str) -> AutumnProvider:
    settings = {"secret_key": "am_sk_test_benchmark", "url": url, "calls_per_s": str(calls_per_s), **more}
    return build(Setup("autumn", settings, FixedClock(T0 + 600_000), http, engine))


def due(engine: sa.Engine, count: int, provider: str = "autumn") -> None:
    """Pushes of as many organisations, sealed and due, of customers that were read before."""
    batch = next(_keys)
    rows = [
        {
            "org": f"org-{batch}-{number}",
            "bucket": number % 256,
            "key": f"usage:org-{batch}-{number}:{T0}:compute",
            "provider": provider,
        }
        for number in range(count)
    ]

    def work(connection: sa.Connection) -> None:
        for text in (
            f"INSERT INTO orgs (org_id, bucket, balance_read_ms) VALUES (:org, :bucket, {T0})",
            "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
            "VALUES (:org, 0, :provider, :org, 0, 'bench', 'a benchmark')",
        ):
            connection.execute(sa.text(text), rows)
        connection.execute(
            sa.text(
                "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, "
                f"sent_qty, key, sealed_at_ms, seal_id, state, due_at_ms) VALUES ({T0}, :org, 'compute', 0, :provider, "
                f":org, 60, 60, :key, {T0}, 0, 'due', {T0})"
            ),
            rows,
        )

    write(engine, work)
    tidy(engine)


def _ours(engine: sa.Engine, url: str, count: int, calls_per_s: int = 1_000_000) -> tuple[float, float]:
    """Pushes a second, and microseconds of this process's CPU each."""
    due(engine, count)
    http = HttpClient()
    provider = provider_at(engine, url, http, calls_per_s)
    clock = FixedClock(T0 + 600_000)
    context = Context("bench", clock, {"autumn": provider.capabilities})
    world = runner.World(engine, {"autumn": provider}, Cells(), clock, http)

    def steps() -> Steps[list[Pushed]]:
        done: list[Pushed] = yield RunTogether([push(context, "autumn"), push(context, "autumn")])
        return done

    began, cpu = time.perf_counter(), time.process_time()
    done = runner.run(steps(), world)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    assert sum(one.accepted for one in done) == count, done
    return count / took, used * 1e6 / count


def _sequential(engine: sa.Engine, url: str, count: int) -> float:
    """What peers do: one call, its answer, one commit."""
    due(engine, count)
    keys = read(
        engine,
        lambda c: list(c.execute(sa.text("SELECT window_ms, org_id FROM pushes WHERE state = 'due'"))),
    )
    mark = sa.text("UPDATE pushes SET state = 'accepted' WHERE window_ms = :window AND org_id = :org")
    began = time.perf_counter()
    with httpx.Client() as client:
        for window, org in keys:
            client.post(f"{url}/v1/track", json=_body(org)).raise_for_status()
            write(engine, lambda c, w=window, o=org: c.execute(mark, {"window": w, "org": o}))  # type: ignore[misc]
    assert len(keys) == count
    return count / (time.perf_counter() - began)


def _body(org: str) -> dict[str, Any]:
    return {
        "customer_id": org,
        "feature_id": "compute",
        "value": 60,
        "timestamp": T0,
        "idempotency_key": f"usage:{org}:{T0}:compute",
        "overage_behavior": "overflow",
        "properties": {"drawdown_key": f"usage:{org}:{T0}:compute"},
    }


def _bare(url: str, count: int) -> float:
    """The transport alone, as many calls at once as the provider is allowed."""
    bodies = iter([json.dumps(_body(f"org-{number}")).encode() for number in range(count)])
    headers = {"authorization": "Bearer x", "content-type": "application/json", "x-api-version": "2.3.0"}

    async def whole() -> float:
        http = HttpClient()
        began = time.perf_counter()

        async def work() -> None:
            for body in bodies:
                answer = await http.send(Call("POST", f"{url}/v1/track", headers, body))
                assert isinstance(answer, Answer) and answer.status == 200, answer

        await asyncio.gather(*(work() for _ in range(256)))
        took = time.perf_counter() - began
        await http.close()
        return count / took

    with asyncio.Runner(loop_factory=_loops()) as loop:
        return loop.run(whole())


def _loops() -> Callable[[], asyncio.AbstractEventLoop] | None:
    return runner._loop_factory()


def _rate(engine: sa.Engine, kind: str, count: int) -> Result:
    """How much of an allowed rate is used when catching up, by the service's own clock; never more than allowed."""
    with serving(20) as url:
        _ours(engine, url, count, RATE)
        arrivals = sorted(httpx.get(f"{url}/arrivals").json())
    assert len(arrivals) == count
    spans = [arrivals[at + RATE] - arrivals[at] for at in range(len(arrivals) - RATE)]
    busiest = max(sum(1 for one in arrivals if at <= one < at + 1000) for at in arrivals[:: max(count // 200, 1)])
    whole = arrivals[-1] - arrivals[0]
    share = 100 * (count / max(whole, 1.0)) * 1000 / RATE
    above = sum(1 for span in spans if span < 1000)
    figures = [
        Figure("share of the allowed rate", "%", [share], at_least=90.0),
        Figure("busiest second", "calls", [float(busiest)], float(RATE)),
        Figure("seconds above it", "", [float(above)], 0.0),
    ]
    compares = f"{count:,} pushes where {RATE} calls a second are allowed, as the service saw them arrive"
    return Result(f"push, at most {RATE}/s", kind, compares, figures, totals={"accepted": count})
