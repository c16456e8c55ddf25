"""How time and bytes grow with the tables: `python -m tests.benchmarks.growth 1 10 100`, in millions of samples.

Guarantee: each size has a PostgreSQL of its own, with the settings that it comes with, in a temporary folder that is
gone afterwards. The work is the same at each size: ticks that find nothing or 10,000 new samples, one day of 36 pruned
while ticks go on. CPU is that of this process and of all of the server's; seconds are those of a clock on the wall.
100 million samples take about 40 GB.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final, TypeVar

import sqlalchemy as sa

from drawdown.ledger.calendar import next_start
from drawdown.schema.audit import By
from drawdown.schema.database import connect, read, write
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.status.status import status
from drawdown.worker.tick import tick
from drawdown.worker.usage.prune import fold, prune
from drawdown.worker.verify.verify import verify
from tests.benchmarks.case_tick import world_of
from tests.benchmarks.databases import tidy
from tests.benchmarks.fleet import START_MS, clock, sealable_at
from tests.benchmarks.grown import TABLES, WINDOWS, Size, grow, use_new
from tests.postgres_server import Server

MILLION: Final = 1_000_000
BESIDE: Final = 3
"""Ticks beside a prune, at least: where it is over sooner, the later of them are by themselves."""
PROVEN: Final = 10 * MILLION
"""`verify` reads all there is: beyond this many samples it is left out."""
TICKS_S: Final = os.sysconf("SC_CLK_TCK")
Measured = dict[str, float]
R = TypeVar("R")


@dataclass(frozen=True)
class Took:
    """What some work cost: `wall_s` by the clock, `cpu_s` of ours and the server's processes."""

    wall_s: float
    cpu_s: float


