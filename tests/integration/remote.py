"""Organisations whose balance a provider keeps: `far` keeps one, `metered` bills afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import sqlalchemy as sa

from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import Denied
from drawdown.providers.protocol import CustomerState
from drawdown.schema.database import read, write
from drawdown.schema.units import MICRO
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.provider import actions
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet

T = TypeVar("T")
SECONDS = "compute_4gb"
"""Sold by the second; at the provider a second is a unit of the balance."""


class Far:
    """acme is billed by `far`, which keeps 100 units for it; `metered` bills afterwards, and keeps nothing."""

    def __init__(self, engine: sa.Engine, balance: int | None = 100) -> None:
        self.far = FakeProvider(capabilities(), "far")
        self.metered = FakeProvider(capabilities(balance_in_ledger=True), "metered")
        self.fleet = Fleet(engine, extra={"far": self.far, "metered": self.metered})
        self.says(balance)
        self.fleet.assign("acme", provider="far")
        self.write(lambda c: actions.set_rate(c, "far", SECONDS, (MICRO, 1), self.fleet.by, from_ms=T0, new=True))
        self.write(lambda c: credit.set_rate(c, SECONDS, MICRO, 1, self.fleet.by, from_ms=T0))
        self.fleet.tick_windows(1)

    def says(self, balance: int | None) -> None:
        self.far.states["acme"] = CustomerState(None if balance is None else balance * MICRO, "pro", None)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        return write(self.fleet.engine, work)

    def accept(self, key: str, seconds: int = 60, org: str = "acme", **more: object) -> executions.Accepted:
        request = Request(org, quantities={SECONDS: seconds}, **more)  # type: ignore[arg-type]
        return self.write(lambda c: executions.accept(c, key, request, self.fleet.by))

    def settle(self, key: str, seconds: int) -> executions.Settled:
        return self.write(lambda c: executions.settle(c, key, Cost(quantities={SECONDS: seconds}), self.fleet.by))

    def draw(self, key: str, number: int, seconds: int) -> executions.Settled:
        cost = Cost(quantities={SECONDS: seconds})
        return self.write(lambda c: executions.draw(c, key, number, cost, self.fleet.by))

    def release(self, key: str, seconds: int | None = None) -> executions.Settled:
        cost = None if seconds is None else Cost(quantities={SECONDS: seconds})
        return self.write(lambda c: executions.release(c, key, cost, self.fleet.by))

    def preview(self, request: Request) -> executions.Preview:
        return read(self.fleet.engine, lambda c: executions.preview(c, request, self.fleet.clock.at_ms))

    def denied(self, work: Callable[[], object]) -> str:
        with pytest.raises(Denied) as caught:
            work()
        return caught.value.code

    @property
    def available(self) -> int:
        found = self.preview(Request("acme", quantities={SECONDS: 1}))
        assert found.available_micro is not None
        assert found.available_micro % MICRO == 0
        return found.available_micro // MICRO

    @property
    def billed(self) -> int:
        """What the provider charged, in seconds."""
        return sum(push.quantity for push in self.far.charged.values())

    def clean(self) -> None:
        found = read(self.fleet.engine, verify)
        assert found.breaches == []
