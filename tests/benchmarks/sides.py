"""An older commit and this tree side by side, with the seed's way beside both: one table, on SQLite and on PostgreSQL.

python -m tests.benchmarks.sides [--before REF] [--only NAME ...] [--orgs N] [--runs N] [--quick]

Guarantee: what is compared was measured in turn: seed's way, before, after, each tree in a process of its own. Each
number is the median of its runs, with the least and the most. A cell says how much was done where the rest is reckoned.
SIGTERM and Ctrl-C leave neither a process nor a folder behind.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from tests import leftovers
from tests.benchmarks import case_processes, case_stream, case_workers, sides_seed
from tests.benchmarks.databases import KINDS, Databases, databases, url_of
from tests.benchmarks.fleet import scaled
from tests.benchmarks.quick_server import serving
from tests.benchmarks.sides_table import FASTER, HEADINGS, Goal, Line, of_figure, row, short
from tests.benchmarks.sides_trees import Failed, Found, Tree, end_on_signals, older, present

LATENCIES_MS: Final = (0, 20)
TICKS: Final = 30
"""Of each life that is simulated."""
CASES: Final = ("seal", "credit", "events", "guard")
"""Of `make bench`: what the other figures do not hold."""
NO_DATABASE: Final = "in memory"
START: Final = Goal("after", 0.35, at_most=True)
RATE: Final = re.compile(r"(\d+) ticks a second and core")


@dataclass(frozen=True)
class Sizes:
    """How much of each is done; the seed's way does less, and the rest of it is reckoned."""

    runs: int = 3
    ticks: int = 1
    """Runs of the tick: what asks for each customer at 200 a second needs a minute for each."""
    orgs: int = 10_000
    seed_orgs: Sequence[int] = (1_000, 100)
    """By latency."""
    pushes: int = 10_000
    seed_pushes: int = 120
    windows: int = 1_000
    seed_trace: int = 2_000
    seeds: int = 8
    after: float = 0.5
    """The scale of what is measured on this tree alone."""
    case_scale: float = 0.2
    """The scale of the cases of `make bench`."""


QUICK: Final = Sizes(1, 1, 50, (20, 5), 300, 5, 10, 20, 1, 0.02, 0.001)


@dataclass(frozen=True)
class Sides:
    """What all figures are taken with."""

    made: Databases
    services: dict[int, str]
    """By latency."""
    trees: Sequence[Tree]
    """Before and after, or this tree alone."""
    sizes: Sizes

    def bare(self, kind: str) -> str:
        """The URL of a database with nothing in it."""
        return url_of(self.engine(kind).url)

    def engine(self, kind: str) -> sa.Engine:
        return self.made.bare(kind)


Values = dict[str, dict[str, list[float]]]
"""By name and way."""


def gathered() -> Values:
    return defaultdict(lambda: defaultdict(list))


def keep(values: Values, way: str, found: Found) -> None:
    for name, number in found.items():
        values[name][way].append(number)


def line(figure: str, kind: str, values: dict[str, list[float]], goal: Goal | None = None, said: str = "") -> Line:
    return Line(figure, kind, values["after"], values["before"], values["seed"], goal, said)


def ticks(sides: Sides, kind: str) -> Iterator[Line]:
    """Ticks of organisations at Autumn that a tick met before; that one counts for none, and is held to no rate."""
    sizes = sides.sizes
    trees = {tree: sides.bare(kind) for tree in sides.trees}
    seeds = sides.made.new(kind)
    sides_seed.prepare(seeds, max(sizes.seed_orgs))
    values = {latency_ms: gathered() for latency_ms in LATENCIES_MS}
    number = 0
    for tree, url in trees.items():
        tree.measure("tick", url=url, service=sides.services[0], orgs=sizes.orgs, number=0)
    for _ in range(sizes.ticks):
        for latency_ms, count in zip(LATENCIES_MS, sizes.seed_orgs, strict=True):
            number += 1
            service, found = sides.services[latency_ms], values[latency_ms]
            done, times = sides_seed.bill(seeds, service, count, asks=True), sizes.orgs / count
            all_of_it = {"s": done.s * times, "cpu_s": done.cpu_s * times, "reads": sizes.orgs, "pushes": sizes.orgs}
            keep(found, "seed", all_of_it)
            for tree, url in trees.items():
                asked = {"url": url, "service": service, "orgs": sizes.orgs, "number": number}
                keep(found, tree.name, tree.measure("tick", **asked))
    for (latency_ms, found), count in zip(values.items(), sizes.seed_orgs, strict=True):
        what = f"tick of {sizes.orgs:,} organisations at Autumn, {latency_ms} ms: "
        yield line(f"{what}s", kind, found["s"], FASTER, f"{count:,} done")
        yield line(f"{what}s of CPU", kind, found["cpu_s"], FASTER, f"{count:,} done")
        yield line(f"{what}reads", kind, found["reads"], None, f"{count:,} done")
        yield line(f"{what}pushes", kind, found["pushes"], None, f"{count:,} done")
        yield line(f"{what}% of the time with pushes", kind, found["push_share"])
        yield line(f"{what}% with reads and no push", kind, found["project_share"])


