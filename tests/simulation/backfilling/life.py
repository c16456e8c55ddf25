"""A life in which the past is filled in beside ticks, late samples and flips; then all ends and heals.

Guarantee: what is filled in is drawn from a stream of its own, and worlds without backfills are what they were. A batch
of each step is small here, so that a few events make many of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.units import DAY_MS
from drawdown.worker.features.actions import map_event
from drawdown.worker.usage import backfills
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets.actions import set_rate
from tests.simulation import actions, operators
from tests.simulation.backfilling import acts
from tests.simulation.backfilling.acts import Clerk
from tests.simulation.backfilling.books import RATE
from tests.simulation.healing import heal
from tests.simulation.making import new_world
from tests.simulation.mutants_remote import Patches
from tests.simulation.operators import said
from tests.simulation.oracle import Rule
from tests.simulation.providers import MEMORY
from tests.simulation.restore import Restores
from tests.simulation.scheduler import Run
from tests.simulation.shortcut import texts_kept
from tests.simulation.world import START, World

BUSY: Final = 8
SMALL: Final = {"REVERTED_AT_ONCE": 3, "TAKEN_AT_ONCE": 4}
FEATURES: Final = tuple(one.replace(".", "_") for one in acts.TYPES)
Act = Callable[[Clerk], str | None]
ACTS: Final[tuple[tuple[Act, float], ...]] = (
    (acts.begin, 4.0), (acts.stage, 12.0), (acts.show, 6.0), (acts.close, 8.0), (acts.revert, 3.0), (acts.send, 3.0),
    (acts.map_type, 0.6),
)  # fmt: skip
HOSTS: Final = (
    (actions.samples, 4.0), (actions.sandbox, 1.0), (actions.grant, 1.0), (actions.provider_trouble, 0.4),
    (operators.assign_org, 3.0), (operators.cancel_flip, 1.0), (operators.void_rejected, 0.6),
    (operators.add_rates, 0.3),
)  # fmt: skip


class Life(Run):
    """The seeded scheduler, with whoever fills in the past."""

    def __init__(self, world: World, ticks: int, seed: int) -> None:
        super().__init__(world, ticks, Restores(world, seed, False))
        self.clerk = Clerk(world, random.Random(f"{seed}-backfills"))
        _open(self.clerk)

    def _act(self) -> None:
        rng = self.clerk.rng
        what = rng.choices([act for act, _ in HOSTS], [weight for _, weight in HOSTS])[0](self.world)
        if what is not None:
            self.world.say("world", what)
        for _ in range(rng.randint(1, BUSY)):
            done = rng.choices([act for act, _ in ACTS], [weight for _, weight in ACTS])[0](self.clerk)
            if done is not None:
                self.world.say("clerk", done)


def lived(seed: int, ticks: int, *, show: bool = False) -> tuple[Life, list[str]]:
    """One seed's life, and what is wrong with it, a line each; its world is left open."""
    with texts_kept(), _small_steps():
        life = Life(new_world(seed, None, (EMBEDDED, MEMORY), show=show), ticks, seed)
        life.safety()
        if not life.world.breaches:
            heal(life)
        wrong = life.world.breaches
        return life, [*wrong, *(_judged(life.clerk) if not wrong else ())]


def _judged(clerk: Clerk) -> Iterator[str]:
    """Beside what the world's own oracle says is to be billed."""
    yield from (f"verify: {breach}" for breach in clerk.world.read(verify).breaches)
    shown = acts.rows(clerk)
    for name, one in clerk.books.held.items():
        state = "closed" if one.state == "reverting" else one.state
        names = one.went_in if one.closed_by is not None else one.staged.keys()
        want = (state, len(names), len(names & clerk.books.withdrawn))
        if shown[name] != want:
            yield f"{name} is shown as {shown[name]}, and should be {want}"
    kept = clerk.samples().keys()
    if kept != clerk.books.taken.keys():
        yield f"events are there that nobody was told of, or are not there: {kept ^ clerk.books.taken.keys()}"


@contextmanager
def _small_steps() -> Iterator[None]:
    patches = Patches()
    with patches.kept():
        for name, size in SMALL.items():
            patches.put(backfills, name, size)
        yield


def _open(clerk: Clerk) -> None:
    """Nobody is assigned by workers; the first type makes a feature from long ago on, and each feature has a price."""
    world = clerk.world
    world.oracle.default = None
    for worker in world.workers:
        worker.context.new_orgs = None
    start = START - 60 * DAY_MS
    first, feature = acts.TYPES[0], FEATURES[0]
    world.write(partial(map_event, event_type=first, feature=feature, by=said(world), from_ms=start, confirmed=True))
    world.oracle.rules.append(Rule("exact", clerk.meter(first), feature, "units", start))
    for name in FEATURES:
        world.write(partial(set_rate, feature=name, micro_credits=RATE, per_quantity=1, by=said(world), from_ms=0))