class Meter:
    """Times work, and adds up the CPU of this process and of the server behind an engine."""

    def __init__(self, engine: sa.Engine) -> None:
        with engine.connect() as connection:
            backend = int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
        self._server = int(_stat(backend)[1])

    def __call__(self, work: Callable[[], object]) -> Took:
        began, cpu = time.perf_counter(), self._cpu_s()
        work()
        return Took(time.perf_counter() - began, self._cpu_s() - cpu)

    def _cpu_s(self) -> float:
        """Those of the server that have ended count with it, those that run each for itself."""
        ticks = sum(int(part) for part in _stat(self._server)[11:15])
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                stat = _stat(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            if int(stat[1]) == self._server:
                ticks += int(stat[11]) + int(stat[12])
        return ticks / TICKS_S + time.process_time()


def _stat(pid: int) -> list[str]:
    """The fields of a process that follow its name: its state, its parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def measure(engine: sa.Engine, size: Size) -> Measured:
    """All figures of one size, in an empty migrated database: seconds, CPU seconds, bytes."""
    began = time.perf_counter()
    pushes = grow(engine, size)
    tidy(engine)
    found = {"samples": float(size.samples), "filled_s": time.perf_counter() - began}
    found |= _bytes(engine, size.samples, pushes)
    print(f"{size.samples:,} samples are there after {found['filled_s']:,.0f} s", file=sys.stderr, flush=True)
    ticks = Ticks(engine, size, Meter(engine), count(WINDOWS))
    for new in (True, False):  # neither is measured as the first of its kind
        ticks.one(new=new)
    for name, new in (("idle_tick", False), ("new_tick", True)):
        found |= _middle(name, [ticks.one(new=new) for _ in range(size.runs)])
    now_ms = sealable_at(next(ticks.numbers))
    took = [ticks.meter(lambda: read(engine, partial(status, now_ms=now_ms))) for _ in range(size.runs)]
    found |= _middle("status", took) | _pruned(ticks) | _folded(ticks)
    if size.samples <= PROVEN:
        found |= _middle("verify", [ticks.meter(lambda: _prove(engine))])
    ticks = replace(ticks, numbers=count(next(ticks.numbers) + DAY_MS // WINDOW_MS))
    return found | _middle("sweeping_tick", [ticks.one(new=False) for _ in range(size.runs)])


def _middle(name: str, all_took: Sequence[Took]) -> Measured:
    return {
        f"{name}_s": median(took.wall_s for took in all_took),
        f"{name}_cpu_s": median(took.cpu_s for took in all_took),
    }


@dataclass(frozen=True)
class Ticks:
    """Ticks of one database, each a window after the one before."""

    engine: sa.Engine
    size: Size
    meter: Meter
    numbers: Iterator[int]

    def one(self, *, new: bool) -> Took:
        """Seal the next window, with new samples or none; what it cost."""
        number = next(self.numbers)
        pushes = use_new(self.engine, self.size, number) if new else 0
        context, world = world_of(self.engine, clock(number))

        def once() -> None:
            report = runner.run(tick(context), world)
            assert (report.exit_status, report.accepted) == (0, pushes), report

        return self.meter(once)


def _pruned(ticks: Ticks) -> Measured:
    """The first day is pruned while ticks with new samples go on beside it: at least three, whenever it is over."""
    transactions: list[float] = []
    by = By(sealable_at(next(ticks.numbers)), "bench", "a benchmark")

    def transact(work: Callable[[sa.Connection], R], *, rollback: bool = False) -> R:
        began = time.perf_counter()
        answer = write(ticks.engine, work, rollback=rollback)
        transactions.append(time.perf_counter() - began)
        return answer

    def whole() -> tuple[int, float]:
        began = time.perf_counter()
        return prune(transact, START_MS + DAY_MS, by).samples, time.perf_counter() - began

    with ThreadPoolExecutor(1) as other:
        pruning = other.submit(whole)
        beside = [ticks.one(new=True).wall_s]
        while not pruning.done() or len(beside) < BESIDE:
            beside.append(ticks.one(new=True).wall_s)
        pruned, prune_s = pruning.result()
    return {
        "pruned": pruned,
        "prune_s": prune_s,
        "prune_longest_transaction_s": max(transactions),
        "prune_us_a_sample": 1e6 * prune_s / pruned,
        "tick_beside_prune_s": median(beside),
        "tick_beside_prune_worst_s": max(beside),
        "vacuum_after_s": ticks.meter(lambda: tidy(ticks.engine)).wall_s,
    }


def _folded(ticks: Ticks) -> Measured:
    """The day that was pruned is folded, as if thirteen months had gone by; its sums are proven with the rest."""
    by = By(START_MS + 500 * DAY_MS, "bench", "a benchmark")
    folded = 0

    def once() -> None:
        nonlocal folded
        folded = fold(partial(write, ticks.engine), next_start(START_MS), by).pushes

    took = ticks.meter(once)
    with ticks.engine.connect() as connection:
        sums, size = connection.exec_driver_sql(
            "SELECT COUNT(*), pg_total_relation_size('folded_pushes') FROM folded_pushes"
        ).one()
    return {
        "folded": folded,
        "fold_s": took.wall_s,
        "fold_us_a_push": 1e6 * took.wall_s / folded,
        "fold_cpu_us_a_push": 1e6 * took.cpu_s / folded,
        "folded_pushes_a_sum": folded / sums,
        "bytes_a_sum": size / sums,
    }


def _prove(engine: sa.Engine) -> None:
    found = read(engine, verify)
    assert not found.breaches, found.breaches[:3]


def _bytes(engine: sa.Engine, samples: int, pushes: int) -> Measured:
    """Bytes a row, with those of its indexes: of a sample, and of a push with its attempt and its entry."""

    def size(table: str) -> int:
        text = f"SELECT pg_total_relation_size('{table}')"
        return int(read(engine, lambda connection: connection.exec_driver_sql(text).scalar_one()))

    sizes = {table: size(table) for table in TABLES}
    return {
        "bytes_a_sample": sizes["usage_samples"] / samples,
        "bytes_a_push": sizes["pushes"] / pushes,
        "bytes_a_push_with_attempt_and_entry": sum(sizes[table] for table in TABLES[1:]) / pushes,
    }


def exponents(sizes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By which power of the number of samples each figure grows: the line of least squares through the logarithms."""
    xs = [math.log(size["samples"]) for size in sizes]
    middle_x = sum(xs) / len(xs)
    spread = sum((x - middle_x) ** 2 for x in xs)
    names = [name for name in sizes[0] if all(size.get(name, 0) > 0 for size in sizes)] if spread else []
    return {
        name: sum((x - middle_x) * math.log(size[name]) for x, size in zip(xs, sizes, strict=True)) / spread
        for name in names
    }


def table(sizes: Sequence[Mapping[str, float]]) -> str:
    """Figures as rows, sizes as columns, the exponent last."""
    powers = exponents(sizes)
    rows = []
    for name in dict.fromkeys(name for size in sizes for name in size):
        cells = [f"{size[name]:,.4g}" if name in size else "-" for size in sizes]
        power = "exponent" if name == "samples" else f"{powers[name]:.2f}" if name in powers else "-"
        rows.append(f"| {name:36} | " + " | ".join(f"{cell:>10}" for cell in [*cells, power]) + " |")
    return "\n".join(rows)


def main(millions: Sequence[float]) -> None:
    sizes = []
    for one in millions:
        server = Server(durable=True, on_disk=True)
        try:
            engine = connect(server.url)
            upgrade(engine)
            sizes.append(measure(engine, Size(int(one * MILLION))))
            engine.dispose()
        finally:
            server.close()
        print(json.dumps(sizes[-1]), flush=True)
    print(table(sizes))


if __name__ == "__main__":
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    main([float(argument) for argument in sys.argv[1:]] or [1.0])
