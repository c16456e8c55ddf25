"""The simulated world: one database in memory, providers, cells, the true time, and the faults in between.

Guarantee: an effect is done exactly as production does it, or fails in a way production can fail; nothing here reads a
clock, a thread or a network.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.providers.embedded import EmbeddedProvider
from drawdown.providers.protocol import Outcome, Provider, PushRequest, ReadFailed, Rejected, RetryAt, Unknown
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, read, write
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.effects import Effect, LookUp, Push, ReadCustomers, SendHalts, Transaction
from tests.simulation.faults import Faults
from tests.simulation.oracle import Oracle
from tests.simulation.providers import MEMORY, WHOLE, Cells, MemoryProvider
from tests.simulation.stepping import Time, Worker
from tests.simulation.wire import Wire

T = TypeVar("T")
START = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""

AUDIT = (
    "CREATE TABLE audit (what TEXT)",
    # Invariant 8, and "halted_at changes only on a transition", seen at the very statement that breaks them.
    "CREATE TRIGGER audit_read AFTER UPDATE ON orgs WHEN NEW.projection_read_ms < OLD.projection_read_ms BEGIN "
    "INSERT INTO audit VALUES ('a projection of ' || NEW.org_id || ' went back in time'); END",
    "CREATE TRIGGER audit_older AFTER UPDATE ON orgs WHEN NEW.max_concurrent_sandboxes >= 1000 "
    "AND NEW.max_concurrent_sandboxes < OLD.max_concurrent_sandboxes BEGIN "
    "INSERT INTO audit VALUES ('an older read of ' || NEW.org_id || ' overwrote a newer one'); END",
    "CREATE TRIGGER audit_halt AFTER UPDATE ON orgs WHEN OLD.is_halted AND NEW.is_halted "
    "AND NEW.halted_at <> OLD.halted_at BEGIN "
    "INSERT INTO audit VALUES ('halted_at of ' || NEW.org_id || ' was rewritten without a transition'); END",
    "CREATE TRIGGER audit_held AFTER UPDATE ON orgs WHEN NEW.held_watermark_ms < OLD.held_watermark_ms BEGIN "
    "INSERT INTO audit VALUES ('the watermark of ' || NEW.org_id || ' went back'); END",
    "CREATE TRIGGER audit_push AFTER UPDATE ON pushes WHEN OLD.state = 'rejected' AND NEW.state = 'due' BEGIN "
    "INSERT INTO audit VALUES ('the rejected push ' || NEW.key || ' became due by itself'); END",
)


@cache
def _template() -> bytes:
    engine = connect("sqlite://")
    upgrade(engine)
    with engine.connect() as connection, connection.begin():
        for statement in AUDIT:
            connection.exec_driver_sql(statement)
    raw = engine.raw_connection()
    image: bytes = raw.driver_connection.serialize()  # type: ignore[union-attr]
    raw.close()
    return image


def new_database() -> sa.Engine:
    """A migrated, empty database in memory, with the audit's triggers."""
    engine = connect("sqlite://")
    raw = engine.raw_connection()
    raw.driver_connection.deserialize(_template())  # type: ignore[union-attr]
    raw.close()
    return engine


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("a provider in memory never waits")


@dataclass
class Trace:
    """What happened, a line each: hashed whole, the last lines kept for a person."""

    digest: Any = field(default_factory=hashlib.sha256)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=40))
    show: bool = False

    def add(self, line: str) -> None:
        self.digest.update(line.encode())
        self.last.append(line)
        if self.show:
            print(line)


