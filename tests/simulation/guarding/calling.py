"""How a product calls the guard, and how an answer is compared with what it has to be.

Guarantee: all calls that use anything stand in this module.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.ledger.reservations import Denied
from drawdown.schema.audit import By
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.emission import Emission
from drawdown.worker.guard.use import Answer, Wish
from drawdown.worker.sources.events.store import sample_id_of
from drawdown.worker.sources.events.types import Bringer
from tests.simulation.callers import Caller
from tests.simulation.guarding.books import Books, BooksOracle
from tests.simulation.oracle import Sample

SOURCE: Final = "/guarded"
"""Of the events that uses emit."""


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
                return guard.consume(connection, self.key, self.wish, by, self.event(by.now_ms))
            case "reserve":
                assert self.wish is not None
                return guard.reserve(connection, self.key, self.wish, by)
            case "extend":
                return guard.extend(connection, self.key, self.amount, self.for_ms, by)
        end = guard.settle if self.what == "settle" else guard.release
        return end(connection, self.key, self.amount or 0, by)

    @property
    def emits(self) -> bool:
        """Of every second key's uses, so that no draw of another life changes."""
        return self.what == "consume" and zlib.crc32(self.key.encode()) % 2 == 0

    def event(self, now_ms: int) -> Emission | None:
        """What it emits: it says no time, and has the first call's."""
        if not self.emits or self.wish is None:
            return None
        event = UsageEvent(SOURCE, self.key, "guard.done", self.org, self.wish.quantity, now_ms)
        return Emission(event, False, False, Bringer(key_name="app"))


@dataclass
class Product(Caller):
    """Whoever asks, in one world, and what they know."""

    word: str = "guard"
    lost: set[str] = field(default_factory=set)
    """Keys that were given once, and of which nothing may be there: blocked, or lost with a database."""

    @property
    def books(self) -> Books:
        assert isinstance(self.world.oracle, BooksOracle)
        return self.world.oracle.books

    def call(self, one: Call) -> Any:
        """The answer, or how it was denied."""
        self.dies(one.work, Denied)
        try:
            answer = self.write(one.work)
        except Denied as denied:
            return denied
        if answer.event is not None:
            self._emitted(one)
        return answer

    def _emitted(self, one: Call) -> None:
        """The oracle knows of the event's sample, with which the seal has to reckon."""
        event = one.event(self.now)
        assert event is not None
        said = event.event
        name = sample_id_of(said.source, said.event_id)
        for (meter,) in self.world.rows("SELECT meter FROM event_types WHERE event_type = :name", name=said.event_type):
            self.world.oracle.took(Sample(name, said.org_id, said.occurred_ms, int(meter), said.quantity, good=True))

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
