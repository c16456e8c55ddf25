"""A guard on one database: organisations with wallets, and metrics that cost a credit, some of one, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from drawdown.guard.periods import Period
from drawdown.ledger.lots import Terms as LotTerms
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.overrides import OverrideRow, Terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.guard.use import Answer, Wish
from drawdown.worker.wallets import actions as credit
from tests.integration.verifying import verified
from tests.world import Fleet

T = TypeVar("T")


class Guarded:
    """`idea` costs a credit, `byte` one for 25; `look` costs nothing. All of them block in phase 3."""

    def __init__(self, engine: sa.Engine, fleet: Fleet | None = None) -> None:
        self.fleet = fleet or Fleet(engine)
        self.keys = 0
        self.metric("idea", price_micro=MICRO)
        self.metric("byte", price_micro=MICRO, per_units=25)
        self.metric("look")
        self.give("acme", 100)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        return write(self.fleet.engine, work)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        return read(self.fleet.engine, work)

    def metric(self, name: str, **terms: object) -> None:
        change = Change(**{"phase": 3, **terms})  # type: ignore[arg-type]
        self.write(lambda c: guard_terms.set_metric(c, name, change, self.fleet.by))

    def limit(
        self, metric: str, amount: int | None, period: Period = "month", plan: str = "*", phase: int | None = None,
        ended: bool = False,
    ) -> bool:  # fmt: skip
        terms = PlanLimit(metric, plan, period, amount, phase)
        return self.write(lambda c: guard_terms.set_limit(c, terms, self.fleet.by, ended=ended))

    def give(self, customer: str, credits_: int, kind: str = "bonus", plan: str | None = None) -> None:
        self.keys += 1
        key, terms = f"g{self.keys}", LotTerms(kind=kind)  # type: ignore[arg-type]
        self.write(
            lambda c: credit.grant(
                c, customer, credits_ * MICRO, self.fleet.by, key=key, plan=plan, terms=terms, new=True
            )
        )

    def check(self, metric: str, amount: int = 1, org: str = "acme", **more: object) -> Answer:
        wish = Wish(org, metric, amount, **more)  # type: ignore[arg-type]
        return self.read(lambda c: guard.check(c, wish, self.now))

    def consume(
        self, metric: str, amount: int = 1, org: str = "acme", key: str | None = None, **more: object
    ) -> Answer:
        return self._take(guard.consume, metric, amount, org, key, more)

    def reserve(
        self, metric: str, amount: int = 1, org: str = "acme", key: str | None = None, **more: object
    ) -> Answer:
        return self._take(guard.reserve, metric, amount, org, key, more)

    def settle(self, key: str, actual: int) -> Answer:
        return self.write(lambda c: guard.settle(c, key, actual, self.fleet.by))

    def release(self, key: str, incurred: int = 0) -> Answer:
        return self.write(lambda c: guard.release(c, key, incurred, self.fleet.by))

    def extend(self, key: str, to: int | None = None, for_ms: int | None = None) -> Answer:
        return self.write(lambda c: guard.extend(c, key, to, for_ms, self.fleet.by))

    def override(
        self, metric: str, amount: int | None, target: str = "acme", reach: str = "org", period: Period = "month",
        ends_ms: int | None = None, asked: bool = False, permanent: bool = False,
    ) -> OverrideRow:  # fmt: skip
        ends = None if permanent else ends_ms or self.now + DAY_MS
        terms = Terms(metric, reach, target, period, amount, ends)  # type: ignore[arg-type]
        return self.write(lambda c: guard_overrides.add(c, terms, self.fleet.by, asked=asked, permanent=permanent))[0]

    def decide(self, number: int, word: guard_overrides.Word) -> tuple[OverrideRow, bool]:
        return self.write(lambda c: guard_overrides.decide(c, number, word, self.fleet.by))

    @property
    def now(self) -> int:
        return self.fleet.clock.at_ms

    def later(self, ms: int) -> None:
        self.fleet.clock.at_ms += ms

    def used(self, metric: str, period: Period = "month", org: str = "acme") -> int:
        """As counters say, of all periods."""
        text = "SELECT SUM(used) FROM guard_counters WHERE org_id = :o AND metric = :m AND period = :p"
        return int(str(self.fleet.one(text, o=org, m=metric, p=period) or 0))

    def wallet(self, customer: str = "acme") -> tuple[int, int]:
        """Balance and what is held, in micro-credits."""
        text = "SELECT balance_micro, held_micro FROM ledger_accounts WHERE account_id = :a"
        ((balance, held),) = self.fleet.rows(text, a=f"wallet:{customer}")
        return int(str(balance)), int(str(held))

    def prove(self) -> None:
        assert [one.text for one in verified(self.fleet).breaches] == []

    def _take(
        self, work: Callable[..., Answer], metric: str, amount: int, org: str, key: str | None, more: dict[str, object]
    ) -> Answer:
        self.keys += 1
        wish = Wish(org, metric, amount, **more)  # type: ignore[arg-type]
        own = key or f"k{self.keys}"
        return self.write(lambda c: work(c, own, wish, self.fleet.by))
