"""A machine on a pool, what it allots to two members, and what both use, also late, beside a model of each allotment.

Guarantee: after every step, once what is due was swept, no credit was made or lost by any of it; each allotment has
paid for what the model says, and what did not pay came back once it was over; and `verify` finds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from drawdown.ledger import wallet
from drawdown.ledger.draws import Cost
from drawdown.ledger.due_changes import mature_due
from drawdown.ledger.entries import Usage
from drawdown.ledger.lots import Terms
from drawdown.ledger.reservations import Denied
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools
from drawdown.worker.wallets.accounts import list_lots
from drawdown.worker.wallets.pools import show_pool
from tests.sqlite_databases import fresh
from tests.world import Fleet

HOUR_MS = 60 * MINUTE_MS
WAIT_MS = 12 * MINUTE_MS
EVER = 10**18
MEMBERS = ("acme", "wayne")


@dataclass
class Lot:
    """A member's lot; of the pool where `pooled`."""

    key: str
    amount: int
    begins: int
    ends: int
    priority: int
    pooled: bool
    taken: int = 0
    paid: int = 0


@dataclass
class Member:
    lots: list[Lot] = field(default_factory=list)
    uses: list[tuple[int, int]] = field(default_factory=list)

    def pay(self) -> None:
        """From the first moment to the last: whatever is owed by then, the lots that are open pay in their order. What
        came back beyond that pays for what is used later."""
        for lot in self.lots:
            lot.paid = 0
        moments = {moment for lot in self.lots for moment in (lot.begins, lot.ends)}
        owed = 0
        for start, end in pairwise([-EVER, *sorted(moments), EVER + 1]):
            owed += sum(amount for ts, amount in self.uses if start <= ts < end)
            there = [lot for lot in self.lots if lot.begins <= start < lot.ends]
            for lot in sorted(there, key=lambda one: (one.priority, one.ends, one.begins, one.key)):
                paid = max(min(owed, lot.amount - lot.taken - lot.paid), 0)
                lot.paid, owed = lot.paid + paid, owed - paid


