"""How a product calls the guard: a process dies before it has committed, a commit is refused and done anew, an answer is
lost and the call is given again, at once or days later.

Guarantee: all chance is drawn from a stream of the product's own. All calls of the guard's own functions stand in this
module.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.runs.reservations import Denied
from drawdown.schema.audit import By
from drawdown.schema.database import write
from drawdown.schema.driver_errors import CONFLICT_TRIES
from drawdown.schema.errors import DatabaseBusy
from drawdown.worker.commands import guard, guard_holds
from drawdown.worker.commands.guard import Answer, Wish
from tests.simulation.database import in_conflict
from tests.simulation.guarding.books import Books, BooksOracle
from tests.simulation.world import World

DIES: Final = 0.1
"""How often whoever calls is gone before it has committed, and another one calls in its place."""
CONFLICTS: Final = 0.1
AGAIN: Final = 0.2
"""How often an answer is lost, and the call made again at once; and as often later."""


@dataclass(frozen=True)
class Call:
    """What is asked of the guard. `org`: whose use it is."""

    what: str
    key: str
    org: str
    wish: Wish | None = None
    amount: int | None = None
    for_ms: int | None = None

    def work(self, connection: sa.Connection, by: By) -> Answer:
        """The call itself."""
        match self.what:
            case "consume":
                assert self.wish is not None
                return guard.consume(connection, self.key, self.wish, by)
            case "reserve":
                assert self.wish is not None
                return guard_holds.reserve(connection, self.key, self.wish, by)
            case "extend":
                return guard_holds.extend(connection, self.key, self.amount, self.for_ms, by)
        end = guard_holds.settle if self.what == "settle" else guard_holds.release
        return end(connection, self.key, self.amount or 0, by)


@dataclass
class Product:
    """Whoever asks, in one world, and what they know."""

    world: World
    rng: random.Random
    names: int = 0
    lost: set[str] = field(default_factory=set)
    """Keys that were given once, and of which nothing may be there: blocked, or lost with a database."""

    @property
    def books(self) -> Books:
        assert isinstance(self.world.oracle, BooksOracle)
        return self.world.oracle.books

    @property
    def now(self) -> int:
        return self.world.time.now

    def name(self, kind: str) -> str:
        """One that nothing else has."""
        self.names += 1
        return f"{kind}{self.names}"

    def note(self, kind: str) -> None:
        self.world.faults.note(f"guard_{kind}")

    def breach(self, text: str) -> None:
        self.world.breaches.append(f"guard: {text}")

    def write(self, work: Callable[[sa.Connection, By], Any]) -> Any:
        """What people do, done anew where its commit was refused."""
        by = By(self.now, "product", "simulated")

        def whole(connection: sa.Connection) -> Any:
            return work(connection, by)

        if self.rng.random() >= CONFLICTS:
            return self.world.write(whole)
        self.note("in_conflict")
        with suppress(DatabaseBusy):  # as often as that it is tried anew; then whoever asked does so
            return self.world.write(in_conflict(whole, self.rng.randint(1, CONFLICT_TRIES)))
        return self.world.write(whole)

    def call(self, one: Call) -> Any:
        """The answer, or how it was denied."""
        if self.rng.random() < DIES:
            by = By(self.now, "product", "died")
            with suppress(Denied):
                write(self.world.engine, lambda c: one.work(c, by), rollback=True)
            self.note("died_before_commit")
        try:
            return self.write(one.work)
        except Denied as denied:
            return denied

    def compare(self, one: Call, answer: Any, want: Mapping[str, Any]) -> None:
        """`want`: what has to stand in the answer, by name; `denied` alone: with which code it is refused."""
        if "denied" in want or isinstance(answer, Denied):
            code = answer.code if isinstance(answer, Denied) else None
            if code != want.get("denied"):
                self.breach(f"{one} was answered {answer!r:.300}, and should be {want}")
            return
        wrong = {name: (getattr(answer, name), right) for name, right in want.items() if getattr(answer, name) != right}
        if wrong:
            self.breach(f"{one}: (answered, right) is {wrong}")
