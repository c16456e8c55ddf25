"""`python -m tests.simulation.run --seeds 200 --ticks 30 --start 0`: run seeds on all cores, count all that went wrong.

Guarantee: memory does not grow with the number of seeds; a seed that fails prints the line that repeats it, and what
led there; the exit status is 1 if one failed, or if a kind of fault struck less than `--at-least` times.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import structlog

from tests.simulation.kinds import KINDS, OF_THEIR_OWN, by_kind
from tests.simulation.scheduler import Outcome, simulate

SEEDS_A_PROCESS = 250
"""Then a new one takes its place: whatever a library keeps is gone."""
MOST_FAILURES = 20
SAY_EVERY_S = 30.0
SELDOM = 100_000
"""New objects before Python looks for circles among them: looking took a twentieth of a life's time."""


@dataclass
class Tally:
    """What all runs came to."""

    seeds: int = 0
    ticks: int = 0
    effects: int = 0
    pushes: int = 0
    cpu_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, cpu_s: float) -> None:
        self.seeds, self.ticks = self.seeds + 1, self.ticks + outcome.ticks
        self.effects, self.pushes = self.effects + outcome.effects, self.pushes + outcome.pushes
        self.cpu_s += cpu_s
        self.kinds.update(by_kind(outcome.faults))


def repeat(outcome: Outcome, ticks: int, intensity: float | None) -> str:
    """The line that runs a seed again."""
    more = "" if intensity is None else f" INTENSITY={intensity}"
    return f"make simulate SEEDS=1 TICKS={ticks} START={outcome.seed}{more}"


def failure(outcome: Outcome, ticks: int, *, intensity: float | None = None) -> str:
    """What a person needs to see of a seed that failed."""
    return "\n".join(
        [
            f"seed {outcome.seed} FAILED (trace {outcome.digest}):",
            *(f"  {breach[:400]}" for breach in outcome.breaches[:8]),
            "what led there, and the last effects:",
            *(f"  {line}" for line in outcome.story),
            f"repeat: {repeat(outcome, ticks, intensity)}",
        ]
    )


def _one(seed: int, *, ticks: int, intensity: float | None, show: bool = False) -> tuple[Outcome, float]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    gc.set_threshold(SELDOM)
    began = time.process_time()
    return simulate(seed, ticks, intensity=intensity, show=show), time.process_time() - began


def _all(options: argparse.Namespace) -> Iterator[tuple[Outcome, float]]:
    work = partial(_one, ticks=options.ticks, intensity=options.intensity)
    seeds = range(options.start, options.start + options.seeds)
    jobs = min(options.jobs, options.seeds)
    if options.show or jobs == 1:
        yield from (work(seed, show=options.show) for seed in seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=SEEDS_A_PROCESS) as pool:
        yield from pool.imap_unordered(work, seeds)


def report(tally: Tally, began: float, at_least: int, jobs: int) -> bool:
    """Print what the runs came to; whether all is well."""
    took = time.perf_counter() - began
    print(
        f"{tally.seeds:,} seeds, {tally.ticks:,} ticks, {tally.effects:,} effects, {tally.pushes:,} pushes in "
        f"{took:,.0f} s with {jobs} at once: {tally.ticks / max(tally.cpu_s, 1e-9):.0f} ticks a second and core"
    )
    for kind in sorted({*KINDS, *tally.kinds}):
        print(f"{tally.kinds[kind]:>12,}  {kind}")
    rare = [kind for kind in KINDS if kind not in OF_THEIR_OWN and tally.kinds[kind] < at_least]
    if rare:
        print(f"less than {at_least:,} times: {', '.join(sorted(rare))}")
    print(f"{len(tally.failed)} failed", *tally.failed, sep="\n  ")
    return not (rare or tally.failed)


def main() -> int:
    """Run the seeds asked for."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seeds", type=int, default=200)
    asked.add_argument("--ticks", type=int, default=30, help="of each seed; those of its healing come on top")
    asked.add_argument("--start", type=int, default=0)
    asked.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked.add_argument("--intensity", type=float, help="multiply the chance of every fault; the seed's own by default")
    asked.add_argument("--at-least", type=int, default=0, help="how often each kind of fault has to strike")
    asked.add_argument("--show", action="store_true", help="print every effect")
    options = asked.parse_args()
    began, said, tally = time.perf_counter(), time.perf_counter(), Tally()
    for outcome, cpu_s in _all(options):
        tally.add(outcome, cpu_s)
        if outcome.breaches:
            print(failure(outcome, options.ticks, intensity=options.intensity), flush=True)
            tally.failed.append(f"{repeat(outcome, options.ticks, options.intensity)}  # {outcome.breaches[0][:120]}")
            if len(tally.failed) >= MOST_FAILURES:
                break
        if time.perf_counter() - said > SAY_EVERY_S:
            said = time.perf_counter()
            so_far = f"{tally.seeds:,} of {options.seeds:,} seeds, {tally.ticks:,} ticks, {len(tally.failed)} failed"
            print(so_far, file=sys.stderr, flush=True)
    return 0 if report(tally, began, options.at_least, options.jobs) else 1


if __name__ == "__main__":
    sys.exit(main())
