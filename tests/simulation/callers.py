"""Whoever calls beside the workers: a process dies before it has committed, and a commit is refused and done anew.

Guarantee: all chance is drawn from a stream of the caller's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.database import CONFLICT_TRIES, write
from drawdown.schema.errors import DatabaseBusy
from tests.simulation.database import in_conflict
from tests.simulation.world import World

T = TypeVar("T")
DIES: Final = 0.1
"""How often whoever calls is gone before it has committed, and another one calls in its place."""
CONFLICTS: Final = 0.1
AGAIN: Final = 0.2
"""How often an answer is lost, and the call made again at once; and as often later, where that makes sense."""


@dataclass
class Caller:
    """Programs or people in one world. `word` begins what is counted and said of them."""

    world: World
    rng: random.Random
    word: str = "caller"
    names: int = 0

    @property
    def now(self) -> int:
        return self.world.time.now

    def name(self, kind: str) -> str:
        """One that nothing else has."""
        self.names += 1
        return f"{kind}{self.names}"

    def note(self, kind: str) -> None:
        self.world.faults.note(f"{self.word}_{kind}")

    def breach(self, text: str) -> None:
        self.world.breaches.append(f"{self.word}: {text}")

    def dies(self, work: Callable[[sa.Connection, By], Any], *refused: type[Exception]) -> None:
        """Now and then a process does all of it but the commit."""
        if self.rng.random() < DIES:
            by = By(self.now, self.word, "died")
            with suppress(*refused):
                write(self.world.engine, lambda c: work(c, by), rollback=True)
            self.note("died_before_commit")

    def write(self, work: Callable[[sa.Connection, By], T]) -> T:
        """Do it; now and then its commit is refused, and it is done anew."""
        by = By(self.now, self.word, "simulated")

        def whole(connection: sa.Connection) -> T:
            return work(connection, by)

        if self.rng.random() >= CONFLICTS:
            return self.world.write(whole)
        self.note("in_conflict")
        with suppress(DatabaseBusy):  # as often as that it is tried anew; then whoever asked does so
            return self.world.write(in_conflict(whole, self.rng.randint(1, CONFLICT_TRIES)))
        return self.world.write(whole)
