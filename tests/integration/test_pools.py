"""Pools and payers: credit that is allotted, used and returned, and runs that another wallet pays for, to the
micro-credit, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.ledger import lots
from drawdown.ledger import pools as ledger_pools
from drawdown.ledger.accounts import open_accounts, wallet_account
from drawdown.ledger.draws import Cost
from drawdown.ledger.due_changes import look_ahead
from drawdown.ledger.reservations import Denied
from drawdown.schema.database import read, write
from drawdown.schema.errors import UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.verdict.holds import read_held
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools
from drawdown.worker.wallets.pools import list_payers, list_pools
from tests.integration.pooling import BACK, END, Course
from tests.world import T0, Fleet


@pytest.fixture
def course(engine: sa.Engine) -> Iterator[Course]:
    """In the end, nothing is a breach, and each allotment is what became of it."""
    made = Course(engine)
    yield made
    made.prove()


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(Denied) as found:
        work()
    return found.value.code


# Allotments


def test_unused_allotment_returns_to_pool_after_end(course: Course) -> None:
    course.give("acme", 5)
    done = course.allot(20)
    assert (done.repeated, course.balances) == (False, (80, 25, 0))
    course.use(8)
    course.sweep()
    assert (course.balances, course.became()) == ((80, 17, 0), (12, 8, 0, 0)), "it is used before the own credit"
    course.sweep(BACK - 1)
    assert course.balances == (80, 17, 0)
    course.sweep(BACK)
    assert (course.balances, course.became()) == ((92, 5, 0), (0, 8, 12, 0))
    text = "SELECT key, from_account, to_account, amount_micro, ts FROM ledger_entries "
    rows = course.fleet.rows(f"{text} WHERE 'wallet:course' IN (from_account, to_account) ORDER BY key")
    assert rows[:2] == [
        ("allot:course:a", "wallet:course", "wallet:acme", 20, T0),
        ("expiry:allot:course:a:r0", "wallet:acme", "wallet:course", 12, T0),
    ]


def test_repeated_allotment_is_ignored_and_other_content_refused(course: Course) -> None:
    course.allot(20)
    assert (course.allot(20).repeated, course.balances) == (True, (80, 20, 0))
    course.fleet.clock.at_ms = T0 + DAY_MS
    assert course.allot(20).repeated, "also later"
    assert refused(lambda: course.allot(21)) == "other_content"
    assert refused(lambda: course.allot(20, "wayne")) == "other_content"
    assert refused(lambda: course.allot(20, ends=END + 1)) == "other_content"
    assert course.balances == (80, 20, 0)
    course.fleet.clock.at_ms = END + DAY_MS
    assert course.allot(20).repeated, "also after its end"


def test_repeated_allotment_that_books_due_credit_resumes_member(course: Course) -> None:
    """It books the member's credit before the sweep, which then finds nothing due in the wallet."""
    fleet = course.fleet
    halted = "SELECT is_halted FROM orgs WHERE org_id = 'acme'"
    course.allot(20)
    course.give("acme", 50, begins_ms=T0 + 10 * DAY_MS)
    course.use(30)
    course.give("acme", -1)
    fleet.tick(T0 + DAY_MS, accept_clock=True)
    assert fleet.one(halted) == 1
    fleet.clock.at_ms = T0 + 10 * DAY_MS
    assert course.allot(20).repeated and course.balance("acme") == 39
    fleet.tick()
    assert fleet.one(halted) == 0


def test_late_usage_before_end_is_paid_by_returned_allotment(course: Course) -> None:
    course.allot(20)
    course.sweep(BACK)
    assert course.balances == (100, 0, 0)
    course.use(7, ts=END - 1)
    assert course.balances == (100, -7, 0)
    course.sweep()
    assert (course.balances, course.became()) == ((93, 0, 0), (0, 7, 13, 0))
    course.use(3, ts=END)
    course.sweep()
    assert course.balances == (93, -3, 0), "what is used after its end it does not pay for"
    keys = course.fleet.rows("SELECT key, amount_micro FROM ledger_entries WHERE kind = 'expiry' ORDER BY key")
    assert keys == [("expiry:allot:course:a:r0", 20), ("expiry:allot:course:a:r1", -7)]


