"""What retention deletes breaks no proof: years of all kinds of use, pruned, folded and replayed in any order."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.ledger.calendar import start_of
from drawdown.ledger.draws import Cost
from drawdown.schema.database import read, write
from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, LATE_HORIZON_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.replay.plan import ReplayScope, plan
from drawdown.worker.replay.replay import replay
from drawdown.worker.sources.events.store import take
from drawdown.worker.usage import prune as pruning
from drawdown.worker.usage import withdrawals
from drawdown.worker.usage.prune import fold
from drawdown.worker.verify.questions import METERING
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets.actions import grant
from tests.integration.verifying import ONE, copy, lived, tamper
from tests.whole import share
from tests.world import T0

YEARS_MS = share(2, whole=3) * 366 * DAY_MS
PORTION_MS = 8 * DAY_MS
"""Of years there is little here: a portion is longer than an hour."""
SEEDS = share((1,), whole=tuple(range(40)))


class Life:
    """A busy database that lives on for years, as one seed has it."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.chance = random.Random(seed)
        self.fleet = copy(lived(), folder)
        self.number = 0
        self.done: list[str] = []

    @property
    def now(self) -> int:
        return self.fleet.clock.at_ms

    def write(self, work: Callable[[sa.Connection], object]) -> None:
        write(self.fleet.engine, work)

    def later(self, ms: int) -> None:
        self.fleet.tick(self.now + ms - (self.now + ms) % WINDOW_MS)

    def use(self) -> None:
        """Runs of each kind, usage of sandboxes and events, some of it withdrawn; all of it is settled."""
        self.number += 1
        key, by, fleet = f"y{self.number}", self.fleet.by, self.fleet
        self.write(lambda c: grant(c, "boxed", 10**6, by, key=key, plan=None))
        metered = Request("boxed", 40_000, settled_by="metering", sandboxes=(f"m-{key}",))
        receipt = Request("boxed", 50, settled_by="receipt", sandboxes=(f"r-{key}",))
        far = Request("far", quantities={ONE: 60})
        for name, request in (("m", metered), ("r", receipt), ("f", far)):
            self.write(lambda c, name=name, request=request: executions.accept(c, f"{name}-{key}", request, by))  # type: ignore[misc]
        for minute in range(self.chance.randint(1, 8)):
            fleet.sample("boxed", self.now + minute * MINUTE_MS + 1, self.chance.choice((7, 60)), sandbox=f"m-{key}")
        wrong = [fleet.sample(org, self.now + 2, self.chance.randint(1, 90)) for org in ("acme", "rest", "boxed")]
        events = [UsageEvent("app", f"{key}-{n}", "page.render", "told", n, self.now) for n in (3, 5)]
        self.write(lambda c: take(c, events, self.now))
        self.later(3 * WINDOW_MS)
        self.write(lambda c: executions.settle(c, f"f-{key}", Cost(quantities={ONE: 70}), fleet.by))
        self.write(lambda c: executions.settle(c, f"r-{key}", Cost(30), fleet.by))
        self.later(3 * WINDOW_MS)
        self.write(lambda c: executions.settle(c, f"m-{key}", None, fleet.by))
        some = self.chance.sample(wrong, self.chance.randint(0, 2))
        if some:
            self.write(lambda c: withdrawals.withdraw(c, some, fleet.by))
        self.later(2 * WINDOW_MS)
        self.done.append("use")

    def prune(self) -> None:
        before = self.now - LATE_HORIZON_MS - self.chance.randint(0, 100) * DAY_MS
        self.done.append(
            "prune" if pruning.prune(partial(write, self.fleet.engine), before, self.fleet.by).samples else "idle"
        )

    def fold(self) -> None:
        before = start_of(self.now - 400 * DAY_MS)
        try:
            folded = fold(partial(write, self.fleet.engine), before, self.fleet.by)
        except UsageError:
            return
        self.done.append("fold" if folded.pushes else "idle")

    def replay(self) -> None:
        ends = self.now - self.now % WINDOW_MS - 4 * WINDOW_MS
        begins = max(ends - self.chance.randint(1, 20) * DAY_MS, T0)
        world = runner.World(self.fleet.engine, self.fleet.providers, self.fleet.cells, self.fleet.clock)
        planned = read(self.fleet.engine, lambda c: plan(c, ReplayScope(), begins, ends, self.now))
        runner.run(replay(self.fleet.context(), planned, self.fleet.by, dry_run=False), world)
        self.done.append("replay")

    def breaches(self) -> list[str]:
        found = read(self.fleet.engine, lambda c: verify(c, now_ms=self.now)).breaches
        return [f"{self.done[-6:]}: {one.org_id}: {one.text}" for one in found]


@pytest.mark.parametrize("seed", SEEDS)
def test_retention_of_years_leaves_verify_clean(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "HOUR_MS", PORTION_MS)
    life = Life(seed, tmp_path)
    acts = [life.use, life.use, life.prune, life.prune, life.fold, life.replay]
    while life.now < T0 + YEARS_MS:
        life.later(life.chance.randint(20, 150) * DAY_MS)
        for act in life.chance.sample(acts, 3):
            act()
            assert life.breaches() == []
    assert {"use", "prune", "fold", "replay"} <= set(life.done)


def test_execution_claim_holds_until_its_samples_are_pruned(tmp_path: Path) -> None:
    life = Life(0, tmp_path)
    life.use()
    life.later(200 * DAY_MS)
    life.prune()
    assert life.done[-2:] == ["use", "prune"] and life.breaches() == []
    right = METERING.pieces["has_pruned", ""]
    METERING.put("has_pruned", "(1 = 0)")
    try:
        assert any("the reserved credit of m-y1 shrank" in one for one in life.breaches()), (
            "a claim without the floor is seen"
        )
    finally:
        METERING.put("has_pruned", right)
    life.use()
    tamper(life.fleet, "UPDATE reservations SET drawn_micro = drawn_micro + 1 WHERE reservation = 'm-y2'")
    assert any("the reserved credit of m-y2 shrank" in one for one in life.breaches()), "above the floor it is claimed"
