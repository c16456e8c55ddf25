"""How people and products call: a process dies before it has committed, an answer is lost and the call is given again,
at once or days later.

Guarantee: all chance is drawn from a stream of the shop's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger.reservations import Denied
from drawdown.schema.audit import By
from drawdown.schema.database import write
from drawdown.schema.errors import UsageError
from tests.simulation.commerce.books import Books
from tests.simulation.world import World

Work = Callable[[sa.Connection, By], Any]
DIES: Final = 0.1
"""How often whoever calls is gone before it has committed, and another one calls in its place."""
AGAIN: Final = 0.25
"""How often an answer is lost, and the call made again at once; and as often later, where that makes sense."""


@dataclass(frozen=True)
class Unheard:
    """A call whose answer was lost, and how it is known that nothing was done when it is given again."""

    what: str
    work: Work
    repeats: Callable[[Any], bool]


@dataclass
class Shop:
    """Those who act in a world, and what they know."""

    world: World
    rng: random.Random
    books: Books = field(default_factory=Books)
    unheard: list[Unheard] = field(default_factory=list)
    names: int = 0

    @property
    def now(self) -> int:
        return self.world.time.now

    def name(self, kind: str) -> str:
        """One that nothing else has."""
        self.names += 1
        return f"{kind}{self.names}"

    def note(self, kind: str) -> None:
        self.world.faults.note(f"shop_{kind}")

    def breach(self, text: str) -> None:
        self.world.breaches.append(f"shop: {text}")

    def write(self, work: Work) -> Any:
        by = By(self.now, "shop", "simulated")
        return self.world.write(lambda c: work(c, by))

    def call(self, what: str, work: Work, repeats: Callable[[Any], bool], *, later: bool = True) -> Any:
        """The first answer, or how it was denied. With `later`, the same call is the same for ever."""
        if self.rng.random() < DIES:
            by = By(self.now, "shop", "died")
            with suppress(Denied):
                write(self.world.engine, lambda c: work(c, by), rollback=True)
                self.note("died_before_commit")
        try:
            answer = self.write(work)
        except Denied as denied:
            return denied
        chance, one = self.rng.random(), Unheard(what, work, repeats)
        if chance < AGAIN:
            self.give_again(one)
        elif later and chance < 2 * AGAIN:
            self.unheard.append(one)
        return answer

    def give_again(self, one: Unheard) -> None:
        self.note("called_again")
        try:
            answer = self.write(one.work)
        except (Denied, UsageError) as error:
            self.breach(f"{one.what} was done, and given again it is refused: {error}")
            return
        if not one.repeats(answer):
            self.breach(f"{one.what} was done, and given again it is no repetition: {answer!r:.300}")


def hear(shop: Shop) -> str | None:
    """A call of some time ago is given again."""
    if not shop.unheard:
        return None
    one = shop.unheard.pop(shop.rng.randrange(len(shop.unheard)))
    shop.note("called_again_later")
    shop.give_again(one)
    return f"gives again: {one.what}"