def pushes(sides: Sides, kind: str) -> Iterator[Line]:
    """Pushes that are due at a service that takes 20 ms, by one process, and the bare transport of each tree."""
    sizes, service, values = sides.sizes, sides.services[20], gathered()
    trees = {tree: sides.bare(kind) for tree in sides.trees}
    seeds = sides.made.new(kind)
    sides_seed.prepare(seeds, sizes.seed_pushes)
    for number in range(sizes.runs):
        done = sides_seed.bill(seeds, service, sizes.seed_pushes, asks=False)
        keep(values, "seed", {"rate": done.count / done.s, "cpu_us": done.cpu_s * 1e6 / done.count})
        for tree, url in trees.items():
            asked = {"url": url, "service": service, "count": sizes.pushes, "number": number}
            keep(values, tree.name, tree.measure("push", **asked))
    said = f"of {sizes.seed_pushes:,}"
    yield line(f"{sizes.pushes:,} pushes at 20 ms: a second", kind, values["rate"], Goal("after/seed", 100), said)
    yield line("us of CPU a push", kind, values["cpu_us"], Goal("after/before", 0.5, at_most=True), said)
    yield line("bare transport: calls/s", kind, values["bare_rate"])
    for tree, whose in zip(sides.trees, ("the older commit's", "this tree's")[-len(sides.trees) :], strict=True):
        bare = values["bare_rate"][tree.name]
        shares = {way: _percent(rates, bare) for way, rates in values["rate"].items() if rates}
        yield line(f"% of {whose} bare transport, at 20 ms", kind, defaultdict(list, shares), Goal("after", 70))


def _percent(rates: Sequence[float], bare: Sequence[float]) -> list[float]:
    """Of each round."""
    return [100 * rate / most for rate, most in zip(rates, bare, strict=True)]


def traces(sides: Sides, kind: str) -> Iterator[Line]:
    """The trace in one tick, from a new database each time. The seed's way has no ledger: it asks a service."""
    sizes, values, count = sides.sizes, gathered(), 0
    seeds = sides.made.new(kind)
    sides_seed.prepare(seeds, sizes.seed_trace)
    for _ in range(sizes.runs):
        done = sides_seed.bill(seeds, sides.services[0], sizes.seed_trace, asks=False)
        keep(values, "seed", {"rate": done.count / done.s, "cpu_us": done.cpu_s * 1e6 / done.count})
        for tree in sides.trees:
            engine = sides.engine(kind)
            loaded = tree.measure("load", url=url_of(engine.url), windows=sizes.windows)
            count = int(loaded["pushes"])
            found = tree.measure("settle", url=url_of(engine.url), windows=sizes.windows, pushes=count)
            keep(values, tree.name, {**found, "cpu_us": found["cpu_s"] * 1e6 / count})
            sides.made.drop(engine)
    what, said = f"trace of {count:,} pushes at the embedded ledger: ", f"of {sizes.seed_trace:,}"
    yield line(f"{what}pushes/s", kind, values["rate"], Goal("after/before", 2.5), said)
    yield line(f"{what}us of CPU a push", kind, values["cpu_us"], FASTER, said)
    yield line(f"{what}MB at most", kind, values["peak_mb"], FASTER)


def starts(sides: Sides, kind: str) -> Iterator[Line]:
    """Commands on an empty database, by the user time of their processes; the first run of each compiles."""
    trees = {tree: sides.bare(kind) for tree in sides.trees}
    for tree, url in trees.items():
        tree.measure("empty", url=url)
    for command in ("status", "tick"):
        values = gathered()
        for number in range(-1, sides.sizes.runs + 2):
            for tree, url in trees.items():
                used = tree.user_s(command, {"DRAWDOWN_DATABASE_URL": url, "DRAWDOWN_LOG_LEVEL": "ERROR"})
                if number >= 0:
                    keep(values, tree.name, {"user_s": used})
        yield line(f"`drawdown {command}`, nothing to do: s of user time", kind, values["user_s"], START)


def simulations(sides: Sides, kind: str) -> Iterator[Line]:
    """Lives of each tree's own simulation: the newer one has more in it. Once for all databases."""
    if kind != KINDS[0]:
        return
    values = gathered()
    for _ in range(sides.sizes.runs):
        for tree in sides.trees:
            said = RATE.search(tree.simulate(sides.sizes.seeds, TICKS))
            assert said is not None, "the simulation says how fast it was"
            keep(values, tree.name, {"rate": float(said[1])})
    yield line(
        f"simulation, {sides.sizes.seeds} lives: ticks/s and core", NO_DATABASE, values["rate"], Goal("after/before", 3)
    )