def test_late_usage_of_allotment_overdraws_empty_pool(course: Course) -> None:
    course.allot(20)
    course.sweep(BACK)
    course.allot(100, "wayne", BACK + DAY_MS, "all")
    course.use(7, ts=END - 1)
    course.sweep()
    assert course.balances == (-7, 0, 100)
    assert refused(lambda: course.allot(1, ends=BACK + DAY_MS, key="more")) == "no_credit"


def test_allotment_of_credit_taken_by_late_usage_is_refused(course: Course) -> None:
    """Nobody sweeps, and the pool's own row tells of nothing."""
    course.allot(20)
    course.sweep(BACK)
    course.use(7, ts=END - 1)
    assert refused(lambda: course.allot(94, "wayne", BACK + DAY_MS, "all")) == "no_credit"
    course.allot(93, "wayne", BACK + DAY_MS, "all")
    assert course.balances == (0, 0, 93)


def test_returned_allotment_expires_with_pool_lot(engine: sa.Engine) -> None:
    course = Course(engine)
    course.take_back("course1")
    course.give("course", 50, expires_ms=T0 + DAY_MS)
    course.give("course", 10)
    course.allot(20)
    course.sweep(T0 + 2 * DAY_MS)
    assert course.balances == (10, 20, 0), "30 of the pool's own lot expired; what was allotted lives on"
    course.use(5)
    course.sweep(BACK)
    assert course.balances == (10, 0, 0), "15 came back, of a lot that is over"
    expired = "SELECT SUM(amount_micro) FROM ledger_entries WHERE to_account = 'breakage'"
    assert course.fleet.one(expired) == 45
    course.use(4, ts=T0 + DAY_MS)
    course.sweep()
    assert (course.balances, course.fleet.one(expired)) == ((10, 0, 0), 41), "used in time after all"
    course.prove()


def test_reserved_allotment_returns_after_execution_ends(course: Course) -> None:
    course.allot(20)
    course.fleet.clock.at_ms = END - 1
    course.accept("run", 15, for_ms=DAY_MS)
    course.sweep(BACK)
    assert (course.balances, course.became()) == ((85, 15, 0), (15, 0, 5, 0))
    course.settle("run", 4)
    course.sweep()
    assert (course.balances, course.became()) == ((96, 0, 0), (0, 4, 16, 0))


def test_take_back_of_allotment_returns_credit_to_pool(course: Course) -> None:
    course.allot(20)
    course.use(5)
    assert course.take_back("allot:course:a") == 15
    assert (course.balances, course.became()) == ((95, 0, 0), (0, 5, 0, 15))
    assert course.take_back("allot:course:a", whole=True) == 5
    assert (course.balances, course.became()) == ((100, -5, 0), (0, 0, 0, 20)), "what it paid for is owed"
    course.sweep(BACK)
    assert course.balances == (100, -5, 0)


def test_pool_allotment_beyond_available_credit_is_refused(course: Course) -> None:
    course.allow("course")
    course.accept("run", 30, payer="course")
    course.give("course", 50, expires_ms=T0 + DAY_MS)
    course.fleet.clock.at_ms = T0 + DAY_MS  # it is over, and not booked yet; so is the run, which is booked at once
    assert refused(lambda: course.allot(101)) == "no_credit"
    assert course.allot(100).pool.balance_micro == 50
    course.sweep(T0 + 2 * DAY_MS)
    assert course.balances == (0, 100, 0)


def test_due_allotment_is_returned_when_pool_needs_credit(course: Course) -> None:
    """No sweep has run: the member's allotment is returned by whoever needs the pool's credit."""
    course.allot(100)
    course.fleet.clock.at_ms = BACK
    assert read(course.fleet.engine, lambda c: look_ahead(c, "course", BACK)).available_micro == 100
    assert course.allot(60, "wayne", BACK + DAY_MS, "b").pool.available_micro == 40
    course.allow("course")
    course.fleet.clock.at_ms = BACK + 2 * DAY_MS
    wallet = course.accept("run", 100, payer="course").wallet
    assert wallet is not None
    assert wallet.available_micro == 0


