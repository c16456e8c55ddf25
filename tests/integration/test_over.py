"""From its end on, a lot pays for nothing new, though what is left of it is booked twelve minutes later."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.ledger import accounts, reservations
from drawdown.ledger.draws import Cost
from drawdown.ledger.lots import EXPIRY_WAIT_MS, Terms
from drawdown.ledger.reservations import Denied
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets.accounts import Account, account_of
from tests.prepaid import look
from tests.world import T0, Fleet

END = T0 + DAY_MS


class Till:
    """Acme's wallet, with a bonus that ends."""

    def __init__(self, engine: sa.Engine) -> None:
        self.fleet = Fleet(engine)
        self.fleet.assign("acme")
        self.give("bonus", 50, END)

    def give(self, key: str, amount: int, expires_ms: int | None = None) -> None:
        terms = Terms("bonus" if expires_ms else "purchased", expires_ms=expires_ms)
        by = self.fleet.by
        write(self.fleet.engine, lambda c: credit.grant(c, "acme", amount, by, key=key, plan=None, terms=terms))

    def at(self, now_ms: int) -> None:
        self.fleet.clock.at_ms = now_ms

    def accept(self, key: str, amount: int) -> int:
        request = Request("acme", amount, for_ms=DAY_MS)
        done = write(self.fleet.engine, lambda c: executions.accept(c, key, request, self.fleet.by))
        assert done.wallet is not None
        return done.wallet.available_micro

    def settle(self, key: str, amount: int) -> tuple[int, int]:
        """What is available afterwards, and the balance."""
        done = write(self.fleet.engine, lambda c: executions.settle(c, key, Cost(amount), self.fleet.by))
        assert done.wallet is not None
        return done.wallet.available_micro, done.wallet.balance_micro

    @property
    def account(self) -> Account:
        return read(self.fleet.engine, lambda c: account_of(c, "acme", self.fleet.clock.at_ms))

    @property
    def parts(self) -> tuple[int, int, int, int]:
        """Available, reserved, over, and all of them: the balance."""
        found = self.account
        return found.available_micro, found.reserved_micro, found.over_micro, found.balance_micro


@pytest.fixture
def till(engine: sa.Engine) -> Till:
    return Till(engine)


def test_reservation_does_not_use_ended_lot(till: Till) -> None:
    till.give("bought", 1)
    till.at(END - 1)
    assert till.parts == (51, 0, 0, 51)
    till.at(END)
    assert till.parts == (1, 0, 50, 51), "nobody has looked at it yet"
    with pytest.raises(Denied, match=r"0\.000001 credits available"):
        till.accept("late", 45)
    preview = read(till.fleet.engine, lambda c: executions.preview(c, Request("acme", 2), END))
    assert (preview.allowed, preview.code, preview.available_micro) == (False, "no_credit", 1)
    assert till.accept("small", 1) == 0
    assert till.settle("small", 1)[0] == 0
    till.at(END + EXPIRY_WAIT_MS)
    assert till.parts == (0, 0, 0, 0)


def test_execution_started_before_lot_end_draws_from_lot(till: Till) -> None:
    till.give("bought", 1)
    till.at(END - MINUTE_MS)
    assert till.accept("going", 45) == 6
    till.at(END + MINUTE_MS)
    assert till.parts == (0, 45, 6, 51), "what it holds is its own, the rest is over"
    assert till.settle("going", 40) == (1, 11), "40 of the 50 paid for it"
    assert till.parts == (1, 0, 10, 11)
    till.at(END + EXPIRY_WAIT_MS)
    assert till.parts == (1, 0, 0, 1)


def test_take_back_keeps_reserved_credit_beside_ended_lot(till: Till) -> None:
    till.give("bought", 50)
    till.at(END)
    assert till.accept("new", 50) == 0
    taken = write(till.fleet.engine, lambda c: credit.take_back(c, "bought", till.fleet.by, whole=False))
    assert taken.taken_back_micro == 0, "nothing else can pay for the run"
    taken = write(till.fleet.engine, lambda c: credit.take_back(c, "bonus", till.fleet.by, whole=False))
    assert (taken.taken_back_micro, till.parts) == (50, (0, 50, 0, 50))


def test_org_is_halted_when_last_lot_ends(till: Till) -> None:
    fleet = till.fleet
    till.at(END - MINUTE_MS)
    fleet.tick(END - MINUTE_MS)
    halted = "SELECT is_halted, halt_reason FROM orgs WHERE org_id = 'acme'"
    look(fleet, MINUTE_MS - SECOND_MS)
    assert fleet.rows(halted) == [(False, None)]
    look(fleet, 2 * SECOND_MS)
    assert fleet.rows(halted) == [(True, "credits_exhausted")]
    till.give("paid", 5)
    look(fleet, SECOND_MS)
    assert fleet.rows(halted) == [(False, None)]
    assert read(fleet.engine, verify).breaches == []


def test_unbilled_usage_before_lot_end_does_not_halt_org(till: Till) -> None:
    """It is paid by the lot that is over; the next one has credit for what is new."""
    fleet = till.fleet
    till.give("month", 5_000, END)
    till.give("next", 500)
    till.at(END - 6 * MINUTE_MS)
    fleet.tick(END - 6 * MINUTE_MS)
    fleet.sample("acme", END - MINUTE_MS, interval_s=30)  # 3,000 of it
    till.at(END)
    look(fleet, SECOND_MS)
    look(fleet, SECOND_MS)
    assert fleet.rows("SELECT is_halted, halt_reason FROM orgs WHERE org_id = 'acme'") == [(False, None)]
    fleet.sample("acme", END + MINUTE_MS, interval_s=60)  # of what is new there is not as much
    look(fleet, MINUTE_MS)
    assert fleet.rows("SELECT is_halted, halt_reason FROM orgs WHERE org_id = 'acme'") == [(True, "estimate")]


def test_available_credit_in_sql_equals_python(till: Till) -> None:
    """All small wallets there can be."""
    text = reservations.SQL.text("available_micro", "sqlite")
    small = range(-3, 8)
    rows = till.fleet.rows(
        "WITH RECURSIVE n (n) AS (SELECT -3 UNION ALL SELECT n + 1 FROM n WHERE n < 7) "
        f"SELECT balance_micro, held_micro, over_micro, overdraft_micro, {text} FROM (SELECT b.n AS balance_micro, "
        "h.n AS held_micro, o.n AS over_micro, d.n AS overdraft_micro FROM n b, n h, n o, n d "
        "WHERE h.n >= 0 AND o.n >= 0 AND d.n BETWEEN 0 AND 1) w"
    )
    assert len(rows) == len(small) * 8 * 8 * 2
    for balance, held, over, overdraft, said in rows:
        made = accounts.Wallet(int(str(balance)), None, None, int(str(held)), int(str(overdraft)), int(str(over)))
        assert made.available_micro == said, made
