"""A machine on the lots of one wallet, beside a model that goes through all there ever was, a micro-credit at a time.

Guarantee: after every step, once what is due was swept, the wallet and each of its lots are what the model says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from drawdown.ledger import wallet
from drawdown.ledger.draws import Cost
from drawdown.ledger.entries import Usage
from drawdown.ledger.lots import Terms
from drawdown.ledger.reservations import Denied, mature_due
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.commands import credit, executions
from drawdown.worker.commands.run_permission import Request
from drawdown.worker.views.ledger import list_lots
from tests.fresh import fresh
from tests.world import Fleet

HOUR_MS = 60 * MINUTE_MS
WAIT_MS = 12 * MINUTE_MS
EVER = 10**18
FEATURES = (None, "x", "y")


@dataclass
class Given:
    """A lot, as the model knows it."""

    key: str
    amount: int
    priority: int
    begins: int
    ends: int
    features: tuple[str, ...] | None
    taken: int = 0
    expired: int = 0
    paid: int = 0

    @property
    def before(self) -> tuple[int, int, int, int, str]:
        return (self.priority, self.ends, 1 if self.features is None else 0, self.begins, self.key)


@dataclass
class Run:
    amount: int
    accepted: int
    ends: int
    state: str = "held"


@dataclass
class Model:
    """What there was: lots, runs, and each use with its moment and feature."""

    lots: dict[str, Given] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    uses: list[tuple[int, str | None, int]] = field(default_factory=list)
    owed: int = 0
    back: int = 0

    def balance(self, now: int) -> int:
        begun = [one for one in self.lots.values() if one.begins <= now or one.taken]
        spent = sum(amount for _, _, amount in self.uses)
        return sum(one.amount - one.taken - one.expired for one in begun) - spent

    @property
    def held(self) -> int:
        return sum(run.amount for run in self.runs.values() if run.state == "held")

    def pay(self) -> None:
        """Which lot paid for what, from the beginning."""
        for lot in self.lots.values():
            lot.paid = 0
        moments = {one.begins for one in self.lots.values()} | {one.ends for one in self.lots.values()}
        waiting: list[str | None] = []
        self.back = 0
        for start, end in pairwise(sorted({-EVER, EVER} | moments)):
            for feature in FEATURES:
                total = 0
                for ts, what, amount in self.uses:
                    if what == feature and start <= ts < end:
                        total += amount
                waiting += [feature] * total
                self.back -= min(total, 0)
            waiting.sort(key=lambda feature: feature or "")
            while self.back and waiting:
                waiting.pop(0)
                self.back -= 1
            for lot in sorted(self.lots.values(), key=lambda one: one.before):
                if lot.begins <= start < lot.ends:
                    for feature in list(waiting):
                        fits = lot.features is None or feature in lot.features
                        if fits and lot.paid < lot.amount - lot.taken:
                            lot.paid += 1
                            waiting.remove(feature)
        self.owed = len(waiting)

    def fall_due(self, now: int) -> int:
        """Runs that are over, then lots that are; what waits to expire."""
        for run in self.runs.values():
            if run.state == "held" and run.ends <= now:
                run.state = "expired"
        self.pay()
        over = [one for one in self.lots.values() if one.ends + WAIT_MS <= now]
        over.sort(key=lambda one: (one.ends, one.key))
        for lot in over:
            lot.expired = min(lot.expired, lot.amount - lot.taken - lot.paid)
        balance, held, waits = self.balance(now), self.held, 0
        for lot in over:
            for _ in range(lot.amount - lot.taken - lot.paid - lot.expired):
                if balance <= held and held:
                    held, waits = held - 1, waits + 1
                else:
                    lot.expired += 1
                balance -= 1
        return waits


class Lots(RuleBasedStateMachine):
    """One wallet, two features that cost one micro-credit each."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = fresh()
        self.fleet = Fleet(self.engine)
        self.model = Model()
        self.names = 0

    def teardown(self) -> None:
        self.engine.dispose()

    @property
    def now(self) -> int:
        return self.fleet.clock.at_ms

    def name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}{self.names:03}"

    @initialize(lasts=st.sampled_from([None, 2 * HOUR_MS]))
    def begin(self, lasts: int | None) -> None:
        self.fleet.assign("acme")
        for feature in ("x", "y"):
            write(self.engine, lambda c, name=feature: credit.set_rate(c, name, 1, 1, self.fleet.by, from_ms=0))  # type: ignore[misc]
        self.give(5, 50, None, lasts, None)

    @rule(
        amount=st.integers(1, 9),
        priority=st.sampled_from([50, 50, 10]),
        begins=st.sampled_from([None, None, -DAY_MS, HOUR_MS, DAY_MS]),
        lasts=st.sampled_from([None, 2 * HOUR_MS, DAY_MS, 3 * DAY_MS]),
        features=st.sampled_from([None, None, ("x",), ("x", "y")]),
    )
    def give(
        self, amount: int, priority: int, begins: int | None, lasts: int | None, features: tuple[str, ...] | None
    ) -> None:
        key, start = self.name("g"), self.now + (begins or 0)
        ends = None if lasts is None else max(start, self.now) + lasts
        terms = Terms("bonus", priority, None if begins is None else start, ends, features)
        write(self.engine, lambda c: credit.grant(c, "acme", amount, self.fleet.by, key=key, plan=None, terms=terms))
        self.model.lots[f"grant:{key}"] = Given(f"grant:{key}", amount, priority, start, ends or EVER, features)

    @rule(
        amount=st.sampled_from([1, 2, 3, 5, 9, -1, -4]),
        feature=st.sampled_from(["x", "y"]),
        ago=st.sampled_from([0, 0, HOUR_MS, 5 * HOUR_MS, DAY_MS, 3 * DAY_MS]),
    )
    def use(self, amount: int, feature: str, ago: int) -> None:
        use = Usage(self.name("u"), "acme", feature, amount, self.now - ago)
        write(self.engine, lambda c: wallet.charge(c, [use], self.now))
        self.model.uses.append((use.ts, feature, amount))

    @rule(amount=st.integers(1, 6))
    def take_of_no_lot(self, amount: int) -> None:
        key = self.name("m")
        write(self.engine, lambda c: credit.grant(c, "acme", -amount, self.fleet.by, key=key, plan=None))
        self.model.uses.append((self.now, None, amount))

    @rule(wanted=st.sampled_from([1, 5, 9, "all", "all"]), lasts=st.sampled_from([HOUR_MS, DAY_MS, 2 * DAY_MS]))
    def reserve(self, wanted: int | str, lasts: int) -> None:
        room = self.model.balance(self.now) - self.model.held
        amount = wanted if isinstance(wanted, int) else max(room, 1)
        key, request = self.name("e"), Request("acme", amount, for_ms=lasts)
        try:
            write(self.engine, lambda c: executions.accept(c, key, request, self.fleet.by))
        except Denied:
            assert amount > room, "refused, and there was room"
            return
        assert amount <= room, "reserved, and there was no room"
        self.model.runs[key] = Run(amount, self.now, self.now + lasts)

    @precondition(lambda self: self.open_runs)
    @rule(data=st.data(), cost=st.integers(0, 9))
    def settle(self, data: st.DataObject, cost: int) -> None:
        key = data.draw(st.sampled_from(self.open_runs))
        write(self.engine, lambda c: executions.settle(c, key, Cost(cost), self.fleet.by))
        run = self.model.runs[key]
        run.state = "settled"
        self.model.uses.append((run.accepted, None, cost))

    @property
    def open_runs(self) -> list[str]:
        return sorted(key for key, run in self.model.runs.items() if run.state in ("held", "expired"))

    @precondition(lambda self: any(run.state == "held" for run in self.model.runs.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(k for k, run in self.model.runs.items() if run.state == "held")))
        write(self.engine, lambda c: executions.release(c, key, None, self.fleet.by))
        self.model.runs[key].state = "released"

    @rule(data=st.data(), whole=st.booleans())
    def take_back(self, data: st.DataObject, whole: bool) -> None:
        lot = self.model.lots[data.draw(st.sampled_from(sorted(self.model.lots)))]
        told = write(self.engine, lambda c: credit.take_back(c, lot.key, self.fleet.by, whole=whole))
        left = lot.amount - lot.taken
        if not whole:
            left -= lot.paid + lot.expired
            balance, held = self.model.balance(self.now), self.model.held
            while lot.begins <= self.now and left and held and balance - left < held:
                left, held, balance = left - 1, held - 1, balance - 1  # what a run would have to draw stays
        assert told.taken_micro == left, "another amount was taken back"
        lot.taken += left

    @rule(ms=st.sampled_from([MINUTE_MS, WAIT_MS, HOUR_MS, 2 * HOUR_MS, DAY_MS]))
    def wait(self, ms: int) -> None:
        self.fleet.clock.at_ms += ms

    @rule(amount=st.integers(2, 9), after=st.sampled_from([MINUTE_MS, HOUR_MS]))
    def a_run_outlives_its_lot(self, amount: int, after: int) -> None:
        self.give(amount, 10, None, 2 * HOUR_MS, None)
        self.the_wallet_and_its_lots_are_what_the_model_says()
        self.reserve("all", 2 * DAY_MS)
        for ms in (2 * HOUR_MS, WAIT_MS + after):
            self.wait(ms)
            self.the_wallet_and_its_lots_are_what_the_model_says()

    # What must hold after every step

    @invariant()
    def the_wallet_and_its_lots_are_what_the_model_says(self) -> None:
        write(self.engine, lambda c: mature_due(c, self.now))
        waits = self.model.fall_due(self.now)
        row = self.fleet.rows("SELECT balance_micro, held_micro, deferred_micro, next_due_ms FROM ledger_accounts")
        if not row:
            return
        ((balance, held, deferred, next_due),) = row
        assert next_due is None or int(str(next_due)) > self.now, "it would fall due for ever"
        told = read(self.engine, lambda c: list_lots(c, "acme", self.now))
        found = {one.lot: (one.used_micro, one.expired_micro, one.taken_micro) for one in told.lots}
        wanted = {one.key: (one.paid, one.expired, one.taken) for one in self.model.lots.values()}
        assert found == wanted, "a lot is not what the model says"
        assert (balance, held) == (self.model.balance(self.now), self.model.held), "the wallet is not"
        assert (told.owed_micro, told.back_micro) == (self.model.owed, self.model.back), "what is owed is not"
        assert deferred == waits, "what waits is not"

    @invariant()
    def the_order_that_is_shown_is_the_order_of_use(self) -> None:
        told = read(self.engine, lambda c: list_lots(c, "acme", self.now))
        mine = [one for one in self.model.lots.values() if one.begins <= self.now < one.ends]
        in_use = [one.lot for one in told.lots if one.place is not None]
        assert in_use == [one.key for one in sorted(mine, key=lambda one: one.before)], "the order is another one"