class Pools(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine = fresh()
        self.fleet = Fleet(self.engine)
        self.members = {name: Member() for name in MEMBERS}
        self.pool = Member()
        self.runs: dict[str, tuple[str, str, int]] = {}
        self.names = 0

    def teardown(self) -> None:
        self.engine.dispose()

    @property
    def now(self) -> int:
        return self.fleet.clock.at_ms

    def name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}{self.names:03}"

    @initialize()
    def begin(self) -> None:
        self.fleet.assign(*MEMBERS)
        write(self.engine, lambda c: credit.set_rate(c, "x", 1, 1, self.fleet.by, from_ms=0))
        write(self.engine, lambda c: pools.make(c, "pool", self.fleet.by))
        for name in MEMBERS:
            write(self.engine, lambda c, name=name: pools.allow(c, "pool", name, self.fleet.by))  # type: ignore[misc]
        self.fill(20, None)

    @rule(amount=st.integers(1, 20), lasts=st.sampled_from([None, 2 * HOUR_MS, 3 * DAY_MS]))
    def fill(self, amount: int, lasts: int | None) -> None:
        key, terms = self.name("g"), Terms(expires_ms=None if lasts is None else self.now + lasts)
        write(self.engine, lambda c: credit.grant(c, "pool", amount, self.fleet.by, key=key, plan=None, terms=terms))
        ends = EVER if lasts is None else self.now + lasts
        self.pool.lots.append(Lot(f"grant:{key}", amount, self.now, ends, 50, pooled=False))

    @rule(name=st.sampled_from(MEMBERS), amount=st.integers(1, 9))
    def give(self, name: str, amount: int) -> None:
        key = self.name("g")
        write(self.engine, lambda c: credit.grant(c, name, amount, self.fleet.by, key=key, plan=None))
        self.members[name].lots.append(Lot(f"grant:{key}", amount, self.now, EVER, 50, pooled=False))

    @rule(
        name=st.sampled_from(MEMBERS), amount=st.integers(1, 15), lasts=st.sampled_from([HOUR_MS, DAY_MS, 4 * DAY_MS])
    )
    def allot(self, name: str, amount: int, lasts: int) -> None:
        key = self.name("a")
        before, room = self.balance("pool"), self.available("pool")
        for repeated in (False, True):
            try:
                done = write(
                    self.engine,
                    lambda c: pools.allot(c, "pool", name, amount, self.now + lasts, self.fleet.by, key=key),
                )
            except Denied as error:
                assert error.code == "no_credit" and not repeated
                assert amount > room, "refused, and there was room"
                return
            assert done.repeated is repeated, "the same again moved something"
        assert self.balance("pool") == before - amount >= 0, "a pool allotted what it has not"
        assert amount <= room, "a pool allotted what is held, or over"
        self.members[name].lots.append(Lot(f"allot:pool:{key}", amount, self.now, self.now + lasts, 40, pooled=True))
        self.pool.uses.append((self.now, amount))

    @rule(name=st.sampled_from(MEMBERS), amount=st.integers(1, 9),
          ago=st.sampled_from([0, 0, HOUR_MS, DAY_MS, 3 * DAY_MS]))  # fmt: skip
    def use(self, name: str, amount: int, ago: int) -> None:
        use = Usage(self.name("u"), name, "x", amount, self.now - ago)
        write(self.engine, lambda c: wallet.charge(c, [use], self.now))
        self.members[name].uses.append((use.ts, amount))

    @rule(name=st.sampled_from(MEMBERS), amount=st.integers(1, 9), by_pool=st.booleans())
    def reserve(self, name: str, amount: int, by_pool: bool) -> None:
        key, request = self.name("e"), Request(name, amount, payer="pool" if by_pool else None, for_ms=30 * DAY_MS)
        room = self.available("pool" if by_pool else name)
        try:
            write(self.engine, lambda c: executions.accept(c, key, request, self.fleet.by))
        except Denied as error:
            assert error.code in ("no_credit", "no_wallet"), "refused for another reason"
            assert amount > room, "refused, and there was room"
            return
        assert amount <= room, "reserved, and there was no room"
        self.runs[key] = (name, "pool" if by_pool else name, self.now)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), cost=st.integers(0, 12))
    def settle(self, data: st.DataObject, cost: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.runs)))
        name, payer, accepted = self.runs.pop(key)
        write(self.engine, lambda c: executions.settle(c, key, Cost(cost), self.fleet.by))
        paying = self.members[name] if payer == name else self.pool
        paying.uses.append((accepted, cost))

    @precondition(lambda self: any(lot.pooled for member in self.members.values() for lot in member.lots))
    @rule(data=st.data(), whole=st.booleans())
    def take_back(self, data: st.DataObject, whole: bool) -> None:
        those = {lot.key: lot for member in self.members.values() for lot in member.lots if lot.pooled}
        lot = those[data.draw(st.sampled_from(sorted(those)))]
        told = write(self.engine, lambda c: credit.take_back(c, lot.key, self.fleet.by, whole=whole))
        lot.taken += told.taken_back_micro
        assert lot.taken <= lot.amount, "more was taken back than there was"
        self.pool.uses.append((lot.begins, -told.taken_back_micro))

    @rule(ms=st.sampled_from([MINUTE_MS, WAIT_MS, HOUR_MS, DAY_MS, 5 * DAY_MS]))
    def wait(self, ms: int) -> None:
        self.fleet.clock.at_ms += ms

    @rule(name=st.sampled_from(MEMBERS), amount=st.integers(2, 9))
    def an_allotment_ends_minutes_ago(self, name: str, amount: int) -> None:
        """What is left of it is nobody's to reserve."""
        self.fill(amount, None)
        self.allot(name, amount, HOUR_MS)
        self.wait(HOUR_MS)
        self.reserve(name, amount, False)

    def balance(self, name: str) -> int:
        found = self.fleet.rows("SELECT balance_micro FROM ledger_accounts WHERE account_id = :a", a=f"wallet:{name}")
        return int(str(found[0][0])) if found else 0

    def held(self, name: str) -> int:
        return int(str(self.fleet.one("SELECT COALESCE(SUM(deferred_micro), 0) FROM ledger_accounts "
                                      "WHERE account_id = :a", a=f"wallet:{name}")))  # fmt: skip

    def over(self, name: str) -> int:
        """What is left of lots that are over, by the model; what was booked of each is judged elsewhere."""
        booked = {one.lot: one.expired_micro for one in read(self.engine, lambda c: list_lots(c, name, self.now)).lots}
        if name == "pool":
            allotted = read(self.engine, lambda c: show_pool(c, "pool", self.now, 999)).allotments
            back = [(one.begins_ms, -one.returned_micro) for one in allotted]
            model = Member(self.pool.lots, [*self.pool.uses, *back])
        else:
            model = self.members[name]
        model.pay()
        return sum(one.amount - one.taken - one.paid - booked[one.key] for one in model.lots if one.ends <= self.now)

    def available(self, name: str) -> int:
        """What is over goes first, a micro-credit at a time, as far as runs do not hold it."""
        self.swept()
        balance = self.balance(name)
        held = int(str(self.fleet.one("SELECT COALESCE(SUM(held_micro), 0) FROM ledger_accounts "
                                      "WHERE account_id = :a", a=f"wallet:{name}")))  # fmt: skip
        for _ in range(self.over(name)):
            held -= 1 if balance <= held and held else 0
            balance -= 1
        return balance - held

    # What must hold after every step

    def swept(self) -> None:
        for _ in range(9):
            if not write(self.engine, lambda c: mature_due(c, self.now)).more:
                return
        raise AssertionError("it would fall due for ever")

    @invariant()
    def no_credit_is_made_or_lost(self) -> None:
        self.swept()
        sums = {
            name: int(str(self.fleet.one(f"SELECT COALESCE(SUM({text}")))
            for name, text in {
                "given": "amount_micro), 0) FROM ledger_entries WHERE from_account = 'source:grants'",
                "has": "balance_micro), 0) FROM ledger_accounts",
                "used": "amount_micro), 0) FROM ledger_entries WHERE kind IN ('usage', 'execution')",
                "expired": "amount_micro), 0) FROM ledger_entries WHERE to_account = 'breakage'",
            }.items()
        }
        assert sums["given"] == sums["has"] + sums["used"] + sums["expired"], f"made or lost: {sums}"

    @invariant()
    def each_allotment_is_what_the_model_says(self) -> None:
        self.swept()
        told = {one.lot: one for one in read(self.engine, lambda c: show_pool(c, "pool", self.now, 999)).allotments}
        for name, member in self.members.items():
            member.pay()
            waits = self.held(name)
            for lot in (one for one in member.lots if one.pooled):
                row = told[lot.key]
                assert row.used_micro == lot.paid, "an allotment paid for something else"
                if lot.ends + WAIT_MS <= self.now and not waits:
                    assert row.returned_micro == lot.amount - lot.taken - lot.paid, "another amount came back"
                elif lot.ends + WAIT_MS > self.now:
                    assert row.returned_micro == 0, "it came back before its end"

    @invariant()
    def a_lot_of_the_pool_pays_for_what_did_not_come_back(self) -> None:
        self.swept()
        allotted = read(self.engine, lambda c: show_pool(c, "pool", self.now, 999)).allotments
        back = [(one.begins_ms, -one.returned_micro) for one in allotted]
        model = Member(self.pool.lots, [*self.pool.uses, *back])
        model.pay()
        told = {one.lot: one for one in read(self.engine, lambda c: list_lots(c, "pool", self.now)).lots}
        for lot in model.lots:
            assert told[lot.key].used_micro == lot.paid, "a lot of the pool paid for something else"
            if lot.ends + WAIT_MS <= self.now and not self.held("pool"):
                assert told[lot.key].expired_micro == lot.amount - lot.paid, "another amount of the pool's expired"

    @invariant()
    def what_is_over_is_what_the_model_says(self) -> None:
        self.swept()
        for name in (*MEMBERS, "pool"):
            told = self.fleet.rows("SELECT over_micro FROM ledger_accounts WHERE account_id = :a", a=f"wallet:{name}")
            assert not told or told == [(self.over(name),)], "what is over is another amount"

    @invariant()
    def a_run_is_paid_by_its_payer(self) -> None:
        wrong = self.fleet.one("SELECT COUNT(*) FROM ledger_entries e JOIN reservations r ON r.reservation = "
                               "e.reservation WHERE e.from_account <> 'wallet:' || r.customer_id")  # fmt: skip
        assert wrong == 0, "a run was paid by another wallet than its payer's"

    @invariant()
    def nothing_is_a_breach(self) -> None:
        self.swept()
        if self.names % 5:
            return  # it asks a lot
        breaches = [one.text for one in read(self.engine, verify).breaches if one.invariant in (2, 10)]
        assert breaches == [], f"a breach: {breaches}"
