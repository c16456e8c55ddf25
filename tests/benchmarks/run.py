"""make bench: how fast, how small, beside what. Ratios of one run on one machine; see each case's baseline.

python -m tests.benchmarks.run [--scale 1.0] [--only NAME] [--database KIND] [--runs N] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from drawdown.cli.main import search_seldom
from tests.benchmarks import (
    case_beside,
    case_console,
    case_credit,
    case_doors,
    case_events,
    case_gate,
    case_guard,
    case_hot,
    case_idle,
    case_import,
    case_mature,
    case_memory,
    case_money,
    case_processes,
    case_push,
    case_reads,
    case_seal,
    case_start,
    case_stream,
    case_tick,
    case_transfers,
    case_workers,
)
from tests.benchmarks.databases import KINDS, Databases, databases
from tests.benchmarks.fleet import scaled
from tests.benchmarks.measure import Result

IMPORT_ROWS: Final = 200_000
IDLE_ORGS: Final = 100_000
FEWEST: Final = 50


@dataclass(frozen=True)
class Options:
    """How much of it to run. At scale 1 a window holds a million samples, the backlog ten million, and a
    million runs hold credit."""

    scale: float = 1.0
    only: str = ""
    kinds: Sequence[str] = KINDS
    runs: int = 7


Case = Callable[[Databases, str, Options], list[Result]]
CASES: Final[dict[str, Case]] = {
    "seal": lambda made, kind, o: [case_seal.run(made, kind, scaled(o.scale), o.runs)],
    "import": lambda made, kind, o: [
        case_import.run(made, kind, max(int(IMPORT_ROWS * o.scale), FEWEST), min(o.runs, 3))
    ],
    "tick": lambda made, kind, o: case_tick.run(made, kind, scaled(o.scale), min(o.runs, 3)),
    "push": lambda made, kind, o: case_push.run(made, kind, o.scale, min(o.runs, 3)),
    "reads": lambda made, kind, o: case_reads.run(made, kind, o.scale, min(o.runs, 3)),
    "stream": lambda made, kind, o: case_stream.run(made, kind, o.scale, min(o.runs, 3)),
    "beside": lambda made, kind, o: case_beside.run(made, kind, o.scale, min(o.runs, 3)),
    "idle": lambda made, kind, o: [case_idle.run(made, kind, max(int(IDLE_ORGS * o.scale), FEWEST), o.runs)],
    "gate": lambda made, kind, o: case_gate.run(made, kind, scaled(o.scale / 10), o.runs),
    "doors": lambda made, kind, o: case_doors.run(made, kind, scaled(o.scale / 10), o.scale),
    "events": lambda made, kind, o: case_events.run(made, kind, o.scale, min(o.runs, 5)),
    "guard": lambda made, kind, o: case_guard.run(made, kind, scaled(o.scale / 10), o.scale, o.runs),
    "credit": lambda made, kind, o: case_credit.run(made, kind, o.scale, min(o.runs, 5)),
    "hot": lambda made, kind, o: case_hot.run(made, kind, o.scale, min(o.runs, 3)),
    "money": lambda made, kind, o: case_money.run(made, kind, o.scale),
    "mature": lambda made, kind, o: case_mature.run(made, kind, o.scale, min(o.runs, 3)),
    "transfers": lambda made, kind, o: case_transfers.run(made, kind, o.scale, min(o.runs, 3)),
    "console": lambda made, kind, o: case_console.run(made, kind, o.scale, min(o.runs, 3)),
    "memory": lambda made, kind, o: case_memory.run(made, kind, scaled(o.scale), min(o.runs, 5)),
    "processes": lambda made, kind, o: case_processes.run(
        made, kind, scaled(o.scale), max(int(10_000 * o.scale), FEWEST), min(o.runs, 3)
    ),
    "workers": lambda made, _kind, o: case_workers.run(made, max(int(5_000 * o.scale), FEWEST), min(o.runs, 3)),
    "start": lambda made, kind, o: case_start.run(made, kind, o.runs),
}
"""`tick` gives also `ledger`, `memory` also `seal_of_many`; `hot`, `guard` and `money` give two, `events` three;
`credit` gives `check` and `reserve`, `transfers` gives `mix` and `rows`; `console` gives files, and the gate beside
clicks, too; `start` gives two; `processes` gives also pushes that are sent; `workers` is always of PostgreSQL."""


def results(options: Options) -> Iterator[Result]:
    """Every case asked for, on every database, as it ends."""
    with databases(options.kinds) as made:
        for name, case in CASES.items():
            if options.only not in ("", name):
                continue
            for kind in options.kinds:
                yield from case(made, kind, options)


def show(result: Result, scale: float) -> str:
    lines = [f"{result.case} on {result.database}: {result.compares}"]
    if result.baseline:
        lines += ["  baseline:", *(f"    {line}" for line in result.baseline.splitlines())]
    lines += [f"  {figure.text(judged=scale >= 1)}" for figure in result.figures]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, also where a goal is not met: a benchmark reports, on a machine it does not know."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--scale", type=float, default=1.0, help="1: a million samples a window, ten million in all")
    asked.add_argument("--only", choices=sorted(CASES), default="", help="one case")
    asked.add_argument("--database", choices=KINDS, help="one kind of database")
    asked.add_argument("--runs", type=int, default=7, help="alternating runs of what is compared")
    asked.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = asked.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    options = Options(given.scale, given.only, (given.database,) if given.database else KINDS, given.runs)
    began, found = time.perf_counter(), []
    for result in results(options):
        found.append(result.as_json())
        print(show(result, options.scale), file=sys.stderr if given.json else sys.stdout, flush=True)
    if given.json:
        print(json.dumps({"scale": options.scale, "seconds": time.perf_counter() - began, "results": found}, indent=2))
    return 0


if __name__ == "__main__":
    search_seldom()  # as each command does
    sys.exit(main())
