"""A simulated life in which somebody proves, now and then, what was not proven yet (`verify --since-last`).

Guarantee: each such run is compared with one that looks at all of it in the same moment; and what it passes over has to
be what it was when the run that it continues from looked: that is known here row by row, and by no point of the
product's. All of it is drawn from a stream of its own.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Final

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.worker.checks.proofs import keep, to_continue
from drawdown.worker.verify.verify import Breach, verify
from tests.simulation import scheduler
from tests.simulation.operators import said
from tests.simulation.providers import MEMORY
from tests.simulation.world import World

DAYS_CHANCE, PROOF_CHANCE, UNKEPT_CHANCE = 0.04, 0.12, 0.2
A_WHILE_MS: Final = 30 * 60 * 60_000
ON_RECORD: Final = {
    "a sample": "SELECT ts, id, org_id, memory_mb, interval_s FROM usage_samples WHERE problem IS NULL",
    "a withdrawal": "SELECT ts, sample_id FROM withdrawals",
    "a push": "SELECT window_ms, key, state, sealed_qty, sent_qty, attempts FROM pushes",
    "an attempt": "SELECT window_ms, org_id, feature, revision, attempt, outcome FROM attempts",
    "a void": "SELECT window_ms, org_id, feature, revision FROM voids",
    "an adoption": "SELECT window_ms, org_id, feature, revision FROM adoptions",
    "an entry": "SELECT ts, key, amount_micro FROM ledger_entries",
    "pending usage": "SELECT window_ms, org_id, memory_mb, reason, seconds, samples FROM pending_usage",
}
"""All that a run claims of windows, each row with the window or the time that it is of."""
Record = Counter[tuple[Any, ...]]


class Proving(scheduler.Run):
    """A run in which days pass, and proofs are made."""

    def __init__(self, world: World, *given: Any) -> None:
        super().__init__(world, *given)
        self.chance = random.Random(f"{world.rng.random()}-proofs")
        self.records: dict[int, Record] = {}
        """What was there, by the run that looked at it and was kept."""

    def _act(self) -> None:
        what = self.chance.random()
        if what < DAYS_CHANCE:
            self.world.time.advance(A_WHILE_MS)
        elif what < DAYS_CHANCE + PROOF_CHANCE:
            self.prove()
        else:
            super()._act()

    def prove(self) -> None:
        world, by = self.world, said(self.world)
        held = world.read(lambda c: to_continue(c, by.now_ms)) if world.lost_at is None else None
        found = world.read(lambda c: verify(c, now_ms=by.now_ms, held=held))
        whole = world.read(lambda c: verify(c, now_ms=by.now_ms))
        world.say(
            "world", f"proves from {None if found.point is None else found.point.window_ms} on: {found.count} breaches"
        )
        here = self.record()
        if found.breaches != whole.breaches:
            world.breaches += [
                f"proof: {one} is found by one run alone" for one in _apart(found.breaches, whole.breaches)
            ]
        if held is not None and found.point is not None:
            below = found.point.window_ms
            there = self.records[held.run]
            changed = sorted({row[:3] for row in (here - there) | (there - here) if row[1] < below})
            world.breaches += [f"proof: passed over below {below}, and changed: {one}" for one in changed]
            world.faults.note("proof_continued")
            passed = any(row[1] < below for row in here)
            world.faults.counts["proof_passed_over"] += passed
            world.faults.counts[f"reached_back_by {found.point.why}"] += 1
        if self.chance.random() > UNKEPT_CHANCE:
            doubted = None if world.lost_at is None else "a loss"
            self.records[world.write(lambda c: keep(c, found, by, doubted=doubted))] = here

    def record(self) -> Record:
        world = self.world
        return Counter((what, *row) for what, text in ON_RECORD.items() for row in world.rows(text))


def _apart(one: list[Breach], other: list[Breach]) -> list[Breach]:
    return [*(each for each in one if each not in other), *(each for each in other if each not in one)]


def simulated(seed: int, ticks: int, monkeypatch: Any) -> Any:
    """One seed of such a life; its outcome."""
    monkeypatch.setattr(scheduler, "Run", Proving)
    return scheduler.simulate(seed, ticks, billing=(EMBEDDED, MEMORY), restores=False)