@dataclass
class World:
    """Everything outside the workers."""

    rng: random.Random
    faults: Faults
    time: Time = field(default_factory=lambda: Time(START))
    engine: sa.Engine = field(default_factory=new_database)
    oracle: Oracle = field(default_factory=Oracle)
    cells: Cells = field(default_factory=Cells)
    trace: Trace = field(default_factory=Trace)
    breaches: list[str] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    down: set[str] = field(default_factory=set)
    net: bool = True
    """Whether the nightly sweep runs. Without it, arrivals have to be found by the cursor alone."""
    latest: int = START
    """The latest moment any clock ever showed."""
    effects: int = 0
    samples_made: int = 0
    rejected: set[str] = field(default_factory=set)
    """Keys a provider truly rejected."""
    voided: set[tuple[str, str, str]] = field(default_factory=set)
    """(org, provider, feature) of pushes that were voided."""

    def __post_init__(self) -> None:
        self.clock = FixedClock(self.time.now)
        self.memory = {name: MemoryProvider(name) for name in (MEMORY, WHOLE)}
        embedded = EmbeddedProvider(self.engine, self.clock)
        memory: Mapping[str, Provider] = self.memory
        self.providers: Mapping[str, Provider] = {EMBEDDED: embedded, **memory}
        self.wire = Wire(self.engine, self.breaches)

    def say(self, who: str, what: str) -> None:
        self.trace.add(f"{(self.time.now - START) / 1000:>12.3f} {who:<6} {what}")

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        return read(self.engine, work)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        return write(self.engine, work)

    def rows(self, text: str, **values: object) -> list[tuple[Any, ...]]:
        return self.read(lambda c: [tuple(row) for row in c.execute(sa.text(text), values)])

    def execute(self, text: str, **values: object) -> int:
        return self.write(lambda c: c.execute(sa.text(text), values).rowcount)

    def do(self, effect: Effect) -> Any:
        """Do one effect, with whatever goes wrong on the way."""
        self.effects += 1
        self.clock.at_ms = self.time.now
        match effect:
            case Transaction():
                return self._transaction(effect)
            case Push(provider, batch):
                return self._push(provider, batch)
            case LookUp(provider, requests):
                return self._look_up(provider, requests)
            case ReadCustomers(provider, customer_ids):
                return self._read_customers(provider, customer_ids)
            case SendHalts(halts):
                self.wire.check_halts(halts)
                if self.faults.strikes("halt_request_lost"):
                    return ["no answer"] * len(halts)
                answers = self.write(partial(self.cells.halt, halts=halts))
                if self.faults.strikes("halts_raised"):
                    raise OSError("the network went away")
                lost = self.faults.strikes("halt_answer_lost")
                return ["no answer"] * len(halts) if lost else answers
        raise AssertionError(f"no such effect: {effect!r}")

    def _transaction(self, effect: Transaction) -> Any:
        if effect.name == "sweep" and not self.net:
            return None
        if self.faults.strikes("transaction_failed"):
            write(self.engine, effect.work, rollback=True)
            raise DatabaseBusy("injected: rolled back")
        answer = write(self.engine, effect.work, rollback=effect.rollback)
        if self.faults.strikes("commit_answer_lost"):
            raise DatabaseBusy("injected: committed, and the answer was lost")
        return answer

    def _push(self, provider: str, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        now, count = self.time.now, len(batch)
        if provider in self.down:
            self.faults.note("provider_down")
            return [RetryAt(now + 30_000, "refused")] * count
        if self.faults.strikes("throttled"):
            return [RetryAt(now + self.rng.randrange(MINUTE_MS), "429")] * count
        if self.faults.strikes("throttled_nonsense"):
            return [RetryAt(self.rng.choice((0, -5, now - 86_400_000)), "429")] * count
        if self.faults.strikes("request_lost"):
            return [Unknown("no answer")] * count
        reached = self.rng.randrange(count + 1) if self.faults.strikes("answer_partly_lost") else count
        self.wire.check(provider, batch[:reached])
        answers = list(run_coroutine(self.providers[provider].push(batch[:reached])))
        self.rejected |= {one.key for one, got in zip(batch, answers, strict=False) if isinstance(got, Rejected)}
        answers += [Unknown("no answer")] * (count - reached)
        if self.faults.strikes("answer_raised"):
            raise OSError("the connection was cut")
        return [Unknown("no answer")] * count if self.faults.strikes("answer_lost") else answers

    def _look_up(self, provider: str, requests: Sequence[PushRequest]) -> Any:
        if provider in self.down or self.faults.strikes("lookup_failed"):
            return [ReadFailed("503")] * len(requests)
        return [run_coroutine(self.providers[provider].lookup(one)) for one in requests]

    def _read_customers(self, provider: str, customer_ids: Iterable[str]) -> Any:
        if provider in self.down or self.faults.strikes("read_failed"):
            return {one: ReadFailed("503") for one in customer_ids}
        if self.faults.strikes("read_raised"):
            raise OSError("the connection was cut")
        return run_coroutine(self.providers[provider].customers(list(customer_ids)))
