"""A machine on the lots of one wallet, beside a model that goes through all there ever was, a micro-credit at a time.

Guarantee: after every step, once what is due was swept, the wallet and each of its lots are what the model says: those
that were granted, those that plans gave for each month, and those that rolled over; and so are its tiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from drawdown.ledger import accounts, reservations, wallet
from drawdown.ledger.draws import Cost
from drawdown.ledger.due_changes import mature_due
from drawdown.ledger.entries import Usage
from drawdown.ledger.grants import Gives
from drawdown.ledger.lots import Terms
from drawdown.ledger.reservations import Denied
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import tiers
from drawdown.worker.wallets.accounts import list_lots
from tests.sqlite_databases import fresh
from tests.stateful import lots_model
from tests.stateful.lots_model import EVER, TAKEN, TIER, WAIT_MS, Given, Model, Run, month_of
from tests.world import Fleet

HOUR_MS = 60 * MINUTE_MS
MOST = {None: None, "a": 2, "b": 5}
"""Concurrent sandboxes, by plan."""
PRO = 4
"""With the tier."""
AVAILABLE: Final = reservations.SQL.text("available_micro", "sqlite")


class Lots(RuleBasedStateMachine):
    """One wallet, two features that cost one micro-credit each, two plans and a tier."""

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
        for plan, most in MOST.items():
            if plan is not None:
                write(self.engine, lambda c, plan=plan, most=most: credit.set_plan_limit(c, plan, most, self.fleet.by))  # type: ignore[misc]
                self.model.plans[plan] = []
        write(self.engine, lambda c: tiers.set_tier(c, "pro", tiers.Change(PRO, TIER), self.fleet.by))
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
        ago=st.sampled_from([0, 0, HOUR_MS, 5 * HOUR_MS, DAY_MS, 3 * DAY_MS, 20 * DAY_MS, 40 * DAY_MS]),
    )
    def use(self, amount: int, feature: str, ago: int) -> None:
        use = Usage(self.name("u"), "acme", feature, amount, self.now - ago)
        write(self.engine, lambda c: wallet.charge(c, [use], self.now))
        self.model.uses.append((use.ts, feature, amount))

    @rule(amount=st.integers(1, 6))
    def take_of_no_lot(self, amount: int) -> None:
        key = self.name("m")
        write(self.engine, lambda c: credit.grant(c, "acme", -amount, self.fleet.by, key=key, plan=None))
        self.model.uses.append((self.now, TAKEN, amount))

    @rule(wanted=st.sampled_from([1, 5, 9, "all", "all"]), lasts=st.sampled_from([HOUR_MS, DAY_MS, 2 * DAY_MS]))
    def reserve(self, wanted: int | str, lasts: int) -> None:
        self.model.fall_due(self.now)
        room = self.model.available(self.now)
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
            left = lot.left
            over = self.model.over(self.now)
            others = max(over - (left if lot.ends <= self.now else 0), 0)  # they pay for no new run
            balance, held = self.model.balance(self.now) - others, self.model.held
            while lot.begins <= self.now and left and held and balance - left < held:
                left, held, balance = left - 1, held - 1, balance - 1  # what a run would have to draw stays
        assert told.taken_back_micro == left, "another amount was taken back"
        lot.taken += left

    # Plans and tiers

    @rule(
        plan=st.sampled_from(["a", "b"]),
        included=st.sampled_from([0, 4, 8, 8]),
        rolls=st.sampled_from([(0, 0), (0, 5), (0, 20), (3, 6)]),
        first=st.sampled_from([0, 0, 2]),
    )
    def a_plan_gives(self, plan: str, included: int, rolls: tuple[int, int], first: int) -> None:
        gives = Gives(included, *rolls, first)
        write(self.engine, lambda c: credit.set_plan_limit(c, plan, None, self.fleet.by, gives=vars(gives)))
        terms, before_ms = self.model.plans[plan], [moment for name, moment in self.model.stays if name == plan]
        if self.plan == plan:  # the month was looked at
            before_ms.append(lots_model.MONTHS[month_of(self.now)])
        since = max([self.now, *(moment + 1 for moment in before_ms)])
        before = (terms[-1].included, terms[-1].rolls, terms[-1].first) if terms else (0, (0, 0), 0)
        if before != (included, rolls, first):
            since = max(since, terms[-1].since) if terms else since
            terms.append(lots_model.Terms(since, included, rolls, first))

    @property
    def plan(self) -> str | None:
        return self.model.stays[-1][0] if self.model.stays else None

    @rule(plan=st.sampled_from(["a", "b"]))
    def come_onto(self, plan: str) -> None:
        key = self.name("p")
        write(self.engine, lambda c: credit.grant(c, "acme", 1, self.fleet.by, key=key, plan=plan))
        self.model.add(Given(f"grant:{key}", 1, 50, self.now, EVER))
        if self.plan != plan:
            self.model.stays.append((plan, self.now))

    @rule()
    def buy_the_tier(self) -> None:
        tier, room = self.model.tier, self.model.available(self.now)
        may = self.plan is not None and (month_of(self.now) in self.model.paid or room >= TIER)
        goes_on = tier is not None and tier.renews and not tier.ended and tier.paid_to > self.now
        try:
            done = write(self.engine, lambda c: tiers.buy(c, "acme", "pro", self.fleet.by))
        except Denied:
            assert not may and not goes_on, "refused, and there was room"
            return
        assert may or goes_on, "bought, and there was no room"
        assert done.changed == (not goes_on), "what was said of it is not so"
        if not goes_on:
            self.model.charge(self.now)

    @precondition(lambda self: self.model.tier is not None)
    @rule()
    def let_the_tier_end(self) -> None:
        write(self.engine, lambda c: tiers.let_end(c, "acme", "pro", self.fleet.by))
        assert self.model.tier is not None
        self.model.tier.renews = False

    @rule(ms=st.sampled_from([MINUTE_MS, WAIT_MS, HOUR_MS, 2 * HOUR_MS, DAY_MS, 9 * DAY_MS, 31 * DAY_MS, 75 * DAY_MS]))
    def wait(self, ms: int) -> None:
        self.fleet.clock.at_ms += ms

    @rule(amount=st.integers(2, 9))
    def one_lot_begins_after_another(self, amount: int) -> None:
        for begins in (HOUR_MS, 2 * HOUR_MS):
            self.give(amount, 50, begins, None, None)
        for _ in range(2):
            self.wait(HOUR_MS)
            self.the_wallet_and_its_lots_are_what_the_model_says()

    @rule(after=st.sampled_from([0, MINUTE_MS, WAIT_MS, WAIT_MS + MINUTE_MS]))
    def the_month_turns(self, after: int) -> None:
        self.wait(lots_model.MONTHS[month_of(self.now) + 1] - self.now)
        if after:
            self.the_wallet_and_its_lots_are_what_the_model_says()
            self.wait(after)

    @rule(
        included=st.sampled_from([4, 8]),
        rolls=st.sampled_from([(0, 20), (3, 6)]),
        use=st.integers(0, 9),
        wanted=st.sampled_from([None, None, "all"]),
        late=st.integers(0, 3),
        after=st.sampled_from([MINUTE_MS, WAIT_MS, DAY_MS]),
    )
    def a_month_goes_by(
        self, included: int, rolls: tuple[int, int], use: int, wanted: str | None, late: int, after: int
    ) -> None:
        """On a plan and with a tier, and then some of it was used late."""
        self.a_plan_gives("b", included, rolls, 0)
        self.come_onto("b")
        self.the_wallet_and_its_lots_are_what_the_model_says()
        self.buy_the_tier()
        self.wait(lots_model.MONTHS[month_of(self.now) + 1] - self.now - HOUR_MS)
        self.the_wallet_and_its_lots_are_what_the_model_says()
        self.use(use, "x", 0)
        if wanted is not None:
            self.reserve(wanted, 2 * HOUR_MS)
        self.the_month_turns(after)
        for _ in range(late):
            self.the_wallet_and_its_lots_are_what_the_model_says()
            self.use(1, "x", 3 * DAY_MS)

    @rule(
        amount=st.integers(2, 9),
        held=st.sampled_from([None, 1, "all"]),
        used=st.integers(0, 4),
        late=st.sampled_from([-2, 1, 3]),
        wanted=st.sampled_from([1, "all"]),
    )
    def a_lot_ends_minutes_ago(
        self, amount: int, held: int | str | None, used: int, late: int, wanted: int | str
    ) -> None:
        """What is left of it pays for nothing new; use that shows late is dated before its end."""
        self.give(amount, 10, None, 2 * HOUR_MS, None)
        self.the_wallet_and_its_lots_are_what_the_model_says()
        if held is not None:
            self.reserve(held, 4 * HOUR_MS)
        self.wait(2 * HOUR_MS)
        self.reserve(wanted, DAY_MS)
        self.the_wallet_and_its_lots_are_what_the_model_says()
        self.use(used, "x", 0)
        self.use(late, "x", HOUR_MS)
        self.reserve(wanted, DAY_MS)
        self.wait(MINUTE_MS)
        self.the_wallet_and_its_lots_are_what_the_model_says()

    @rule(amount=st.integers(2, 9), after=st.sampled_from([MINUTE_MS, HOUR_MS]))
    def a_run_outlives_its_lot(self, amount: int, after: int) -> None:
        self.give(amount, 10, None, 2 * HOUR_MS, None)
        self.the_wallet_and_its_lots_are_what_the_model_says()
        self.reserve("all", 2 * DAY_MS)
        for ms in (2 * HOUR_MS, WAIT_MS + after):
            self.wait(ms)
            self.the_wallet_and_its_lots_are_what_the_model_says()

    # What must hold after every step

    def swept(self) -> int:
        """What is due is made true, here and in the model; what waits."""
        for _ in range(9):
            if not write(self.engine, lambda c: mature_due(c, self.now)).more:
                break
        return self.model.fall_due(self.now)

    @invariant()
    def the_wallet_and_its_lots_are_what_the_model_says(self) -> None:
        waits = self.swept()
        row = self.fleet.rows(
            "SELECT balance_micro, held_micro, deferred_micro, over_micro, next_due_ms FROM ledger_accounts"
        )
        if not row:
            return
        ((balance, held, deferred, over, next_due),) = row
        assert next_due is None or int(str(next_due)) > self.now, "it would fall due for ever"
        told = read(self.engine, lambda c: list_lots(c, "acme", self.now))
        found = {one.lot: (one.used_micro, one.expired_micro, one.taken_back_micro) for one in told.lots}
        wanted = {
            one.key: (one.paid - one.drained, one.expired, one.taken + one.drained) for one in self.model.lots.values()
        }
        assert found == wanted, "a lot is not what the model says"
        assert (balance, held) == (self.model.balance(self.now), self.model.held), "the wallet is not"
        assert (told.owed_micro, told.back_micro) == (self.model.owed, self.model.back), "what is owed is not"
        assert deferred == waits, "what waits is not"
        assert over == self.model.over(self.now), "what is over is not"
        told_wallet = read(self.engine, lambda c: accounts.read_wallets(c, ["acme"]))["acme"]
        assert told_wallet.available_micro == self.model.available(self.now), "what is available is not"
        assert self.fleet.one(f"SELECT {AVAILABLE} FROM ledger_accounts") == self.model.available(self.now), (
            "what SQL takes to be available is not"
        )

    @invariant()
    def the_order_that_is_shown_is_the_order_of_use(self) -> None:
        self.swept()
        told = read(self.engine, lambda c: list_lots(c, "acme", self.now))
        mine = [one for one in self.model.lots.values() if one.begins <= self.now < one.ends]
        in_use = [one.lot for one in told.lots if one.place is not None]
        assert in_use == [one.key for one in sorted(mine, key=lambda one: one.before)], "the order is another one"

    @invariant()
    def as_many_at_once_as_plan_and_tier_allow(self) -> None:
        self.swept()
        tier, told = self.model.tier, read(self.engine, lambda c: accounts.read_wallets(c, ["acme"]))["acme"]
        has = tier is not None and not tier.ended
        most = MOST[self.plan]
        wanted = None if most is None else max(most, PRO if has else 0)
        assert (told.plan, told.max_concurrent) == (self.plan, wanted), "the plan or the tier is another one"


SCRIPTS: Final[dict[str, Sequence[tuple[str, dict[str, Any]]]]] = {
    "months that everybody slept through": (
        ("a_plan_gives", {"plan": "a", "included": 4, "rolls": (0, 0), "first": 2}),
        ("come_onto", {"plan": "a"}),
        ("wait", {"ms": 75 * DAY_MS}),
    ),
    "lots to come": (("one_lot_begins_after_another", {"amount": 3}), ("wait", {"ms": DAY_MS})),
    "a restricted lot beside a free one": (
        ("give", {"amount": 5, "priority": 10, "begins": None, "lasts": 2 * HOUR_MS, "features": ("x",)}),
        ("use", {"amount": 3, "feature": "y", "ago": 0}),
        ("wait", {"ms": DAY_MS}),
    ),
    "a month with runs at its end": (
        ("a_month_goes_by",
         {"included": 8, "rolls": (0, 20), "use": 0, "wanted": "all", "late": 0, "after": WAIT_MS + MINUTE_MS}),
        ("wait", {"ms": DAY_MS}),
    ),
    "a lot that ended, and nothing was reserved": (
        ("a_lot_ends_minutes_ago", {"amount": 9, "held": None, "used": 1, "late": 3, "wanted": 1}),
        ("wait", {"ms": HOUR_MS}),
    ),
    "a lot that ended, and a run has reserved some of it": (
        ("a_lot_ends_minutes_ago", {"amount": 9, "held": 1, "used": 2, "late": 3, "wanted": "all"}),
        ("wait", {"ms": DAY_MS}),
    ),
    "a lot that ended, and a run has reserved all": (
        ("a_lot_ends_minutes_ago", {"amount": 5, "held": "all", "used": 3, "late": -2, "wanted": 1}),
        ("wait", {"ms": DAY_MS}),
    ),
    "a month of which much shows late": (
        ("a_month_goes_by", {"included": 8, "rolls": (0, 20), "use": 0, "wanted": None, "late": 3, "after": DAY_MS}),
        ("wait", {"ms": DAY_MS}),
    ),
    "a tier that what is over cannot pay": (
        ("a_month_goes_by", {"included": 8, "rolls": (3, 6), "use": 9, "wanted": None, "late": 0, "after": MINUTE_MS}),
        ("wait", {"ms": HOUR_MS}),
    ),
}  # fmt: skip
"""What a search at random would come upon now and then: each by itself, with what must hold after every step."""


def act_out(steps: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """One of the scripts."""
    machine = Lots()
    try:
        machine.begin(None)
        for rule_, values in steps:
            getattr(machine, rule_)(**values)
            machine.the_wallet_and_its_lots_are_what_the_model_says()
            machine.the_order_that_is_shown_is_the_order_of_use()
            machine.as_many_at_once_as_plan_and_tier_allow()
    finally:
        machine.teardown()