def cases(sides: Sides, kind: str) -> Iterator[Line]:
    """Cases of each tree's own `make bench`: their figures by name, as far as both trees have them."""
    for case in CASES:
        values = gathered()
        try:
            _measure_case(sides, kind, case, values)
        except Failed as error:  # an older commit's case need not run today
            if error.tree == sides.trees[-1].name:
                raise
            print(f"{case} on {kind} cannot be compared: {error}", file=sys.stderr, flush=True)
            continue
        for name, found in values.items():
            if len(found) == len(sides.trees):
                yield line(name, kind, found)


def _measure_case(sides: Sides, kind: str, case: str, values: Values) -> None:
    for _ in range(sides.sizes.runs):
        for tree in sides.trees:
            for result in tree.bench(case, kind, sides.sizes.case_scale):
                for figure in result["figures"]:
                    name = f"`make bench` ({result['case']}): {figure['name']} {figure['unit']}".rstrip()
                    values[name][tree.name].append(figure["median"])


def alone(sides: Sides, kind: str) -> Iterator[Line]:
    """What the older tree has not: two processes, Stripe's stream, two workers."""
    scale, runs = sides.sizes.after, max(sides.sizes.runs - 1, 1)
    count = max(int(20_000 * scale), 100)
    for found in case_processes.run(sides.made, kind, scaled(scale / 10), count, runs):
        near = replace(found.figure("times as fast by 2"), at_least=1.8)
        yield of_figure(f"`--processes 2`, {found.case}: times as fast as 1", kind, near)
    stream = case_stream.run(sides.made, kind, scale, runs)[0]
    yield of_figure("Stripe's stream, 20 ms: events/s", kind, stream.figure("settled by the stream"))
    if kind == "postgresql":
        workers = case_workers.run(sides.made, count // 2, runs)[0]
        yield of_figure("two workers, 200 ms: times as fast as one", kind, workers.figure("times as fast by 2"))


FIGURES: Final[dict[str, Callable[[Sides, str], Iterator[Line]]]] = {
    "push": pushes,
    "trace": traces,
    "start": starts,
    "simulation": simulations,
    "cases": cases,
    "alone": alone,
    "tick": ticks,
}
"""The slowest last: of a run that is broken off, the others stand."""


def measured(ref: str | None, only: Sequence[str], kinds: Sequence[str], sizes: Sizes) -> Generator[Line, None, None]:
    """All lines as they are found, those of one figure beside each other."""
    with ExitStack() as stack:
        made = stack.enter_context(databases(kinds))
        services = {latency_ms: stack.enter_context(serving(latency_ms)) for latency_ms in LATENCIES_MS}
        folder = leftovers.folder("drawdown-sides-", on_disk=True)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        sides = Sides(made, services, (*([older(ref, folder)] if ref else ()), present(folder)), sizes)
        for tree in sides.trees:
            print(f"{tree.name}: {tree.said}", file=sys.stderr, flush=True)
        for name, figure in FIGURES.items():
            if name in only:
                began = time.perf_counter()
                found = [one for kind in kinds for one in figure(sides, kind)]
                print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
                yield from sorted(found, key=partial(_first_told, [one.figure for one in found]))


def _first_told(names: Sequence[str], one: Line) -> int:
    return names.index(one.figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, also where a goal is not met: a benchmark reports, on a machine it does not know."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--before", help="the older commit; without it, this tree alone")
    asked.add_argument("--only", nargs="+", choices=sorted(FIGURES), default=list(FIGURES), help="some figures")
    asked.add_argument("--database", choices=KINDS, help="one kind of database")
    asked.add_argument("--orgs", type=int, help="organisations of a tick at Autumn (10,000)")
    asked.add_argument("--runs", type=int, help="of each in turn (3); the tick at Autumn has a third of it")
    asked.add_argument("--quick", action="store_true", help="tiny sizes: that it runs, not how fast")
    given = asked.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    end_on_signals()
    sizes = QUICK if given.quick else Sizes()
    if given.orgs:
        sizes = replace(sizes, orgs=given.orgs)
    if given.runs:
        sizes = replace(sizes, runs=given.runs, ticks=max(given.runs // 3, 1))
    began, load = time.perf_counter(), os.getloadavg()[0]
    print(*map(row, HEADINGS), sep="\n")
    kinds = (given.database,) if given.database else KINDS
    with closing(measured(given.before, given.only, kinds, sizes)) as lines:
        for one in lines:
            print(row(one.cells(judged=not given.quick)), flush=True)
    print(f"\n{os.cpu_count()} cores, load {short(load)} at the begin and {short(os.getloadavg()[0])} at the end")
    print(f"{time.perf_counter() - began:.0f} s in all; each number the median of its runs [least, most]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
