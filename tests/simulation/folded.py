"""A simulated life of more than a year, in which a person prunes and folds old months while all else goes on.

Guarantee: what a portion takes away is compared with what it adds up, row by row, in the moment it is committed; from
then on every judge still sees each push that went. All of it is drawn from a stream of its own.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS
from drawdown.worker.usage import prune as pruning
from drawdown.worker.usage.prune import fold
from drawdown.worker.verify.verify import verify
from tests.simulation import actions, invariants, scheduler
from tests.simulation.operators import said
from tests.simulation.oracle import Sample
from tests.simulation.providers import MEMORY
from tests.simulation.world import START, World

JUMP_MS: Final = 430 * DAY_MS
OLD_MS: Final = START + JUMP_MS // 2
MONTHS: Final = tuple(int(datetime(2026, month, 1, tzinfo=UTC).timestamp()) * 1000 for month in (1, 2))
"""What ended before is folded, the first or both."""
SIZES: Final = (*(1024, 4096) * 6, 3000)
"""One has no feature, and holds the floor of whoever uses it."""
PORTION_MS: Final = 8 * DAY_MS
"""Of old months there is little here: a portion is longer than an hour."""
FOLDS, CUT_OFF, OTHERS_STEPS, FOLD_CHANCE = 4, 0.004, 3, 0.15
ACCOUNTS: Final = "SELECT account_id, balance_micro FROM ledger_accounts ORDER BY 1"
ENTRIES: Final = "SELECT COUNT(*), COALESCE(SUM(amount_micro), 0) FROM ledger_entries"
PUSHES: Final = (
    "SELECT key, attempts, provider, state, window_ms, org_id, customer_id, feature, sealed_qty, sent_qty FROM pushes"
)
SUMS: Final = (
    "SELECT day_ms, org_id, provider, customer_id, feature, state, pushes, attempts, sealed_qty, sent_qty "
    "FROM folded_pushes"
)


class CutOff(Exception):
    """A person's command ended half-way."""


class Books(NamedTuple):
    """What a portion may change, and what it may not."""

    pushes: dict[str, tuple[Any, ...]]
    sums: Counter[tuple[Any, ...]]
    attempts: int
    ledger: tuple[Any, ...]


