"""A machine of runs and their suppliers, beside a model in exact fractions.

Guarantee: after every step each supplier's settlements stand as the model says, to the micro-credit; all that they ever
came to is held, eligible, frozen, released or reversed; batches paid what was released, less what was clawed back; and
no wallet moved by any of it but for what runs cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import floor

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drawdown.ledger.draws import Cost
from drawdown.ledger.payouts import period_of
from drawdown.ledger.reservations import Denied
from drawdown.schema.database import read, write
from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.actions import Change
from drawdown.worker.settlements.lists import SettlementFilter, list_suppliers, page
from drawdown.worker.wallets import actions as credit
from tests.sqlite_databases import fresh
from tests.world import Fleet

SUPPLIERS = ("firm", "loose")
STATES = ("hold", "eligible", "frozen", "released", "reversed")
GRANTED = 10**14
HORIZON_MS = 35 * DAY_MS


@dataclass
class Taken:
    """A reversal; the batch that took it off, if it is a claw-back and one did."""

    amount: int
    clawback: bool
    batch: str | None = None


@dataclass
class Owed:
    """A settlement in the model."""

    supplier: str
    gross: int
    net: int
    until: int
    threshold: int
    gives: bool
    batch: str | None = None
    frozen: bool = False
    taken: dict[str, Taken] = field(default_factory=dict)

    @property
    def before(self) -> int:
        return sum(one.amount for one in self.taken.values() if not one.clawback)

    @property
    def left(self) -> int:
        return self.net - sum(one.amount for one in self.taken.values())


def denied(code: str, error: Denied) -> None:
    assert error.code == code, f"refused as {error.code}, where the model says {code or 'done'}"


class Settling(RuleBasedStateMachine):
    """Runs end, time goes by, people freeze, reverse and release."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(fresh())
        self.engine = self.fleet.engine
        self.fleet.assign("acme")
        write(self.engine, lambda c: credit.grant(c, "acme", GRANTED, self.fleet.by, key="g", plan=None))
        self.terms: dict[str, Change] = {}
        self.frozen: set[str] = set()
        self.owed: dict[str, Owed] = {}
        self.paid: dict[str, dict[str, int]] = {name: {} for name in SUPPLIERS}
        self.spent = self.keys = 0
        for name, gives, hold in (("firm", False, HORIZON_MS), ("loose", True, DAY_MS)):
            self.set_terms(name, 700_000, hold, 0 if gives else 100, gives)

    def teardown(self) -> None:
        self.engine.dispose()

    @property
    def now(self) -> int:
        return self.fleet.clock.at_ms

    def new_key(self, kind: str) -> str:
        self.keys += 1
        return f"{kind}{self.keys}"

    @rule(
        name=st.sampled_from(SUPPLIERS),
        share=st.sampled_from([0, 333_333, 500_000, 999_999, 10**6]),
        hold=st.sampled_from([0, DAY_MS, HORIZON_MS, 2 * HORIZON_MS]),
        threshold=st.sampled_from([0, 5, 100, 1000]),
        gives=st.booleans(),
    )
    def set_terms(self, name: str, share: int, hold: int, threshold: int, gives: bool) -> None:
        change = Change(share, hold, threshold, gives)
        try:
            write(self.engine, lambda c: settlements.set_supplier(c, name, change, self.fleet.by, new=True))
        except UsageError:
            assert hold < HORIZON_MS and not gives, "terms that make sense were refused"
            return
        assert hold >= HORIZON_MS or gives, "a short hold for good"
        self.terms[name] = change

    @rule(
        supplier=st.sampled_from([*SUPPLIERS, *SUPPLIERS, None]),
        parts=st.lists(st.sampled_from([0, 1, 3, 50, 143, 10**6 + 1, 10**12 + 7]), max_size=3),
        rest=st.sampled_from([None, 0, 1, 2, 101, 143, 999_999]),
        settle=st.booleans(),
        again=st.booleans(),
    )
    def a_run_ends(self, supplier: str | None, parts: list[int], rest: int | None, settle: bool, again: bool) -> None:
        """Accepted, drawn on, and ten minutes later settled, or given up."""
        key, cost = self.new_key("run"), sum(parts) + (rest or 0)
        request = Request("acme", 200, supplier=supplier)
        write(self.engine, lambda c: executions.accept(c, key, request, self.fleet.by))
        for number, part in enumerate(parts):
            write(self.engine, lambda c, n=number, p=part: executions.draw(c, key, n, Cost(p), self.fleet.by))  # type: ignore[misc]
        self.fleet.clock.at_ms += 10 * MINUTE_MS
        incurred = None if rest is None else Cost(cost)
        for _ in range(1 + again):
            if settle:
                write(self.engine, lambda c: executions.settle(c, key, Cost(cost), self.fleet.by))
            else:
                write(self.engine, lambda c: executions.release(c, key, incurred, self.fleet.by))
        self.spent += cost
        if supplier is not None and (settle or cost):
            terms = self.terms[supplier]
            net = floor(Fraction(cost * (terms.share_ppm or 0), 10**6))
            until, least = self.now + (terms.hold_ms or 0), terms.threshold_micro or 0
            self.owed[key] = Owed(supplier, cost, net, until, least, bool(terms.takes_clawbacks))

    @rule(length=st.sampled_from([1, DAY_MS, 34 * DAY_MS, HORIZON_MS]))
    def time_goes_by(self, length: int) -> None:
        self.fleet.clock.at_ms += length

    @precondition(lambda self: self.owed)
    @rule(data=st.data(), undo=st.booleans())
    def freeze_one(self, data: st.DataObject, undo: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.owed)))
        one = self.owed[key]
        code = "released" if one.batch and not undo else ""
        try:
            _, done = write(self.engine, lambda c: settlements.freeze(c, key, self.fleet.by, undo=undo))
        except Denied as error:
            denied(code, error)
            return
        assert not code, "what was released was frozen"
        assert done == (one.frozen == undo)
        one.frozen = not undo

    @rule(name=st.sampled_from(SUPPLIERS), undo=st.booleans())
    def freeze_all(self, name: str, undo: bool) -> None:
        done = write(self.engine, lambda c: settlements.freeze_supplier(c, name, self.fleet.by, undo=undo))
        assert done == ((name in self.frozen) == undo)
        (self.frozen.discard if undo else self.frozen.add)(name)

    @precondition(lambda self: self.owed)
    @rule(data=st.data(), amount=st.sampled_from([None, 1, 2, 35, 10**6]), again=st.booleans())
    def reverse(self, data: st.DataObject, amount: int | None, again: bool) -> None:
        run = data.draw(st.sampled_from(sorted(self.owed)))
        one = self.owed[run]
        known = sorted(one.taken)
        self.take(run, data.draw(st.sampled_from(known)) if known and again else self.new_key("r"), amount)

    def take(self, run: str, key: str, amount: int | None) -> None:
        one = self.owed[run]
        code = self.reversal_code(one, key, amount)
        try:
            done = write(self.engine, lambda c: settlements.reverse(c, run, key, amount, self.fleet.by))
        except Denied as error:
            denied(code, error)
            return
        assert not code, f"done, where the model says {code}"
        assert done.repeated == (key in one.taken)
        one.taken.setdefault(key, Taken(one.left if amount is None else amount, one.batch is not None))
        assert done.reversal.amount_micro == one.taken[key].amount, "another amount was taken back"

    def reversal_code(self, one: Owed, key: str, amount: int | None) -> str:
        if key in one.taken:
            same = amount == one.taken[key].amount or (amount is None and one.left == 0)
            return "" if same else "other_content"
        if one.left == 0:
            return "nothing_left"
        if one.batch and not one.gives:
            return "no_clawbacks"
        return "above_left" if (amount or 0) > one.left else ""

    def standing(self, one: Owed) -> str:
        if one.batch:
            return "released"
        if 0 < one.before == one.net:
            return "reversed"
        if one.frozen or one.supplier in self.frozen:
            return "frozen"
        return "hold" if one.until > self.now else "eligible"

    @rule(name=st.sampled_from(SUPPLIERS), off=st.sampled_from([None, None, 0, 1]), dry=st.booleans())
    def batch(self, name: str, off: int | None, dry: bool) -> None:
        """Of this month; `off`: how far what is expected is off, None: nothing is expected."""
        period = period_of(self.now)
        mine = {key: one for key, one in self.owed.items() if one.supplier == name}
        ready = {key: one for key, one in mine.items() if self.standing(one) == "eligible"}
        claws = [take for one in mine.values() for take in one.taken.values() if take.clawback and not take.batch]
        released = sum(one.net - one.before for one in ready.values())
        total = released - sum(take.amount for take in claws)
        least = min((one.threshold for one in ready.values()), default=self.terms[name].threshold_micro or 0)
        repeated = period in self.paid[name]
        code = ""
        if repeated:
            total = self.paid[name][period]
        elif name in self.frozen:
            code = "frozen_supplier"
        elif total <= least:
            code = "below_threshold"
        code = code or ("not_as_expected" if off else "")
        expect = None if off is None else total + off
        try:
            made, was = write(
                self.engine, lambda c: settlements.make_payout(c, name, period, self.fleet.by, expect), rollback=dry
            )
        except Denied as error:
            denied(code, error)
            return
        assert not code, f"a batch was made, where the model says {code}"
        assert (made.total_micro, was) == (total, repeated), "a batch comes to something else"
        if dry or repeated:
            return
        self.paid[name][period] = total
        for one in ready.values():
            one.batch = made.payout
        for take in claws:
            take.batch = made.payout

    @rule(name=st.sampled_from(SUPPLIERS))
    def a_month_goes_by_and_a_batch_is_made(self, name: str) -> None:
        self.fleet.clock.at_ms += HORIZON_MS
        self.freeze_all(name, True)
        self.batch(name, None, False)

    @rule(name=st.sampled_from(SUPPLIERS), more=st.integers(0, 1))
    def just_the_threshold(self, name: str, more: int) -> None:
        """Once all else is released: a batch of the threshold, or of one micro-credit more."""
        self.a_month_goes_by_and_a_batch_is_made(name)
        self.set_terms(name, 10**6, HORIZON_MS, 100, False)
        self.a_run_ends(name, [], 100 + more, True, False)
        self.a_month_goes_by_and_a_batch_is_made(name)

    @rule(name=st.sampled_from(SUPPLIERS))
    def a_day_too_early(self, name: str) -> None:
        """A batch that is asked for before the hold of a run is over."""
        self.set_terms(name, 10**6, HORIZON_MS, 0, False)
        self.a_run_ends(name, [], 143, True, False)
        self.fleet.clock.at_ms += 34 * DAY_MS
        self.freeze_all(name, True)
        self.batch(name, None, True)

    @rule(amount=st.sampled_from([1, 30, None]))
    def give_back(self, amount: int | None) -> None:
        """What was released is clawed back, and the next batch is less by it."""
        self.set_terms("loose", 500_000, DAY_MS, 0, True)
        self.a_run_ends("loose", [], 143, True, False)
        run = f"run{self.keys}"
        self.a_month_goes_by_and_a_batch_is_made("loose")
        self.take(run, self.new_key("r"), amount)
        self.a_run_ends("loose", [], 999_999, True, False)
        self.a_month_goes_by_and_a_batch_is_made("loose")

    # What must hold after every step

    @invariant()
    def settlements_stand_as_the_model_says(self) -> None:
        chosen = SettlementFilter(STATES)
        found = read(self.engine, lambda c: page(c, chosen, self.now, most=1000)[0])
        told = {one.reservation: replace(one, project=None) for one in found}
        assert told.keys() == self.owed.keys(), "another run is settled"
        for key, one in self.owed.items():
            was = told[key]
            assert (was.gross_micro, was.net_micro) == (one.gross, one.net), "a share is another one"
            assert (was.hold_until_ms, was.threshold_micro) == (one.until, one.threshold), "other terms"
            assert (was.reversed_micro, was.left_micro) == (one.before, one.left), "another part was taken back"
            assert (was.state, was.payout) == (self.standing(one), one.batch), "it stands otherwise"

    @invariant()
    def sums_add_up(self) -> None:
        for account in read(self.engine, lambda c: list_suppliers(c, self.now, 10)):
            sums, mine = account.sums, [one for one in self.owed.values() if one.supplier == account.supplier]
            parts = [getattr(sums, f"{state}_micro") for state in STATES]
            assert sums.net_micro == sum(one.net for one in mine) == sum(parts), "what is owed does not add up"
            for state, part in zip(STATES[:4], parts, strict=False):
                assert part == sum(one.net - one.before for one in mine if self.standing(one) == state), state
            claws = [take for one in mine for take in one.taken.values() if take.clawback]
            assert sums.clawed_back_micro == sum(take.amount for take in claws), "clawed back"
            assert sums.carried_micro == sum(take.amount for take in claws if not take.batch), "carried"
            assert sums.paid_micro == sum(self.paid[account.supplier].values()), "paid"
            assert sums.paid_micro == sums.released_micro - sums.clawed_back_micro + sums.carried_micro, "paid twice"

    @invariant()
    def the_wallet_pays_what_runs_cost_and_nothing_else(self) -> None:
        rows = self.fleet.rows("SELECT balance_micro, held_micro FROM ledger_accounts")
        assert rows == [(GRANTED - self.spent, 0)], "the wallet moved a second time"