def test_use_of_allotment_does_not_update_pool_row(course: Course) -> None:
    """Who only uses an allotment never moves the pool's wallet."""
    course.allot(20)
    row = "SELECT balance_micro, next_due_ms FROM ledger_accounts WHERE account_id = 'wallet:course'"
    before = course.fleet.rows(row)
    for number in range(3):
        course.use(1)
        course.accept(f"run{number}", 2)
        course.settle(f"run{number}", 1)
    assert course.fleet.rows(row) == before == [(80, BACK)]


def test_many_due_allotments_are_returned_in_portions(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lots, "RETURNED_AT_ONCE", 2)
    for number in range(3):
        course.fleet.assign(f"m{number}")
        course.allot(10, f"m{number}", key=f"k{number}")
    course.fleet.clock.at_ms = BACK
    done = course.allot(100, "wayne", BACK + DAY_MS, "all")
    assert (done.pool.balance_micro, done.member.balance_micro) == (0, 100), "two of them, the third, and then the pool"


def test_concurrent_allotments_do_not_exceed_pool_balance(course: Course) -> None:
    if course.fleet.engine.dialect.name == "sqlite":
        pytest.skip("one writer at a time")

    def one(number: int) -> bool:
        try:
            course.allot(30, ("acme", "wayne")[number % 2], key=f"k{number}")
        except Denied as error:
            assert error.code == "no_credit"
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        done = list(threads.map(one, range(6)))
    assert sum(done) == 3
    assert course.balance("course") == 10


def test_invalid_allotment_is_refused(course: Course) -> None:
    course.write(lambda c: pools.make(c, "other", course.fleet.by))
    codes = {"course": "pays_itself", "other": "is_pool", "acme": "no_credit"}
    for pool, customer, amount, ends, wrong in (
        ("curse", "acme", 1, END, "did you mean course"),
        ("course", "acmee", 1, END, "did you mean acme"),
        ("course", "acme", 0, END, "expected more than 0"),
        ("course", "acme", -1, END, "expected more than 0"),
        ("course", "acme", 1, T0, "invalid end of an allotment"),
        ("course", "acme", 101, END, "100|0.0001 credits left"),
        ("course", "course", 1, END, "cannot allot credit to itself"),
        ("course", "other", 1, END, "is a pool, too"),
    ):
        with pytest.raises((Denied, UnknownId, UsageError), match=wrong) as found:
            course.write(lambda c: pools.allot(c, pool, customer, amount, ends, course.fleet.by, key="k"))  # noqa: B023
        if isinstance(found.value, Denied):
            assert found.value.code == codes[customer]
    assert course.balance("course") == 100


def test_pool_with_name_of_wallet_made_meanwhile_is_refused(course: Course) -> None:
    """A grant takes no lock that a pool takes first: the wallet's own key decides."""
    course.write(lambda c: open_accounts(c, [wallet_account("meanwhile")]))
    assert refused(lambda: course.write(lambda c: ledger_pools.make(c, "meanwhile", course.fleet.by))) == "taken"
    assert not read(course.fleet.engine, lambda c: ledger_pools.is_pool(c, "meanwhile"))


def test_pool_is_made_once_and_customer_name_is_refused(course: Course) -> None:
    assert not course.write(lambda c: pools.make(c, "course", course.fleet.by))
    assert refused(lambda: course.write(lambda c: pools.make(c, "acme", course.fleet.by))) == "taken"
    with pytest.raises(UsageError, match="colon"):
        course.write(lambda c: pools.make(c, "a:b", course.fleet.by))
    course.allot(20)
    (row,) = read(course.fleet.engine, lambda c: list_pools(c, T0, 9))
    assert (row.pool, row.available_micro, row.allotted_micro, row.returned_micro, row.members) == (
        "course", 80, 20, 0, 1,
    )  # fmt: skip


# Payers


