"""`python -m tests.simulation.run --seeds 200 --ticks 30 --start 0`: run seeds, stop at the first that fails.

Guarantee: a seed that fails prints the one line that repeats it, and its last effects.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import structlog

from tests.simulation.scheduler import Outcome, simulate


def failure(outcome: Outcome, ticks: int, *, intensity: float | None = None, lines: int = 25) -> str:
    """What a person needs to see of a seed that failed."""
    more = "" if intensity is None else f" --intensity {intensity}"
    return "\n".join(
        [
            f"seed {outcome.seed} FAILED (trace {outcome.digest}):",
            *(f"  {breach}" for breach in outcome.breaches[:8]),
            "the last effects:",
            *(f"  {line[:300]}" for line in outcome.last[-lines:]),
            f"repeat: python -m tests.simulation.run --seeds 1 --ticks {ticks} --start {outcome.seed}{more} --show",
        ]
    )


def main() -> int:
    """Run the seeds asked for; exit status 1 if one failed."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seeds", type=int, default=200)
    asked.add_argument("--ticks", type=int, default=30)
    asked.add_argument("--start", type=int, default=0)
    asked.add_argument("--intensity", type=float, help="multiply the chance of every fault; the seed's own by default")
    asked.add_argument("--show", action="store_true", help="print every effect")
    asked.add_argument("--keep-going", action="store_true", help="run the other seeds after one failed")
    options = asked.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    began, ticks, effects, pushes, failed = time.perf_counter(), 0, 0, 0, 0
    counts: Counter[str] = Counter()
    for seed in range(options.start, options.start + options.seeds):
        outcome = simulate(seed, options.ticks, show=options.show, intensity=options.intensity)
        ticks, effects, pushes = ticks + outcome.ticks, effects + outcome.effects, pushes + outcome.pushes
        counts.update(outcome.faults)
        if outcome.breaches:
            failed += 1
            print(failure(outcome, options.ticks, intensity=options.intensity))
            if not options.keep_going:
                break
    took = time.perf_counter() - began
    print(", ".join(f"{kind} {number}" for kind, number in sorted(counts.items())))
    print(
        f"{options.seeds} seeds, {failed} failed: {ticks} ticks ({ticks / took:.0f}/s), {effects} effects "
        f"({effects / took:.0f}/s), {pushes} pushes, last trace {outcome.digest}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