class Folding(scheduler.Run):
    """A run in which more than a year passes at once, and then a person folds what is old."""

    def __init__(self, world: World, *given: Any) -> None:
        super().__init__(world, *given)
        self.chance = random.Random(f"{world.rng.random()}-folds")
        self.jumped = False
        self.folds = 0
        self.gone: dict[str, invariants.Push] = {}
        self.right_read, self.right_insert = invariants._read, actions.insert

    def _act(self) -> None:
        if not self.jumped and self.begun >= self.ticks // 2:
            self.jumped = True
            self.world.time.advance(JUMP_MS)
            self.world.faults.note("year_passed")
            self.world.say("world", "MORE THAN A YEAR PASSES")
        elif self.jumped and self.folds < FOLDS and self.chance.random() < FOLD_CHANCE:
            self.fold()
        else:
            super()._act()

    def fold(self) -> None:
        """Both commands, as a person gives them; either may be cut off, and is given again another time."""
        world, before_ms = self.world, self.chance.choice(MONTHS)
        self.folds += 1
        world.say("world", f"folds what lies before {before_ms}")
        try:
            pruning.prune(self.portion, before_ms, said(world))
            known = set(world.read(verify).breaches)
            done = fold(self.folds_some, before_ms, said(world))
            world.faults.counts["push_folded"] += done.pushes
            new = set(world.read(verify).breaches) - known
            world.breaches += [f"verify, since it was folded: {one}" for one in sorted(map(str, new))]
        except CutOff:
            world.faults.note("fold_cut_off")

    def folds_some(self, work: Callable[[sa.Connection], Any], *, rollback: bool = False) -> Any:
        return self.portion(work, rollback=rollback, between=partial(self.judge, self.books()))

    def portion(
        self,
        work: Callable[[sa.Connection], Any],
        *,
        rollback: bool = False,
        between: Callable[[], None] = lambda: None,
    ) -> Any:
        """One transaction of a person's command; then others go on."""
        world = self.world
        if self.chance.random() < CUT_OFF:
            write(world.engine, work, rollback=True)
            raise CutOff
        answer = write(world.engine, work, rollback=rollback)
        between()
        if self.chance.random() < CUT_OFF:
            raise CutOff  # it is committed, and nobody heard of it
        for _ in range(self.chance.randrange(OTHERS_STEPS)):
            awake = [one for one in world.workers if one.up(world.time.now)]
            if awake and not world.breaches:
                self._work(self.chance.choice(awake))
        return answer

    def books(self) -> Books:
        world = self.world
        self.before = {one.key: one for one in self.right_read(world).pushes}
        return Books(
            {row[0]: row[1:] for row in world.rows(PUSHES)},
            _sums(world.rows(SUMS)),
            int(world.rows("SELECT COUNT(*) FROM attempts")[0][0]),
            (*world.rows(ACCOUNTS), *world.rows(ENTRIES)),
        )

    def judge(self, before: Books) -> None:
        """What went is what was added; nothing else moved."""
        world, seen = self.world, self.before
        after = self.books()
        went = {key: row for key, row in before.pushes.items() if key not in after.pushes}
        added = Counter(before.sums)
        for attempts, provider, state, window, org, customer, feature, sealed, sent in went.values():
            place = (window - window % DAY_MS, org, provider, customer, feature, state)
            for what, number in (("pushes", 1), ("attempts", attempts), ("sealed", sealed), ("sent", sent)):
                added[*place, what] += number
            if state not in ("accepted", "carried", "voided", "shadow") or provider != EMBEDDED:
                world.breaches.append(f"folded: a push of {org} that is {state} at {provider}")
        if {spot: n for spot, n in added.items() if n} != {spot: n for spot, n in after.sums.items() if n}:
            world.breaches.append(f"folded: {len(went)} pushes went, and the sums are not what they were")
        if before.attempts - after.attempts != sum(int(row[0]) for row in went.values()):
            world.breaches.append(f"folded: {before.attempts - after.attempts} attempts went with {len(went)} pushes")
        if before.ledger != after.ledger:
            world.breaches.append("folded: the ledger is not what it was")
        self.gone.update({key: seen[key]._replace(attempts=0) for key in went})

    def read(self, world: World) -> invariants.Tables:
        """With the pushes that went: their attempts went with them."""
        found = self.right_read(world)
        there = {one.key for one in found.pushes}
        world.breaches += [f"folded: {key} was sealed again" for key in sorted(there & self.gone.keys())]
        nothing = {
            spot: due
            for spot, due in world.oracle.expected().pending.items()
            if self.jumped and spot[0] < OLD_MS and due[1] == 0
        }
        pending = {**nothing, **found.pending}  # what is pending, and nothing, is forgotten as a floor is raised
        return found._replace(pushes=[*found.pushes, *self.gone.values()], pending=pending)

    def insert(self, world: World, made: list[Sample], box: str | None = None) -> None:
        """Nobody writes again what was pruned: it would be taken for another sample, and be too late."""
        young = [one for one in made if not self.jumped or one.ts > OLD_MS or one.id not in world.oracle.samples]
        if young:
            self.right_insert(world, young, box)


def _sums(rows: list[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for *place, pushes, attempts, sealed, sent in rows:
        found.update({(*place, "pushes"): pushes, (*place, "attempts"): attempts})
        found.update({(*place, "sealed"): sealed, (*place, "sent"): sent})
    return found


def simulated(seed: int, ticks: int, monkeypatch: Any) -> Any:
    """One seed of such a life; its outcome."""

    def begun(world: World, *given: Any) -> Folding:
        run = Folding(world, *given)
        monkeypatch.setattr(invariants, "_read", run.read)
        monkeypatch.setattr(actions, "insert", run.insert)
        return run

    monkeypatch.setattr(scheduler, "Run", begun)
    monkeypatch.setattr(pruning, "HOUR_MS", PORTION_MS)
    monkeypatch.setattr(actions, "SIZES", SIZES)
    monkeypatch.setattr(actions, "_BAD", tuple(one for one in actions._BAD if (one.get("ts") or 0) < START))
    return scheduler.simulate(seed, ticks, billing=(EMBEDDED, MEMORY), restores=False)
