"""One figure of whichever tree this runs in: this file is run by the Python of either, and both have to understand it.

python -P sides_script.py WHAT OPTIONS: OPTIONS is a JSON object; one of numbers is printed. All that differs between
the trees stands in `ADAPTERS`; nothing else of them is used than what both have by the same name.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
import structlog

from drawdown.providers.autumn import build
from drawdown.providers.http import Answer, Call
from drawdown.providers.protocol import Setup
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, write
from drawdown.schema.migrate import bucket_of, upgrade
from drawdown.worker.tick import tick as whole_tick
from tests.benchmarks import case_tick, fleet
from tests.benchmarks.databases import tidy
from tests.benchmarks.steps import step_of
from tests.world import Cells

ADAPTERS: Final = {
    "By": ("drawdown.schema.audit:By", "drawdown.worker.orgs:Said"),
    "map_size": (
        "drawdown.worker.features.actions:map_size",
        "drawdown.worker.commands.features:map_size",
        "drawdown.worker.features:map_size",
    ),
    "HttpClient": ("drawdown.providers.http.client:HttpClient", "drawdown.providers.http_client:HttpClient"),
    "runner": ("drawdown.worker.engine.runner:", "drawdown.worker.runner:"),
    "Context": ("drawdown.worker.engine.context:Context", "drawdown.worker.context:Context"),
    "search_seldom": ("drawdown.cli.main:search_seldom",),
    "Together": (
        "drawdown.worker.engine.effects:RunTogether",
        "drawdown.worker.engine.effects:Together",
        "drawdown.worker.effects:Together",
    ),
    "push": ("drawdown.worker.push.push:push", "drawdown.worker.push:push"),
}
"""Each with its places, the newest first."""
ORDER: Final = ("push", "project", "seal", "dispatch")
"""Of steps that go on at once, the one that the time is said to go to."""
AT_ONCE: Final = 256
SAMPLES_A_PUSH: Final = 3
TRACE_ORGS: Final = 216
"""Users of the Large Hadron Collider's Computing Grid in its trace of eleven days."""
SAMPLES: Final = (2, 3, 3, 5)
_SAMPLE = (
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
    "VALUES (:id, :org, :org, 'cell-0', :mb, :s, :ts, :ts)"
)
Found = dict[str, float]


def adapted(name: str) -> Any:
    """What this tree calls so."""
    for place in ADAPTERS[name]:
        module, _, attribute = place.partition(":")
        try:
            found = importlib.import_module(module)
            return getattr(found, attribute) if attribute else found
        except (ModuleNotFoundError, AttributeError):
            continue
    raise LookupError(f"this tree has no {name}: {ADAPTERS[name]}")


class Counting:
    """A tree's own transport, with the calls counted by the end of their route."""

    def __init__(self) -> None:
        self._http = adapted("HttpClient")()
        self.calls: Counter[str] = Counter()

    async def send(self, call: Call) -> Any:
        self.calls[call.url.rpartition("/")[2]] += 1
        return await self._http.send(call)

    async def close(self) -> None:
        await self._http.close()


def autumn(engine: sa.Engine, service: str, now: FixedClock, http: Any, *, held: bool = True) -> tuple[Any, Any]:
    """A worker that bills at Autumn, with no limit of pushes a second: its context and its world. Reads are held to
    what the tree itself declares, unless it is not `held`."""
    settings = {"secret_key": "am_sk_test_benchmark", "url": service, "calls_per_s": "1000000"}
    provider = build(Setup("autumn", {**settings, "balance_feature": "compute"}, now, http, engine))
    if not held:
        provider.capabilities = replace(provider.capabilities, reads_per_s=None)
    context = adapted("Context")("bench", now, {"autumn": provider.capabilities})
    return context, adapted("runner").World(engine, {"autumn": provider}, Cells(), now, http)


