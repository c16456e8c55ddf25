"""A machine on runs and their wallets, beside a model that keeps one list of what every run was told.

Guarantee: after every step each wallet's balance and hold are what the model says, each run stands where it should, and
`verify` finds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from drawdown.ledger.accounts import HoldTerms
from drawdown.ledger.draws import Cost
from drawdown.ledger.due_changes import mature_due
from drawdown.ledger.reservations import Denied
from drawdown.schema.database import read, write
from drawdown.schema.errors import UnknownId
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.sqlite_databases import fresh
from tests.world import Fleet

WALLETS = ("x", "y")
KEYS = ("a", "b", "c", "d")
amounts = st.sampled_from([1, 2, 5, 30, 100])
costs = st.sampled_from([0, 1, 2, 5, 29, 30, 31, 200])


@dataclass(frozen=True)
class Run:
    """What the model knows of a run."""

    org: str
    amount: int
    overage: str
    expires_ms: int
    drawn: int = 0
    state: str = "held"
    parts: tuple[tuple[int, int], ...] = ()
    """Numbers of draws, and what each was of."""
    before: int = 0
    """What it had drawn as it ended."""
    last: int | None = None
    """What it ended with beyond what had been said of it before; None: without a cost."""

    def rest(self, cost: int, drawn: int) -> int | None:
        """What a cost in all is beyond what its draws were of, whether that was charged or written off; None: it is
        less than was charged."""
        return None if cost < drawn else max(cost - sum(amount for _, amount in self.parts), 0)

    @property
    def left(self) -> int:
        return max(self.amount - self.drawn, 0) if self.state == "held" else 0

    def room(self, more: int) -> int | None:
        """What is charged of it; None: refused."""
        above = self.drawn + more - max(self.amount, self.drawn)
        if above <= 0 or self.overage == "charge":
            return more
        return None if self.overage == "refuse" else more - above


class Runs(RuleBasedStateMachine):
    """Two wallets, four runs at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = fresh()
        self.fleet = Fleet(self.engine)
        self.given = dict.fromkeys(WALLETS, 0)
        self.runs: dict[str, Run] = {}
        self.asked: dict[str, Request] = {}
        self.most_held: int | None = None

    def teardown(self) -> None:
        self.engine.dispose()

    @property
    def now(self) -> int:
        return self.fleet.clock.at_ms

    @initialize(given=st.sampled_from([20, 60, 500]), most_held=st.sampled_from([None, None, 40]))
    def begin(self, given: int, most_held: int | None) -> None:
        self.fleet.assign(*WALLETS)
        if most_held is not None:
            terms = HoldTerms(most_held_micro=most_held)
            self.write(lambda c: credit.set_plan_limit(c, "free", 2, self.fleet.by, holds=vars(terms)))
            self.most_held = most_held
        for org in WALLETS:
            self.give(org, given)

    def give(self, org: str, amount: int) -> None:
        key = f"{org}{len(self.fleet.rows('SELECT 1 FROM ledger_entries'))}"
        self.write(lambda c: credit.grant(c, org, amount, self.fleet.by, key=key, plan="free"))
        self.given[org] += amount

    @rule(org=st.sampled_from(WALLETS), amount=st.sampled_from([-10, 30]))
    def pay(self, org: str, amount: int) -> None:
        self.give(org, amount)

    @rule(key=st.sampled_from(KEYS), org=st.sampled_from(WALLETS), amount=amounts, minutes=st.sampled_from([1, 60]),
          overage=st.sampled_from(["charge", "cap", "refuse"]))  # fmt: skip
    def accept(self, key: str, org: str, amount: int, minutes: int, overage: Any) -> None:
        request = Request(org, amount, overage=overage, for_ms=minutes * MINUTE_MS)
        run = Run(org, amount, overage, self.now + minutes * MINUTE_MS)
        answer = self.told(lambda c: executions.accept(c, key, request, self.fleet.by))
        if key in self.runs:
            kept = self.runs[key]
            same = answer != "other_content"
            assert same == (kept.org == org and self.asked[key] == request), "another run taken for the same"
            return
        self.forget_what_is_over(org)
        held = sum(one.left for one in self.runs.values() if one.org == org)
        allowed = amount <= self.available(org) and (self.most_held is None or held + amount <= self.most_held)
        assert (answer == "ok") == allowed, "accepted beyond what there is, or refused though there is room"
        if allowed:
            self.runs[key], self.asked[key] = run, request

    @rule(key=st.sampled_from(KEYS), number=st.sampled_from([1, 2, 3]), amount=costs)
    def draw(self, key: str, number: int, amount: int) -> None:
        answer = self.told(lambda c: executions.draw(c, key, number, Cost(amount), self.fleet.by))
        run = self.known(key, answer)
        if run is None:
            return
        before = dict(run.parts).get(number)
        if before is not None:
            assert answer == ("ok" if before == amount else "other_content"), "a draw taken for another"
            return
        charged = run.room(amount) if run.state == "held" else None
        assert (answer == "ok") == (charged is not None), "drawn beyond the hold, or refused within it"
        if charged is not None:
            self.runs[key] = replace(run, drawn=run.drawn + charged, parts=(*run.parts, (number, amount)))

    @rule(key=st.sampled_from(KEYS), cost=costs)
    def settle(self, key: str, cost: int) -> None:
        self.end(key, "settled", cost, lambda c: executions.settle(c, key, Cost(cost), self.fleet.by))

    @rule(key=st.sampled_from(KEYS), cost=st.one_of(st.none(), costs))
    def release(self, key: str, cost: int | None) -> None:
        incurred = None if cost is None else Cost(cost)
        self.end(key, "released", cost, lambda c: executions.release(c, key, incurred, self.fleet.by))

    def end(self, key: str, state: str, cost: int | None, act: Callable[[sa.Connection], object]) -> None:
        answer = self.told(act)
        run = self.known(key, answer)
        if run is None:
            return
        if run.state == state:
            if cost is not None and run.last is not None:
                same = run.rest(cost, run.before) == run.last
                assert (answer == "ok") == same, "another end taken for the same"
            return
        may = run.state == "held" or (run.state, state) == ("expired", "settled")
        more = None if cost is None else run.rest(cost, run.drawn)
        charged = 0 if cost is None else None if more is None else run.room(more)
        assert (answer == "ok") == (may and charged is not None), f"it was {run.state}, and said {answer}"
        if answer == "ok":
            assert charged is not None
            self.runs[key] = replace(run, state=state, drawn=run.drawn + charged, before=run.drawn, last=more)

    @rule(key=st.sampled_from(KEYS), to=st.sampled_from([1, 31, 120]), minutes=st.sampled_from([1, 90]))
    def extend(self, key: str, to: int, minutes: int) -> None:
        answer = self.told(lambda c: executions.extend(c, key, to, minutes * MINUTE_MS, self.fleet.by))
        run = self.known(key, answer)
        if run is None:
            return
        self.forget_what_is_over(run.org)
        run = self.runs[key]
        until = max(run.expires_ms, self.now + minutes * MINUTE_MS)
        grown = replace(run, amount=max(run.amount, to), expires_ms=until)
        more = grown.left - run.left
        held = sum(one.left for one in self.runs.values() if one.org == run.org)
        within = self.most_held is None or held + more <= self.most_held
        room = more == 0 or (more <= self.available(run.org) and within)
        assert (answer == "ok") == (run.state == "held" and room), "grown beyond what there is, or refused"
        if answer == "ok":
            self.runs[key] = grown

    @rule(minutes=st.sampled_from([1, 30, 61]))
    def later(self, minutes: int) -> None:
        self.fleet.clock.at_ms += minutes * MINUTE_MS

    @rule()
    def sweep(self) -> None:
        self.write(lambda c: mature_due(c, self.now))
        for org in WALLETS:
            self.forget_what_is_over(org)

    def write(self, work: Callable[[sa.Connection], Any]) -> Any:
        return write(self.engine, work)

    def told(self, work: Callable[[sa.Connection], object]) -> str:
        try:
            self.write(work)
        except Denied as denied:
            return denied.code
        except UnknownId:
            return "unknown"
        return "ok"

    def known(self, key: str, answer: str) -> Run | None:
        """The run, expired if it is over; a key that was never accepted names nothing."""
        assert (answer == "unknown") == (key not in self.runs), "a run that is not there"
        if key in self.runs and self.runs[key].state == "held" and self.runs[key].expires_ms <= self.now:
            self.runs[key] = replace(self.runs[key], state="expired")
        return self.runs.get(key)

    def forget_what_is_over(self, org: str) -> None:
        for key, run in self.runs.items():
            if run.org == org and run.state == "held" and run.expires_ms <= self.now:
                self.runs[key] = replace(run, state="expired")

    def available(self, org: str) -> int:
        theirs = [run for run in self.runs.values() if run.org == org]
        return self.given[org] - sum(run.drawn + run.left for run in theirs)

    @invariant()
    def wallets_and_runs_are_what_the_model_says(self) -> None:
        rows = "SELECT reservation, drawn_micro, state FROM reservations ORDER BY 1"
        kept = {str(key): (drawn, state) for key, drawn, state in self.fleet.rows(rows)}
        assert kept.keys() == self.runs.keys(), "other runs than were accepted"
        for key, run in self.runs.items():
            assert kept[key][0] == run.drawn, "drawn otherwise than the model says"
            # A refused act keeps nothing, not even that it found the run to be over.
            over = run.expires_ms <= self.now and {kept[key][1], run.state} == {"held", "expired"}
            assert kept[key][1] == run.state or over, "it stands elsewhere"
        for org in WALLETS:
            spent = sum(run.drawn for run in self.runs.values() if run.org == org)
            row = "SELECT balance_micro FROM ledger_accounts WHERE account_id = :a"
            found = self.fleet.rows(row, a=f"wallet:{org}")
            assert (found[0][0] if found else 0) == self.given[org] - spent, "the balance is not what the model says"

    @invariant()
    def it_verifies(self) -> None:
        assert read(self.engine, verify).breaches == [], "verify found a breach"
