"""A prepaid provider for tests: what is charged is drawn from credit, and a watch goes round."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from drawdown.providers.protocol import (
    Accepted,
    CustomerRead,
    CustomerState,
    Outcome,
    PushRequest,
    ReadFailed,
    ShownCredit,
)
from drawdown.schema.audit import By, record
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.worker.engine import runner
from drawdown.worker.provider.actions import set_rate
from drawdown.worker.watch import Watched, Watcher, watch
from tests.fake_provider import FakeProvider
from tests.world import Fleet

CREDIT = 1_000_000
"""One second of 1 GB at this provider, in micro-credits."""


@dataclass
class Moving(FixedClock):
    """A clock that is a millisecond later each time one looks, as real ones are."""

    def now_ms(self) -> int:
        self.at_ms += 1
        return self.at_ms


@dataclass
class Prepaid(FakeProvider):
    """Balances are credit less what was charged, of which `hidden` keys are not shown yet."""

    credit: dict[str, int] = field(default_factory=dict)
    plan: str | None = "prepaid"
    down: str | None = None
    unread: Collection[str] = ()
    """Customers who cannot be read."""
    hides: bool = False
    """Whether balances trail behind: what was charged is not shown."""
    tells: bool = False
    """Whether the answer to a push says what is left."""
    meanwhile: Callable[[], None] | None = None
    """Done once, while an answer is on its way."""
    asked: list[str] = field(default_factory=list)

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        answers = list(await super().push(batch))
        if self.tells:
            told = [ShownCredit(self._state(push.customer_id).balance_micro, push.quantity * CREDIT) for push in batch]
            pairs = zip(answers, told, strict=True)
            answers = [Accepted(left) if isinstance(answer, Accepted) else answer for answer, left in pairs]
        self._meanwhile()
        return answers

    def _meanwhile(self) -> None:
        work, self.meanwhile = self.meanwhile, None
        if work is not None:
            work()

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        self.asked += customer_ids
        if self.down is not None:
            return {name: ReadFailed(self.down) for name in customer_ids}
        found: dict[str, CustomerRead] = {name: self.states.get(name) or self._state(name) for name in customer_ids}
        self._meanwhile()
        return found | {name: ReadFailed("503") for name in customer_ids if name in self.unread}

    def _state(self, name: str) -> CustomerState:
        drawn = sum(one.quantity for one in self.charged.values() if one.customer_id == name) * CREDIT
        return CustomerState(self.credit.get(name, 0) - (0 if self.hides else drawn), self.plan, 3)


def look(fleet: Fleet, after_ms: int = 5_000, watcher: Watcher | None = None) -> Watched:
    """One round of the watch, some time later."""
    fleet.clock.at_ms += after_ms
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    return runner.run(watch(fleet.context("watch"), watcher or Watcher()), world)


def price(fleet: Fleet, micro: int = CREDIT) -> None:
    """Set what a second of 1 GB takes at the provider."""
    write(fleet.engine, lambda c: set_rate(c, "fake", "compute_1gb", (micro, 1), fleet.by, from_ms=None))


_TOLD = (
    "INSERT INTO provider_rates (provider, feature, start_ms, micro, per_quantity, at_ms, actor, reason, balance) "
    "VALUES (:provider, :feature, :start_ms, :micro, :per_quantity, :at_ms, :provider, 'told', :balance)"
)


def tell_cost(
    fleet: Fleet, provider: str, feature: str, micro: int, *, balance: str = "credits", start_ms: int = 0
) -> None:
    """A provider tells itself what a second of a feature takes from a balance in credits."""
    by = By(fleet.clock.now_ms(), provider, "told")
    details = {"feature": feature, "micro": micro, "per_quantity": 1, "start_ms": start_ms}

    def tell(connection: sa.Connection) -> None:
        row = {**details, "provider": provider, "at_ms": by.now_ms, "balance": balance}
        connection.execute(sa.text(_TOLD), row)
        record(connection, "provider_rate", provider, details, by)

    write(fleet.engine, tell)