def test_payer_is_charged_for_execution_after_permission_ends(course: Course) -> None:
    course.give("wayne", 50)
    course.allow()
    made = course.accept("run", 20, payer="wayne")
    assert made.wallet is not None
    assert (made.reservation.customer_id, made.wallet.held_micro) == ("wayne", 20)
    assert course.end()
    course.write(lambda c: executions.draw(c, "run", 1, Cost(5), course.fleet.by))
    course.sweep(T0 + 2 * DAY_MS)
    course.settle("run", 9)
    assert course.balances == (100, 0, 41), "late, and after it was ended"
    paid = course.fleet.rows("SELECT DISTINCT from_account FROM ledger_entries WHERE reservation = 'run'")
    assert paid == [("wallet:wayne",)]


def test_payer_without_permission_is_refused(course: Course) -> None:
    course.give("acme", 50)
    course.give("wayne", 50)
    assert refused(lambda: course.accept("run", 5, payer="wayne")) == "payer_not_allowed"
    course.allow("acme", "wayne")
    assert refused(lambda: course.accept("run", 5, payer="wayne")) == "payer_not_allowed", "the other way round"
    course.allow()
    course.end()
    assert refused(lambda: course.accept("run", 5, payer="wayne")) == "payer_not_allowed"
    assert not course.end(), "it is ended already"
    with pytest.raises(UnknownId, match="did you mean wayne"):
        course.accept("run", 5, payer="wayn")
    assert course.accept("run", 5, payer="acme").reservation.payer_number is None, "nobody allows oneself"
    course.settle("run", 5)
    assert course.balances == (100, 45, 50)


def test_payer_limit_counts_reserved_and_charged_credit(course: Course) -> None:
    course.give("wayne", 50)
    course.allow(limit=10)
    course.accept("one", 6, payer="wayne")
    assert refused(lambda: course.accept("two", 5, payer="wayne")) == "payer_limit"
    course.settle("one", 2)
    course.accept("two", 8, payer="wayne")

    def extend(to: int) -> executions.Accepted:
        return course.write(lambda c: executions.extend(c, "two", to, None, course.fleet.by))

    assert refused(lambda: extend(9)) == "payer_limit"
    (row,) = read(course.fleet.engine, lambda c: list_payers(c, "", "acme", course.fleet.clock.at_ms, 9))
    assert (row.payer, row.limit_micro, row.spent_micro) == ("wayne", 10, 10)
    course.allow(limit=3)
    assert refused(lambda: extend(9)) == "payer_not_allowed", "it was accepted under another limit"
    assert extend(8).reservation.amount_micro == 8, "and goes on"
    course.accept("three", 3, payer="wayne")
    assert refused(lambda: course.accept("four", 1, payer="wayne")) == "payer_limit", "it counts anew, from 0"


def test_payer_limit_covers_cost_above_reservation(course: Course) -> None:
    course.give("wayne", 50)
    course.allow(limit=10)
    course.accept("one", 6, payer="wayne")
    assert refused(lambda: course.settle("one", 11)) == "payer_limit"
    assert refused(lambda: course.draw("one", 0, 11)) == "payer_limit"
    course.draw("one", 1, 8)
    course.end()
    assert refused(lambda: course.settle("one", 11)) == "payer_limit", "whatever was said since"
    course.settle("one", 10)
    assert course.balance("wayne") == 40
    rows = read(course.fleet.engine, lambda c: list_payers(c, "wayne", "", course.fleet.clock.at_ms, 9))
    assert [(row.allowed, row.spent_micro) for row in rows] == [(False, 10)], "the end does not hide the cost"
    course.prove()


def test_payer_limit_covers_late_settlement(course: Course) -> None:
    course.give("wayne", 50)
    course.allow(limit=10)
    course.accept("late", 6, payer="wayne", for_ms=MINUTE_MS)
    course.fleet.clock.at_ms += MINUTE_MS
    rows = read(course.fleet.engine, lambda c: list_payers(c, "wayne", "", course.fleet.clock.at_ms, 9))
    assert [row.spent_micro for row in rows] == [0], "what is over holds nothing, before anything has looked at it"
    looked = Request("acme", 8, payer="wayne")
    assert read(course.fleet.engine, lambda c: executions.preview(c, looked, course.fleet.clock.at_ms)).allowed
    course.accept("next", 8, payer="wayne")
    assert refused(lambda: course.settle("late", 3)) == "payer_limit"
    course.settle("late", 2)
    assert course.balance("wayne") == 48
    course.prove()


