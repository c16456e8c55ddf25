"""A pool called course, and the wallets of acme and wayne, in micro-credits; x costs one each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.ledger.draws import Cost
from drawdown.ledger.due_changes import mature_due
from drawdown.ledger.entries import Usage
from drawdown.ledger.lots import EXPIRY_WAIT_MS, Terms
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools
from drawdown.worker.wallets.pools import AllotmentRow, PoolView, show_pool
from tests.integration.verifying import verified
from tests.world import T0, Fleet

T = TypeVar("T")
END = T0 + 30 * DAY_MS
BACK = END + EXPIRY_WAIT_MS
"""When what nobody used of an allotment is booked."""


class Course:
    def __init__(self, engine: sa.Engine) -> None:
        self.fleet = Fleet(engine)
        self.uses = 0
        for org in ("acme", "wayne"):
            self.fleet.assign(org)
        self.write(lambda c: credit.set_rate(c, "x", 1, 1, self.fleet.by, from_ms=0))
        assert self.write(lambda c: pools.make(c, "course", self.fleet.by))
        self.give("course", 100)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        return write(self.fleet.engine, work)

    def give(self, customer: str, amount: int, **terms: object) -> None:
        asked = Terms(**terms)  # type: ignore[arg-type]
        self.uses += 1
        key = f"{customer}{self.uses}"
        self.write(lambda c: credit.grant(c, customer, amount, self.fleet.by, key=key, plan=None, terms=asked))

    def allot(self, amount: int, customer: str = "acme", ends: int = END, key: str = "a") -> pools.Allotted:
        return self.write(lambda c: pools.allot(c, "course", customer, amount, ends, self.fleet.by, key=key))

    def use(self, amount: int, customer: str = "acme", ts: int | None = None) -> None:
        self.uses += 1
        at = self.fleet.clock.at_ms
        use = Usage(f"u{self.uses}", customer, "x", amount, at if ts is None else ts)
        assert self.write(lambda c: wallet.charge(c, [use], at)) == [wallet.Charge.CHARGED]

    def allow(self, payer: str = "wayne", org: str = "acme", limit: int | None = None) -> None:
        self.write(lambda c: pools.allow(c, payer, org, self.fleet.by, limit_micro=limit))

    def end(self, payer: str = "wayne", org: str = "acme") -> bool:
        return self.write(lambda c: pools.end(c, payer, org, self.fleet.by))

    def accept(self, key: str, amount: int, org: str = "acme", **more: object) -> executions.Accepted:
        request = Request(org, amount, **more)  # type: ignore[arg-type]
        return self.write(lambda c: executions.accept(c, key, request, self.fleet.by))

    def draw(self, key: str, number: int, amount: int) -> None:
        self.write(lambda c: executions.draw(c, key, number, Cost(amount), self.fleet.by))

    def settle(self, key: str, amount: int) -> None:
        self.write(lambda c: executions.settle(c, key, Cost(amount), self.fleet.by))

    def take_back(self, lot: str, *, whole: bool = False) -> int:
        return self.write(lambda c: credit.take_back(c, lot, self.fleet.by, whole=whole)).taken_back_micro

    def sweep(self, at_ms: int | None = None) -> None:
        """What is due is made true, and then nothing is."""
        if at_ms is not None:
            self.fleet.clock.at_ms = at_ms
        now = self.fleet.clock.at_ms
        for _ in range(5):
            if not self.write(lambda c: mature_due(c, now)).more:
                break
        assert self.fleet.one("SELECT COUNT(*) FROM ledger_accounts WHERE next_due_ms <= :now", now=now) == 0

    def balance(self, customer: str) -> int:
        account = f"wallet:{customer}"
        return int(str(self.fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = :a", a=account)))

    @property
    def balances(self) -> tuple[int, int, int]:
        """Of the pool, of acme and of wayne."""
        return (self.balance("course"), *(self.balance(one) if self.has(one) else 0 for one in ("acme", "wayne")))  # type: ignore[return-value]

    def has(self, customer: str) -> bool:
        text = "SELECT COUNT(*) FROM ledger_accounts WHERE account_id = :a"
        return self.fleet.one(text, a=f"wallet:{customer}") == 1

    @property
    def shown(self) -> PoolView:
        return read(self.fleet.engine, lambda c: show_pool(c, "course", self.fleet.clock.at_ms, 100))

    def row(self, key: str = "a") -> AllotmentRow:
        return next(one for one in self.shown.allotments if one.lot == f"allot:course:{key}")

    def became(self, key: str = "a") -> tuple[int, int, int, int]:
        """Left or waiting, used, returned, taken back."""
        one = self.row(key)
        return (one.remaining_micro + one.waits_micro, one.used_micro, one.returned_micro, one.taken_back_micro)

    def prove(self) -> None:
        assert [one.text for one in verified(self.fleet).breaches if one.invariant in (2, 10)] == []
        for row in self.shown.allotments:
            became = row.remaining_micro + row.waits_micro + row.used_micro + row.returned_micro + row.taken_back_micro
            assert row.amount_micro == became, row
