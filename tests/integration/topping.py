"""What the tests of top-ups share: wallets with terms, a payment service in this process, and a judge of its books."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import sqlalchemy as sa

from drawdown.ledger import lots, wallet
from drawdown.ledger.entries import Usage
from drawdown.providers.payments.protocol import ChargeResult, Declined, InDoubt, NeedsCustomer, NotSent, Payment
from drawdown.schema.audit import By
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import read, write
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import MICRO, MINUTE_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import (
    ChargeMoney,
    Effect,
    LookUpMoney,
    RunTogether,
    SaveWitness,
    Steps,
    Transaction,
)
from drawdown.worker.topup import actions as said
from drawdown.worker.topup.actions import Terms, TermsChange
from drawdown.worker.topup.fill import MOST_DECLINES, Filled, fill
from drawdown.worker.wallets.actions import grant, set_rate
from tests.fake_payments import CAN, FakePayments
from tests.world import T0, Cells

T = TypeVar("T")
HOUR_MS = 60 * MINUTE_MS
TERMS = Terms(
    threshold_micro=5 * MICRO,
    amount_micro=20 * MICRO,
    fill_to_micro=None,
    price_minor=100,
    currency="usd",
    service="fake",
    service_customer="cus_acme",
    most_minor=100_000,
    max_day=100,
    max_month=1_000,
)


class Purses:
    """Wallets, terms, and a payment service."""

    def __init__(self, engine: sa.Engine, seed: int = 0, rate: float = 0.0) -> None:
        self.engine, self.clock = engine, FixedClock(T0)
        self.pay = FakePayments(self.clock, random.Random(seed), rate)
        self.uses = 0
        self.armed: dict[str, list[int]] = {}
        """When people said that a wallet has another card."""
        self.write(lambda c: set_rate(c, "tokens", 1, 1, self.by, from_ms=0))

    @property
    def by(self) -> By:
        return By(self.clock.at_ms, "test", "a test")

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        return write(self.engine, work)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        return read(self.engine, work)

    def rows(self, text: str, **values: object) -> list[tuple[Any, ...]]:
        return self.read(lambda c: [tuple(row) for row in c.execute(sa.text(text), values)])

    def set(self, customer: str = "acme", **changes: Any) -> None:
        terms = replace(TERMS, **{"service_customer": f"cus_{customer}", **changes})
        self.write(lambda c: said.set_terms(c, customer, terms, CAN, self.by, new=True))

    def change(self, customer: str = "acme", **changes: Any) -> TermsChange:
        terms = self.write(lambda c: said.require_terms(c, customer))
        return self.write(lambda c: said.set_terms(c, customer, replace(terms, **changes), CAN, self.by, new=True))

    def resume(self, customer: str = "acme") -> None:
        self.write(lambda c: said.resume(c, customer, self.by))
        self.armed.setdefault(customer, []).append(self.clock.at_ms)

    def grant(
        self, credits: int, customer: str = "acme", key: str | None = None, terms: lots.Terms = lots.PLAIN
    ) -> None:
        self.uses += 1
        name = key or f"g{self.uses}"
        self.write(lambda c: grant(c, customer, credits * MICRO, self.by, key=name, plan=None, terms=terms))

    def use(self, micro: int, customer: str = "acme") -> None:
        """Draw on a wallet, as metering does."""
        self.uses += 1
        one = Usage(f"usage:{self.uses}", customer, "tokens", micro, T0)
        self.write(lambda c: wallet.charge(c, [one], self.clock.at_ms))

    def later(self, ms: int) -> None:
        self.clock.at_ms += ms

    def context(self, worker: str = "w1", **options: Any) -> Context:
        dormant = () if self.pay.dormant is None else ("fake",)
        payments = {"fake": self.pay.capabilities}
        return Context(worker, self.clock, {}, payments=payments, dormant_payments=dormant, **options)

    def world(self) -> runner.World:
        return runner.World(self.engine, {}, Cells(), self.clock, payments={"fake": self.pay})

    def fill(self, after_ms: int = 5_000, only: str = "", **options: Any) -> Filled:
        """One look, some time later."""
        self.later(after_ms)
        if self.engine.url.database in (None, ""):  # in memory: it is of this thread alone
            return Hand(self, random.Random(0), dies=0.0).whole(fill(self.context(**options), only))
        return runner.run(fill(self.context(**options), only), self.world())

    def settle(self, days: int = 4) -> None:
        """Look until nothing is open; nothing fails any more."""
        self.pay.rate = 0.0
        self.pay.script.clear()
        for _ in range(days * 12):
            self.fill(2 * HOUR_MS)
            if not self.rows("SELECT 1 FROM topups WHERE state IN ('due', 'sending', 'in_doubt')"):
                return
        raise AssertionError(f"still open: {self.topups()}")

    def topups(self) -> list[tuple[str, str]]:
        return self.rows("SELECT topup, state FROM topups ORDER BY customer_id, episode")

    def credits(self, customer: str = "acme") -> float:
        ((micro,),) = self.rows(
            "SELECT balance_micro FROM ledger_accounts WHERE account_id = :a", a=f"wallet:{customer}"
        )
        return float(micro / MICRO)


def judged(purses: Purses) -> list[str]:
    """What is wrong, a line each: the service's own books beside the ledger."""
    lines = [f"{name} was charged twice" for name in purses.pay.doubles()]
    prices = {
        row[0]: row[1:] for row in purses.rows("SELECT topup, money_minor, credits_micro, customer_id FROM topups")
    }
    credited: dict[str, int] = {}
    for key, account, micro in purses.rows(
        "SELECT key, to_account, amount_micro FROM ledger_entries WHERE kind = 'grant' AND key LIKE 'topup:%'"
    ):
        credited[key] = micro
        if key not in prices or (micro, account) != (prices[key][1], f"wallet:{prices[key][2]}"):
            lines.append(f"{key} credits {micro} to {account}")
    for one in purses.pay.taken:
        if one.charge_id not in credited:
            lines.append(f"{one.charge_id} was paid, and not credited")
        if one.charge_id in prices and prices[one.charge_id][0] != one.amount:
            lines.append(f"{one.charge_id} took {one.amount}")
    paid = {one.charge_id for one in purses.pay.taken}
    lines += [f"{name} was credited, and not paid" for name in sorted(credited.keys() - paid)]
    states = dict(purses.topups())
    lines += [f"{name} was credited, and is not so" for name in sorted(credited) if states.get(name) != "credited"]
    return lines + _dying_cards(purses)