def test_execution_key_covers_payer(course: Course) -> None:
    course.give("wayne", 50)
    course.give("acme", 50)
    course.allow()
    course.accept("run", 5, payer="wayne")
    assert course.accept("run", 5, payer="wayne").repeated
    assert refused(lambda: course.accept("run", 5)) == "other_content"


def test_payer_balance_is_not_disclosed_in_refusal(course: Course) -> None:
    course.give("wayne", 50)
    course.allow()
    course.accept("own", 45, org="wayne")
    with pytest.raises(Denied, match="wayne has less than") as found:
        course.accept("run", 20, payer="wayne")
    assert (found.value.code, found.value.step) == ("no_credit", "credits")
    assert "own" not in str(found.value) and "45" not in str(found.value)
    ask = Request("acme", 20, payer="wayne")
    told = read(course.fleet.engine, lambda c: executions.preview(c, ask, T0))
    assert (told.allowed, told.code, told.reason, told.available_micro) == (False, "no_credit", str(found.value), None)


def test_reservation_is_counted_for_payer(course: Course) -> None:
    course.give("wayne", 50)
    course.give("acme", 50)
    course.allow()
    course.accept("run", 20, payer="wayne")
    held = read(course.fleet.engine, lambda c: read_held(c, "embedded", ["acme", "wayne"], T0))
    assert held == {"wayne": 20}


def test_payer_without_credit_is_refused(course: Course) -> None:
    course.allow("wayne", "acme")
    assert refused(lambda: course.accept("run", 5, payer="wayne")) == "no_credit"
    with pytest.raises(UsageError, match="invalid limit"):
        course.allow(limit=0)
    assert refused(lambda: course.allow("acme", "acme")) == "pays_itself"


def test_payer_permission_end_is_not_dated_before_execution(course: Course) -> None:
    """Another host's clock is behind: what was accepted is not made unallowed."""
    course.give("wayne", 50)
    course.allow()
    course.fleet.clock.at_ms = T0 + MINUTE_MS
    course.accept("run", 20, payer="wayne")
    course.fleet.clock.at_ms = T0
    course.end()
    assert course.fleet.one("SELECT MAX(since_ms) FROM payers") == T0 + MINUTE_MS
    assert refused(lambda: course.accept("more", 20, payer="wayne")) == "payer_not_allowed"


@pytest.mark.both_databases
def test_pool_member_is_resumed_after_pool_releases_reservation(engine: sa.Engine) -> None:
    """A run of a member is over as its allotment comes back. Whoever needs the pool ends both, and the next sweep tells
    of the member, who was halted for what the run had reserved."""
    fleet = Fleet(engine)
    fleet.assign("acme", "pupil")
    write(engine, lambda c: pools.make(c, "course", fleet.by))
    for customer, amount in (("pupil", 10), ("course", 100)):
        grant = partial(credit.grant, amount_micro=amount, by=fleet.by, key=customer, plan=None)
        write(engine, partial(grant, customer_id=customer))
    end = fleet.clock.at_ms + 10 * MINUTE_MS
    write(engine, lambda c: pools.allot(c, "course", "pupil", 1, end, fleet.by, key="a"))
    run = Request("pupil", 11, for_ms=lots.EXPIRY_WAIT_MS + 10 * MINUTE_MS)
    write(engine, lambda c: executions.accept(c, "run", run, fleet.by))
    fleet.tick(end)
    halted = "SELECT is_halted FROM orgs WHERE org_id = 'pupil'"
    assert fleet.one(halted), "all it has is reserved"
    fleet.clock.at_ms = end + lots.EXPIRY_WAIT_MS
    write(engine, lambda c: pools.allot(c, "course", "acme", 1, end + DAY_MS, fleet.by, key="b"))
    assert fleet.rows("SELECT held_micro, balance_micro FROM ledger_accounts WHERE account_id = 'wallet:pupil'") == [
        (0, 10)
    ]
    fleet.tick()
    assert not fleet.one(halted)
    assert read(engine, verify).breaches == []
