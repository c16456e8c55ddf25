"""Episodes of automatic top-ups at length; `make topups EPISODES=100000 JOBS=2`.

    python -m tests.integration.topup_run --episodes 100000 --jobs 2 --seed 0

Exit status 1 where anybody was charged twice, charged and not credited, credited and not charged, or charged beyond
caps or with a dead card, by the payment service's own books; and where a kind of fault never struck.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import structlog

from tests.fake_payments import CHARGE_FAULTS, LOOK_UP_FAULTS
from tests.integration.topup_lives import lived

MOST_S = 7_200.0
A_LIFE = 500
"""Episodes of one life, a seed each."""


@dataclass(frozen=True)
class Lived:
    """One life in numbers."""

    seed: int
    episodes: int
    breaches: list[str]
    calls: int
    look_ups: int
    kills: int
    taken: int
    states: Counter[str]
    struck: Counter[str]


@dataclass
class Tally:
    """All lives."""

    numbers: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def add(self, one: Lived) -> None:
        for name in ("episodes", "calls", "look_ups", "kills", "taken"):
            self.numbers[name] += getattr(one, name)
        self.states += one.states
        self.struck += one.struck
        self.failed += [f"seed {one.seed}: {breach[:200]}" for breach in one.breaches[:3]]


def one(seed: int) -> Lived:
    """Live one seed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    life = lived(A_LIFE, seed)
    pay = life.purses.pay
    found = Lived(
        seed=seed,
        episodes=life.episodes,
        breaches=life.breaches,
        calls=len(pay.charges),
        look_ups=len(pay.look_ups),
        kills=life.hand.deaths,
        taken=len(pay.taken),
        states=Counter(state for _, state in life.purses.topups()),
        struck=pay.struck,
    )
    life.purses.engine.dispose()
    return found


def report(tally: Tally, took_s: float) -> bool:
    """Print what the lives came to; whether all is well."""
    numbers = tally.numbers
    struck = tally.struck.total() / max(numbers["calls"] + numbers["look_ups"], 1)
    print(
        f"{numbers['episodes']:,} top-ups in {took_s:,.0f} s: {numbers['calls']:,} calls to charge and "
        f"{numbers['look_ups']:,} lookups, {struck:.0%} of them struck by a fault; {numbers['kills']:,} kills; "
        f"{numbers['taken']:,} payments taken by the service's own books"
    )
    for name, count in (*tally.states.most_common(), *tally.struck.most_common()):
        print(f"{count:>10,}  {name}")
    missing = sorted({*CHARGE_FAULTS, *LOOK_UP_FAULTS} - set(tally.struck))
    print(
        f"{len(tally.failed)} breaches", *tally.failed[:20], *(f"never struck: {name}" for name in missing), sep="\n  "
    )
    return not (tally.failed or missing)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-s", type=float, default=MOST_S, help="no more is lived after so many seconds")
    given = parser.parse_args()
    began, tally = time.monotonic(), Tally()
    lives = range(given.seed, given.seed - (-given.episodes // A_LIFE))
    with multiprocessing.get_context("spawn").Pool(min(given.jobs, len(lives)), maxtasksperchild=20) as pool:
        for found in pool.imap_unordered(one, lives):
            tally.add(found)
            if time.monotonic() - began > given.most_s:
                print(f"stopped after {given.most_s:,.0f} s, before all of {given.episodes:,} had been lived")
                break
    is_sound = report(tally, time.monotonic() - began)
    return 0 if is_sound and tally.numbers["episodes"] >= given.episodes else 1


if __name__ == "__main__":
    sys.exit(main())