def _dying_cards(purses: Purses) -> list[str]:
    """Cards that were charged again although they had been declined too often, by the service's own books. A charge is
    one refusal, however often it was answered."""
    found = []
    known = sorted(
        ((one.made_ms, one.charge, one.result) for made in purses.pay.known.values() for one in made[:1]),
        key=lambda one: one[0],
    )
    for customer in sorted({charge.customer_id for _, charge, _ in known}):
        arms = iter([*purses.armed.get(customer.removeprefix("cus_"), []), 2**62])
        declines, dead, armed = 0, "", next(arms)
        for made_ms, charge, result in known:
            if charge.customer_id != customer:
                continue
            while armed <= made_ms:
                declines, dead, armed = 0, "", next(arms)
            if dead:
                found.append(f"{charge.charge_id} was charged after {dead}")
            if isinstance(result, Payment):
                declines = 0
            else:
                declines += isinstance(result, Declined | NeedsCustomer)
            if declines >= MOST_DECLINES or (isinstance(result, Declined) and not result.retry):
                dead = f"{declines} declines, the last of {charge.charge_id}"
    return found


@dataclass
class Running:
    """One process in the middle of its steps."""

    steps: Steps[Filled]
    answer: object = None
    failure: Exception | None = None
    pending: Effect | None = None


class Hand:
    """Drives lanes by hand, several side by side, an effect at a time: any of them may die before an effect, in it or
    after it, and lie still for as long as it likes in between."""

    def __init__(self, purses: Purses, rng: random.Random, dies: float = 0.08, processes: int = 3) -> None:
        self.purses, self.rng, self.dies = purses, rng, dies
        self.running: list[Running | None] = [None] * processes
        self.deaths = 0

    def step(self) -> None:
        """One process goes on by one effect."""
        place = self.rng.randrange(len(self.running))
        one = self.running[place]
        if one is None:
            self.purses.uses += 1
            one = self.running[place] = Running(flat(fill(self.purses.context(f"w{self.purses.uses}"))))
        if not self._goes_on(one):
            self.running[place] = None

    def whole(self, steps: Steps[T]) -> T:
        """Drive one to its end, while nothing goes wrong in here."""
        steps, answer = flat(steps), None
        while True:
            try:
                effect = steps.send(answer)
            except StopIteration as stop:
                result: T = stop.value
                return result
            answer = self._do(effect, False)

    def _goes_on(self, one: Running) -> bool:
        """Whether it lives on."""
        try:
            effect = one.steps.throw(one.failure) if one.failure is not None else one.steps.send(one.answer)
        except StopIteration:
            return False
        except DatabaseBusy:
            return False
        one.answer = one.failure = None
        dies = self.rng.random() < self.dies
        self.deaths += dies
        if dies and self.rng.random() < 0.4:
            return False
        self.purses.later(
            self.rng.choice((0, 0, 1_000, 1_000, 5_000, 30_000, 130_000)) if self.rng.random() < 0.2 else 50
        )
        try:
            one.answer = self._do(effect, dies)
        except Exception as error:  # handed to the step, as the runner does
            one.failure = error
        return not dies

    def _do(self, effect: Effect, dies: bool) -> object:
        match effect:
            case Transaction(_, work):
                if self.dies and self.rng.random() < 0.01:
                    raise DatabaseBusy("injected: rolled back")
                answer = write(self.purses.engine, work)
                if self.dies and self.rng.random() < 0.01:
                    raise DatabaseBusy("injected: committed, and the answer was lost")
                return answer
            case ChargeMoney(_, charges, over):
                made = self.rng.randrange(len(charges) + 1) if dies else len(charges)
                return [self._charge(one, over) for one in charges[:made]]
            case LookUpMoney(_, charges):
                return [self._look_up(one) for one in charges]
            case SaveWitness():
                return None
        raise AssertionError(f"no such effect: {effect!r}")

    def _charge(self, request: Any, over: Callable[[], bool]) -> ChargeResult:
        if over():
            return NotSent("not sent: no time was left", self.purses.clock.at_ms)
        try:
            return self.purses.pay.charged(request)
        except OSError as error:
            return InDoubt(str(error))

    def _look_up(self, request: Any) -> ChargeResult:
        try:
            return self.purses.pay.looked_up(request)
        except OSError as error:
            return InDoubt(str(error))


def flat(steps: Steps[T]) -> Steps[T]:
    """The same, with what would run together one after the other."""
    answer: Any = None
    failure: Exception | None = None
    while True:
        try:
            effect = steps.throw(failure) if failure is not None else steps.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result
        answer = failure = None
        try:
            if isinstance(effect, RunTogether):
                answer = []
                for lane in effect.steps:
                    answer.append((yield from flat(lane)))
            else:
                answer = yield effect
        except Exception as error:
            failure = error