def timed(work: Callable[[], Any]) -> tuple[Any, Found]:
    """What it gives, its seconds, and its seconds of this process's CPU."""
    began, cpu = time.perf_counter(), time.process_time()
    done = work()
    return done, {"s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


@contextmanager
def divided() -> Iterator[Counter[str]]:
    """The seconds of all that is done meanwhile, by its step: where several go on at once, by the first of `ORDER`."""
    runner, spent, going, since = adapted("runner"), Counter[str](), Counter[str](), time.perf_counter()
    inner = runner._do

    def note() -> None:
        nonlocal since
        before, since = since, time.perf_counter()
        spent[next((step for step in ORDER if going[step]), "other")] += since - before  # type: ignore[assignment]

    async def do(effect: Any, *more: Any) -> Any:
        step = step_of(effect)
        note()
        going[step] += 1
        try:
            return await inner(effect, *more)
        finally:
            note()
            going[step] -= 1

    runner._do = do
    try:
        yield spent
    finally:
        runner._do = inner
        note()


def empty(url: str) -> Found:
    """An empty database of this tree's."""
    upgrade(connect(url))
    return {}


def tick(url: str, service: str, orgs: int, number: int) -> Found:
    """A tick in which each organisation, billed at Autumn, used one window; the first of a database, number 0, meets
    all of them and does not count."""
    engine = connect(url)
    if number == 0:
        upgrade(engine)
        write(engine, lambda connection: _bill_at_autumn(connection, orgs))
    start = fleet.window(number)
    rows = [
        {"id": f"s{start}-{org}-{at}", "org": f"org-{org}", "mb": 1024, "s": 1, "ts": start + at}
        for org in range(orgs)
        for at in range(SAMPLES_A_PUSH)
    ]
    write(engine, lambda connection: connection.execute(sa.text(_SAMPLE), rows))
    tidy(engine)
    http = Counting()
    context, world = autumn(engine, service, fleet.clock(number), http, held=number > 0)
    with divided() as spent:
        report, found = timed(lambda: adapted("runner").run(whole_tick(context), world))
    assert (report.sealed, report.accepted, report.left.due) == (orgs, orgs, 0), report
    shares = {f"{step}_share": 100 * spent[step] / found["s"] for step in ("push", "project")}
    return {**found, **shares, "reads": http.calls["customers.get"], "pushes": http.calls["track"]}


_ASSIGNMENT: Final = (
    "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
    "VALUES (:org, 0, 'autumn', :org, 0, 'bench', 'a benchmark')"
)


def _bill_at_autumn(connection: sa.Connection, orgs: int) -> None:
    adapted("map_size")(
        connection, "compute", adapted("By")(0, "bench", "a benchmark"),
        kind="exact", memory_mb=1024, unit="s", from_ms=0, confirmed=True,
    )  # fmt: skip
    rows = [{"org": f"org-{number}", "bucket": bucket_of(f"org-{number}")} for number in range(orgs)]
    for text in ("INSERT INTO orgs (org_id, bucket, billing_provider) VALUES (:org, :bucket, 'autumn')", _ASSIGNMENT):
        connection.execute(sa.text(text), rows)
    watermark = "UPDATE buckets SET watermark_ms = :w, sweep_next_ms = :w, sweep_began_ms = :w"
    connection.execute(sa.text(watermark), {"w": fleet.START_MS})


def push(url: str, service: str, count: int, number: int) -> Found:
    """Pushes that are due, claimed, sent and settled; then as many calls by the tree's bare transport."""
    engine = connect(url)
    if number == 0:
        upgrade(engine)
    write(engine, lambda connection: _due(connection, count, number))
    tidy(engine)
    now = FixedClock(fleet.START_MS + 600_000)
    context, world = autumn(engine, service, now, adapted("HttpClient")())
    lane = adapted("push")

    def steps() -> Iterator[Any]:
        return (yield adapted("Together")([lane(context, "autumn"), lane(context, "autumn")]))

    done, found = timed(lambda: adapted("runner").run(steps(), world))
    assert sum(one.accepted for one in done) == count, done
    with asyncio.Runner(loop_factory=adapted("runner")._loop_factory()) as loop:
        bare_s = loop.run(_bare(service, count))
    return {"rate": count / found["s"], "bare_rate": count / bare_s, "cpu_us": found["cpu_s"] * 1e6 / count}


def _due(connection: sa.Connection, count: int, number: int) -> None:
    names = [f"org-{number}-{at}" for at in range(count)]
    rows = [{"org": org, "bucket": bucket_of(org), "key": f"usage:{org}:{fleet.START_MS}:compute"} for org in names]
    # Customers that were read before.
    orgs = f"INSERT INTO orgs (org_id, bucket, balance_read_ms) VALUES (:org, :bucket, {fleet.START_MS})"
    for text in (orgs, _ASSIGNMENT):
        connection.execute(sa.text(text), rows)
    columns = "sealed_qty, sent_qty, key, sealed_at_ms, seal_id, state, due_at_ms"
    connection.execute(
        sa.text(
            f"INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, {columns}) VALUES "
            f"({fleet.START_MS}, :org, 'compute', 0, 'autumn', :org, 60, 60, :key, {fleet.START_MS}, 0, 'due', "
            f"{fleet.START_MS})"
        ),
        rows,
    )


HEADERS: Final = {"authorization": "Bearer x", "content-type": "application/json", "x-api-version": "2.3.0"}


def _bodies(count: int) -> Iterator[bytes]:
    for number in range(count):
        key = f"usage:org-{number}:{fleet.START_MS}:compute"
        asked = {"customer_id": f"org-{number}", "feature_id": "compute", "value": 60, "timestamp": fleet.START_MS}
        more = {"idempotency_key": key, "overage_behavior": "overflow", "properties": {"drawdown_key": key}}
        yield json.dumps({**asked, **more}).encode()


async def _bare(service: str, count: int) -> float:
    http, bodies = adapted("HttpClient")(), iter(list(_bodies(count)))
    began = time.perf_counter()

    async def work() -> None:
        for body in bodies:
            answer = await http.send(Call("POST", f"{service}/v1/track", HEADERS, body))
            assert isinstance(answer, Answer) and answer.status == 200, answer

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    took = time.perf_counter() - began
    await http.close()
    return took


def trace(windows: int) -> Iterator[dict[str, Any]]:
    """Samples with the shape of the trace: few organisations, a few of which use nearly all, 55 pushes a window and 3.3
    samples a push at most times. The same for the same number."""
    drawn = random.Random(17)
    names = range(TRACE_ORGS)
    weights = [1 / (name + 1) for name in names]
    for number in range(windows):
        for org, mb in sorted(
            set(zip(drawn.choices(names, weights, k=88), drawn.choices((1024, 4096), k=88), strict=True))
        ):
            for at in range(drawn.choice(SAMPLES)):
                ts = fleet.window(number) + at * 60_000
                yield {"id": f"s{ts}-{org}-{mb}", "org": f"org-{org}", "mb": mb, "s": 60, "ts": ts}


def load(url: str, windows: int) -> Found:
    """The trace in a database of its own, where the embedded ledger bills it; how many samples and pushes that is."""
    engine = connect(url)
    upgrade(engine)
    fleet.settle_in(engine, TRACE_ORGS)
    fleet.give_credit(engine, TRACE_ORGS)
    rows = list(trace(windows))
    write(engine, lambda connection: connection.execute(sa.text(_SAMPLE), rows))
    tidy(engine)
    return {"samples": len(rows), "pushes": len({(one["org"], one["mb"], one["ts"] // 300_000) for one in rows})}


def settle(url: str, windows: int, pushes: int) -> Found:
    """The whole trace in one tick, and the most memory that its process held."""
    engine = connect(url)
    context, world = case_tick.world_of(engine, fleet.clock(windows - 1))
    report, found = timed(lambda: adapted("runner").run(whole_tick(context), world))
    assert (report.sealed, report.accepted, report.left.due) == (pushes, pushes, 0), report
    from tests.benchmarks.drain import peak_mb

    return {**found, "rate": pushes / found["s"], "peak_mb": peak_mb()}


FIGURES: Final[dict[str, Callable[..., Found]]] = {
    "empty": empty,
    "tick": tick,
    "push": push,
    "load": load,
    "settle": settle,
}


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    what, options = sys.argv[1:]
    with suppress(LookupError):
        adapted("search_seldom")()  # as each command does; the older tree's commands did not
    found = FIGURES[what](**json.loads(options))
    print(json.dumps({**found, "tree": str(Path(sys.modules["drawdown.worker.tick"].__file__ or "").resolve())}))


if __name__ == "__main__":
    main()
