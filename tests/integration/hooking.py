"""What the tests of webhooks to the operator's product share: a database, endpoints, and a product in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.hooks.deliver import Deliveries, deliver
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.status.ticks import Report
from drawdown.worker.tick import tick
from drawdown.worker.wallets import actions as credit
from tests.fake_product import FakeProduct
from tests.integration.topping import flat
from tests.world import Fleet

T = TypeVar("T")
ORIGINS = frozenset({"https://app.example:443", "https://new.example:443"})


@dataclass
class Shop:
    """One database, and the product that is told."""

    engine: sa.Engine
    product: FakeProduct = field(default_factory=FakeProduct)

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.engine)
        self.clock = self.fleet.clock

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        return write(self.engine, work)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        return read(self.engine, work)

    def rows(self, text: str, **values: object) -> list[tuple[Any, ...]]:
        return self.fleet.rows(text, **values)

    def endpoint(self, name: str = "app", *events: str) -> None:
        work = partial(hooks.set_endpoint, name=name, url="https://app.example/in", events=events, new=True)
        self.write(lambda c: work(c, by=self.fleet.by))

    def context(self, worker: str = "main", **options: Any) -> Context:
        return self.fleet.context(worker, **{"hooks": ORIGINS, **options})

    def world(self) -> runner.World:
        return runner.World(self.engine, self.fleet.providers, self.fleet.cells, self.clock, hooks=self.product)

    def deliver(self, after_ms: int = 0, **options: Any) -> Deliveries:
        """One look, some time later."""
        self.clock.at_ms += after_ms
        return runner.run(deliver(self.context(**options)), self.world())

    def tick(self, windows: int = 2) -> Report:
        """So many windows later."""
        self.clock.at_ms += windows * 300_000
        return runner.run(tick(self.context()), self.world())

    def asked_to_send(self, worker: str) -> tuple[Steps[Deliveries], Any]:
        """A worker's steps up to the call that it asks for."""
        steps = flat(deliver(self.context(worker)))
        effect = next(steps)
        while isinstance(effect, Transaction):
            effect = steps.send(self.write(effect.work))
        return steps, effect

    def go_on(self, steps: Steps[Deliveries], answer: object) -> None:
        """To the end, with what the call came to."""
        try:
            effect = steps.send(answer)
            while True:
                assert isinstance(effect, Transaction)
                effect = steps.send(self.write(effect.work))
        except StopIteration:
            return

    def tries(self, count: int = 1, name: str = "app") -> list[str]:
        """Messages that a person sends to try an endpoint; a millisecond apart, or they would be one."""
        made = []
        for _ in range(count):
            self.clock.at_ms += 1
            made.append(self.write(lambda c: hooks.try_endpoint(c, name, self.fleet.by)))
        return made

    def halt(self, org: str = "acme", *, undo: bool = False) -> None:
        self.write(lambda c: orgs.halt(c, [org], self.fleet.by, undo=undo))

    def grant(self, micro: int, key: str, customer: str = "acme") -> None:
        self.write(lambda c: credit.grant(c, customer, micro, self.fleet.by, key=key, plan=None))

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """Event and data of each message, as written, in order."""
        rows = self.rows("SELECT event, body FROM hook_messages ORDER BY at_ms, event, fact")
        return [(event, json.loads(body)["data"]) for event, body in rows]

    def events(self) -> list[str]:
        return [event for event, _ in self.told()]

    def deliveries(self, columns: str = "state, attempts, failures") -> Sequence[tuple[Any, ...]]:
        return self.rows(f"SELECT {columns} FROM hook_deliveries ORDER BY endpoint, message_id")
