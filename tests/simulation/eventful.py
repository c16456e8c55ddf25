"""Usage events in the simulated world: where hosts write samples, a product tells of its usage, again where an answer
is lost, and now and then otherwise under a key that it used before.

Guarantee: all of it is drawn from a stream of its own, so that what a seed lives otherwise stays what it is. The oracle
is told of what was taken, as of samples, by meters of its own counting.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from functools import partial
from typing import Any, Final

from drawdown.events.envelope import UsageEvent
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.features.actions import map_event, map_size
from drawdown.worker.sources.events.store import take
from drawdown.worker.wallets.actions import set_rate
from tests.simulation import actions, scheduler
from tests.simulation.actions import ORGS, STRANGERS
from tests.simulation.making import new_world
from tests.simulation.operators import said
from tests.simulation.oracle import LARGEST_SIZE, Rule, Sample
from tests.simulation.providers import MEMORY
from tests.simulation.world import START, World

TYPES: Final = ("page.render", "page.view", "page.new")
"""The first makes a feature from long ago on, the second one from a while on, the third one none."""
FROM: Final = {"page.render": START - 60 * 86_400_000, "page.view": START + 2 * WINDOW_MS}


class Told:
    """A maker of worlds in which a product tells of its usage, whenever hosts write samples."""

    def __init__(self) -> None:
        self.made: list[World] = []
        self.rng = random.Random()
        self.events: list[UsageEvent] = []
        self.statuses: list[str] = []
        self._insert = actions.insert

    def __call__(self, seed: int, *given: Any, **more: Any) -> World:
        world = new_world(seed, *given, **more)
        self.rng = random.Random(f"{seed}-events")
        price = partial(set_rate, micro_credits=1, per_quantity=1, by=said(world), from_ms=0)
        for event_type, start in FROM.items():
            feature = event_type.replace(".", "_")
            world.write(partial(_map, world=world, event_type=event_type, feature=feature, start=start))
            world.oracle.rules.append(Rule("exact", _meter(event_type), feature, "units", start))
            world.write(partial(price, feature=feature))
        rest = partial(map_size, feature="rest", by=said(world), kind="up_to", memory_mb=None, unit="s")
        world.write(partial(rest, from_ms=START + 4 * WINDOW_MS, confirmed=True))
        world.oracle.rules.append(Rule("up_to", None, "rest", "s", START + 4 * WINDOW_MS))
        world.write(partial(price, feature="rest"))
        self.made.append(world)
        return world

    def insert(self, world: World, made: list[Sample], box: str | None = None) -> None:
        self._insert(world, made, box)
        rng = self.rng
        batch = [self._event(world, one) for one in made]
        if self.events and rng.random() < 0.3:
            old = rng.choice(self.events)
            batch += [old, replace(old, quantity=old.quantity + 1)]
        rng.shuffle(batch)
        for _ in range(1 + (rng.random() < 0.2)):  # its answer is lost
            self._take(world, batch)

    def _event(self, world: World, sample: Sample) -> UsageEvent:
        org = self.rng.choice((*ORGS, *STRANGERS))
        return UsageEvent(
            "app", f"e{len(self.events)}-{sample.id}-{self.rng.randrange(10**9)}", self.rng.choice(TYPES), org,
            self.rng.choice((0, 1, 7, 1_000, 10**9)), min(sample.ts, world.time.now),
        )  # fmt: skip

    def _take(self, world: World, batch: list[UsageEvent]) -> None:
        answers = world.write(lambda c: take(c, batch, world.time.now))
        for event, answer in zip(batch, answers, strict=True):
            self.statuses.append(answer.status)
            if answer.status in ("accepted", "pending"):
                self.events.append(event)
                known = Sample(
                    _named(event), event.org_id, event.occurred_ms, _meter(event.event_type), event.quantity, good=True
                )
                if known.id in world.oracle.samples:
                    world.breaches.append(f"S7: {event.event_id} was taken twice")
                world.oracle.took(known)


def _named(event: UsageEvent) -> str:
    """The id that an event's sample is to have."""
    return "event:" + hashlib.sha256(f"{event.source}\0{event.event_id}".encode()).hexdigest()[:40]


def _meter(event_type: str) -> int:
    """In the order of their first use: the last one is met by an event."""
    return LARGEST_SIZE + 1 + TYPES.index(event_type)


def _map(connection: Any, *, world: World, event_type: str, feature: str, start: int) -> None:
    map_event(connection, event_type, feature, said(world), from_ms=start, confirmed=True)


def simulated(seed: int, ticks: int, monkeypatch: Any) -> tuple[Any, World, Told]:
    """One seed in such a world; its outcome."""
    told = Told()
    monkeypatch.setattr(scheduler, "new_world", told)
    monkeypatch.setattr(actions, "insert", told.insert)
    outcome = scheduler.simulate(seed, ticks, billing=(EMBEDDED, MEMORY), restores=False)
    (world,) = told.made
    return outcome, world, told
