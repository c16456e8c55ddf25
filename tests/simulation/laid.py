"""Files of usage in the simulated world: whenever hosts write samples, a file is now and then laid into a watched
folder, again under another name, or otherwise under a name that it had before.

Guarantee: all of it is drawn from a stream of its own. The oracle is told of what was taken as it is committed, by sums
and ids of its own counting.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Final

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.worker.batches.sources import add_source
from drawdown.worker.batches.take import TakenFile
from drawdown.worker.engine.effects import Transaction
from tests.simulation import actions, scheduler
from tests.simulation.actions import ORGS, STRANGERS
from tests.simulation.making import new_world
from tests.simulation.operators import said
from tests.simulation.oracle import WINDOW, Sample
from tests.simulation.providers import MEMORY
from tests.simulation.restore import still
from tests.simulation.world import World

CHANCE: Final = 0.3
Sums = Counter[tuple[str, int, int]]
"""Seconds by organisation, window, size."""


class Laid:
    """A maker of worlds in which files are laid into a folder."""

    chance = CHANCE

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rng = random.Random()
        self.sums: dict[str, Sums] = {}
        self.outcomes: Counter[str] = Counter()
        self._insert = actions.insert

    def __call__(self, seed: int, *given: Any, **more: Any) -> World:
        world = new_world(seed, *given, **more)
        self.rng = random.Random(f"{seed}-files")
        world.write(partial(add_source, source="exports", folder=self.folder, by=said(world)))
        return world

    def judged(self, world: World, effect: Transaction, answer: Any) -> None:
        """As soon as it is committed."""
        still(world, effect, answer)
        if effect.name == "take_batch":
            self.took(world, answer)

    def insert(self, world: World, made: list[Sample], box: str | None = None) -> None:
        self._insert(world, made, box)
        if self.rng.random() < self.chance:
            self._lay(world, made)

    def _lay(self, world: World, made: list[Sample]) -> None:
        rng, sums = self.rng, Sums()
        lines = []
        for sample in made:
            if not sample.good:
                continue
            for _ in range(rng.randint(1, 3)):
                org, seconds = rng.choice((*ORGS, *STRANGERS)), rng.choice((1, 60, 86_400))
                ts = min(sample.ts, world.time.now)
                lines.append({"org_id": org, "ts": ts, "memory_mb": sample.memory_mb, "interval_s": seconds})
                sums[org, ts // WINDOW * WINDOW, sample.memory_mb] += seconds
        lines.append({"org_id": "nobody", "ts": 1, "memory_mb": 1, "interval_s": 1})  # refused
        text = "".join(json.dumps(line) + "\n" for line in lines)
        if not sums:
            return
        self.sums[hashlib.sha256(text.encode()).hexdigest()[:32]] = sums
        name = f"f{rng.randrange(1_000_000)}" if rng.random() < 0.8 or not self.outcomes else "f-again"
        for number in range(1 + (rng.random() < 0.3)):  # the same by another name
            stamp = (world.time.now - 4 * 3_600_000) * 10**6 + rng.randrange(10**6)
            self.put(f"{name}-{number}.jsonl", text, stamp)
            world.faults.note("file_laid_again" if number else "file_laid")

    def put(self, name: str, text: str, stamp_ns: int) -> None:
        """It lies there since then."""
        path = self.folder / name
        path.write_text(text)
        os.utime(path, ns=(stamp_ns, stamp_ns))

    def took(self, world: World, taken: TakenFile) -> None:
        self.outcomes[taken.outcome] += 1
        if taken.outcome != "taken":
            return
        if taken.batch not in self.sums:
            world.breaches.append(f"{taken.name} was taken, with rows that nobody laid together")
            return
        number = 0
        for (org, window, size), seconds in sorted(self.sums[taken.batch].items()):
            for part in [86_400] * (seconds // 86_400) + [seconds % 86_400] * (seconds % 86_400 > 0):
                number += 1
                known = Sample(f"batch:{taken.batch}:{number}", org, window, size, part, good=True)
                if known.id in world.oracle.samples:
                    world.breaches.append(f"{taken.name} was taken twice")
                world.oracle.took(known)


def simulated(seed: int, ticks: int, folder: Path, monkeypatch: Any) -> tuple[Any, Laid]:
    """One seed in such a world; its outcome."""
    laid = Laid(folder)
    monkeypatch.setattr(scheduler, "new_world", laid)
    monkeypatch.setattr(actions, "insert", laid.insert)
    monkeypatch.setattr(scheduler, "still", laid.judged)
    return scheduler.simulate(seed, ticks, billing=(EMBEDDED, MEMORY), restores=False), laid
