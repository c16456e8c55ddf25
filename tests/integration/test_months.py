"""What comes round each month: credit that plans include, what rolls over, a first grant; on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.ledger import due_changes, wallet
from drawdown.ledger.due_changes import mature_due
from drawdown.ledger.expiry import ROLLED_AT_ONCE
from drawdown.ledger.grants import GIVEN_AT_ONCE, Gives
from drawdown.ledger.lots import EXPIRY_WAIT_MS
from drawdown.ledger.reservations import Denied
from drawdown.ledger.wallet import Granted
from drawdown.providers.embedded import EmbeddedProvider
from drawdown.providers.protocol import CustomerState
from drawdown.schema.audit import By
from drawdown.schema.database import read
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import tiers
from tests.integration.monthly import HOUR_MS, Account, month, proven
from tests.world import T0


@pytest.fixture
def account(engine: sa.Engine) -> Iterator[Account]:
    yield from proven(engine)


def test_plan_credit_is_granted_each_month(account: Account) -> None:
    account.plan("team", 100)
    account.at(T0 + 10 * DAY_MS)
    assert account.join() == 100
    assert account.join() == 100, "on the same plan, nothing changes"
    assert account.sweep(month(2) - 1) == []
    account.use(30, T0 + 20 * DAY_MS)
    assert account.sweep(month(2)) == ["acme"]
    assert account.balance == 170, "what is left of January is booked twelve minutes later"
    account.sweep(month(2) + EXPIRY_WAIT_MS)
    assert account.balance == 100
    assert account.kept == [
        ("included:acme:team:2026-01", 100, T0 + 10 * DAY_MS, month(2)),
        ("included:acme:team:2026-02", 100, month(2), month(3)),
    ]
    assert account.of_lot("included:acme:team:2026-01") == (0, 30, 70, 0)
    assert account.shown.left_by_kind()["included"] == 100
    assert account.fleet.rows("SELECT kind, from_account, to_account, ts, at_ms, actor, reason FROM ledger_entries "
                              "WHERE key = 'included:acme:team:2026-02'") == [
        ("grant", "source:grants", "wallet:acme", month(2), month(2), "drawdown", "included in team for 2026-02")
    ]  # fmt: skip


def test_credit_of_new_month_is_available_before_sweep(account: Account) -> None:
    """Nobody sweeps."""
    account.plan("team", 100)
    account.join()
    account.use(100)
    account.at(month(2))
    ahead = read(account.fleet.engine, lambda c: due_changes.look_ahead(c, "acme", month(2)))
    assert (ahead.available_micro, account.balance) == (100, 0)
    preview = read(account.fleet.engine, lambda c: executions.preview(c, Request("acme", 100), month(2)))
    assert preview.allowed
    account.accept("e-1", 100)
    with pytest.raises(Denied, match="available"):
        account.accept("e-2", 1)


def test_verdict_counts_credit_of_new_month_before_sweep(account: Account) -> None:
    """Nobody swept yet: it halts nobody."""
    account.plan("team", 100)
    account.join()
    account.use(100)
    account.at(month(2))
    provider = EmbeddedProvider(account.fleet.engine, account.fleet.clock)
    found = asyncio.run(provider.customers(["acme"]))["acme"]
    assert isinstance(found, CustomerState) and (found.balance_micro, account.balance) == (100, 0)


@pytest.mark.parametrize("action", ["plan put", "tier buy", "tier end"])
def test_repeated_action_that_books_due_credit_resumes_halted_org(account: Account, action: str) -> None:
    """It books the credit before the sweep, which then finds nothing due in the wallet."""
    fleet = account.fleet
    account.plan("team", 100)
    account.join()
    account.tier(price=0)
    account.buy()
    account.give("later", 50, begins_ms=T0 + 10 * DAY_MS)
    account.use(110)
    if action == "tier end":
        account.undo()
    account.join()
    fleet.tick(T0 + DAY_MS, accept_clock=True)
    assert fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'") == 1
    account.at(T0 + 10 * DAY_MS)
    if action == "plan put":
        account.write(lambda c: credit.put_on_plan(c, "acme", "team", fleet.by))
    else:
        assert (account.buy() if action == "tier buy" else account.undo()).changed is False
    assert (account.balance, account.sweep()) == (40, [])
    fleet.tick()
    assert fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'") == 0


def test_missed_months_are_granted_and_expire(account: Account) -> None:
    account.plan("team", 100)
    account.join()
    account.give("bought", 50, "purchased")
    account.at(month(3) + DAY_MS)
    account.use(20)
    ahead = read(account.fleet.engine, lambda c: due_changes.look_ahead(c, "acme", month(5) + DAY_MS))
    assert account.sweep(month(5) + DAY_MS) == ["acme"]
    assert (account.balance, ahead.available_micro) == (150, 150)
    assert [lot for lot, *_ in account.kept] == [f"included:acme:team:2026-0{number}" for number in range(1, 6)]
    assert account.of_lot("included:acme:team:2026-03") == (0, 20, 80, 0)
    assert account.fleet.one("SELECT COUNT(*) FROM ledger_entries WHERE kind = 'expiry'") == 4, "one for each month"
    account.use(50, month(4) + DAY_MS)
    account.sweep()
    assert (account.balance, account.of_lot("included:acme:team:2026-04")) == (150, (0, 50, 50, 0))


def test_missed_months_are_granted_in_portions(account: Account) -> None:
    account.plan("team", 10)
    account.join()
    account.at(month(30) + DAY_MS)
    now = account.fleet.clock.at_ms
    assert account.write(lambda c: mature_due(c, now)).more
    assert len(account.kept) == 1 + GIVEN_AT_ONCE
    account.accept("e-1", 10)
    assert (len(account.kept), account.balance) == (30, 0)


def test_missed_months_beyond_portion_are_granted_by_sweep(account: Account) -> None:
    account.plan("team", 10, 0, 10)
    account.join()
    account.at(month(60) + DAY_MS)
    now = account.fleet.clock.at_ms
    for _ in range(60 // GIVEN_AT_ONCE + 60 // ROLLED_AT_ONCE + 2):
        if not account.write(lambda c: mature_due(c, now)).more:
            break
    account.sweep()
    assert account.balance == 20, "the month's own, and the month's before it"
    assert len(account.kept) == 60 + 59


def test_plan_change_grants_new_plan_and_keeps_old_grant(account: Account) -> None:
    account.plan("team", 100)
    account.plan("pro", 500)
    account.join("team")
    account.at(T0 + 10 * DAY_MS)
    assert account.join("pro") == 600
    account.at(T0 + 12 * DAY_MS)
    assert account.join("team") == 600, "a plan gives once a month"
    account.sweep(month(2) + EXPIRY_WAIT_MS)
    assert account.balance == 100
    assert [(lot, ends) for lot, _, _, ends in account.kept] == [
        ("included:acme:team:2026-01", month(2)),
        ("included:acme:pro:2026-01", month(2)),
        ("included:acme:team:2026-02", month(3)),
    ]
    rows = account.fleet.rows("SELECT number, plan, since_ms FROM plan_stays ORDER BY number")
    assert rows == [(1, "team", T0), (2, "pro", T0 + 10 * DAY_MS), (3, "team", T0 + 12 * DAY_MS)]


@pytest.mark.both_databases
def test_repeated_grant_after_plan_change_keeps_plan_and_balance(account: Account) -> None:
    """The earlier plan would grant its credit of another month."""
    account.plan("team", 100)
    account.plan("pro", 7)
    give = partial(credit.grant, customer_id="acme", amount_micro=5, key="k", plan="team")
    assert account.write(lambda c: give(c, by=account.fleet.by)) == Granted(105, repeated=False)
    account.join("pro")
    account.at(month(2) + DAY_MS)
    assert account.write(lambda c: give(c, by=account.fleet.by)) == Granted(12, repeated=True)
    assert read(account.fleet.engine, lambda c: credit.wallet_of(c, "acme")).plan == "pro"


def test_changed_plan_credit_applies_from_next_month(account: Account) -> None:
    account.plan("team", 100)
    account.join()
    account.at(T0 + DAY_MS)
    account.plan("team", 200)
    account.sweep()
    assert account.balance == 100
    account.sweep(month(2) + EXPIRY_WAIT_MS)
    assert account.balance == 200
    account.plan("team", 0)
    account.sweep(month(3) + EXPIRY_WAIT_MS)
    assert account.balance == 0
    account.plan("team", 300)
    assert account.fleet.one("SELECT next_due_ms FROM ledger_accounts") == month(4), "known though it gave nothing"
    account.sweep(month(4))
    assert account.balance == 300


def test_first_credit_is_granted_once_per_customer(account: Account) -> None:
    account.plan("free", first=5)
    account.plan("team", 10, first=7)
    assert account.join("free") == 5
    account.at(T0 + DAY_MS)
    assert account.join("team") == 15
    account.at(T0 + 2 * DAY_MS)
    assert account.join("free") == 15
    account.sweep(month(3))
    assert [(lot, amount, ends) for lot, amount, _, ends in account.kept if lot.startswith("first")] == [
        ("first:acme", 5, None)
    ]
    assert account.shown.left_by_kind()["bonus"] == 5


def test_unused_plan_credit_rolls_over_once(account: Account) -> None:
    account.plan("team", 100, 5, 40)
    account.join()
    account.use(70, T0 + DAY_MS)
    account.sweep(month(2))
    assert account.balance == 130
    account.sweep(month(2) + EXPIRY_WAIT_MS)
    assert account.balance == 130, "what was left expired, and as much began anew"
    account.use(20, month(2) + DAY_MS)
    assert account.of_lot("rollover:acme:2026-02") == (10, 20, 0, 0), "used before what the month includes"
    account.sweep(month(3) + EXPIRY_WAIT_MS)
    assert account.of_lot("rollover:acme:2026-02") == (0, 20, 10, 0), "it rolls over once"
    assert account.kept[-1] == ("rollover:acme:2026-03", 40, month(3), month(4)), "at most so much"
    account.use(96, month(3) + DAY_MS)
    account.use(40, month(3) + DAY_MS)
    account.sweep(month(4) + EXPIRY_WAIT_MS)
    assert account.balance == 100, "four are less than rolls over at least"


def test_late_usage_reduces_unused_rollover(account: Account) -> None:
    account.plan("team", 100, 0, 40)
    account.join()
    account.use(70, T0 + DAY_MS)
    account.sweep(month(2) + EXPIRY_WAIT_MS)
    assert account.balance == 130
    account.use(10, T0 + 2 * DAY_MS)
    assert account.sweep() == ["acme"]
    assert (account.balance, account.of_lot("rollover:acme:2026-02")) == (120, (20, 0, 0, 10))
    rows = account.fleet.rows(
        "SELECT amount_micro, lot FROM ledger_entries WHERE key = 'reduced:rollover:acme:2026-02:r0'"
    )
    assert rows == [(-10, "rollover:acme:2026-02")]
    account.use(-4, T0 + 2 * DAY_MS)
    account.sweep()
    assert (account.balance, account.kept[-1][:2]) == (124, ("rollover:acme:2026-02:r1", 4))
    account.use(22, month(2) + DAY_MS)
    account.use(15, T0 + 2 * DAY_MS)
    account.sweep()
    assert account.of_lot("rollover:acme:2026-02") == (0, 20, 0, 10), "it was used"
    assert account.of_lot("rollover:acme:2026-02:r1") == (0, 2, 0, 2)
    assert (account.balance, account.shown.owed_micro) == (100, 0), "never below nothing"


def test_credit_reserved_by_runs_neither_expires_nor_reduces_rollover(account: Account) -> None:
    account.plan("team", 100, 0, 100)
    account.plan("none")
    account.join()
    account.at(month(2) - HOUR_MS)
    account.join("none")
    account.accept("e-1", 60, for_ms=DAY_MS)
    account.sweep(month(2) + EXPIRY_WAIT_MS)
    assert (account.balance, len(account.kept)) == (0, 1), "nothing rolls over while something waits"
    account.release("e-1")
    account.sweep()
    assert (account.balance, account.kept[-1][:2]) == (100, ("rollover:acme:2026-02", 100))
    account.accept("e-2", 100, for_ms=DAY_MS)
    account.use(30, T0 + DAY_MS)
    account.sweep()
    assert account.balance == 0
    assert account.of_lot("rollover:acme:2026-02") == (100, 0, 0, 0)
    account.settle("e-2", 20)
    account.sweep()
    assert account.balance == 50
    assert account.of_lot("rollover:acme:2026-02") == (50, 20, 0, 30)


def test_rollover_after_plan_change_uses_terms_of_last_plan(account: Account) -> None:
    account.plan("team", 100, 0, 1000)
    account.plan("pro", 50, 0, 60)
    account.join("team")
    account.at(T0 + DAY_MS)
    account.join("pro")
    account.sweep(month(2) + EXPIRY_WAIT_MS)
    assert [one[:2] for one in account.kept[2:]] == [("included:acme:pro:2026-02", 50), ("rollover:acme:2026-02", 60)]


def test_credit_taken_back_does_not_roll_over(account: Account) -> None:
    account.plan("team", 100, 0, 100)
    account.join()
    account.sweep(month(2) + EXPIRY_WAIT_MS)
    assert account.take_back("included:acme:team:2026-01", whole=True) == 100
    assert (account.balance, account.of_lot("rollover:acme:2026-02")) == (100, (0, 0, 0, 100))
    account.sweep(month(2) + DAY_MS)
    assert account.take_back("included:acme:team:2026-02") == 100
    account.sweep(month(3) + DAY_MS)
    assert account.balance == 100


WRONG = {
    "less than nothing": (Gives(-1), "team", "expected 0 to 1,000,000,000"),
    "from more than up to": (Gives(10, 5, 4), "team", "Pass a lower --rollover-min, or a higher --rollover-max"),
    "a plan with a colon": (Gives(10), "te:am", "a colon"),
}


@pytest.mark.parametrize("situation", WRONG)
def test_invalid_plan_credit_terms_are_refused(account: Account, situation: str) -> None:
    gives, plan, said = WRONG[situation]
    with pytest.raises(UsageError, match=said):
        account.write(lambda c: credit.set_plan_limit(c, plan, 5, account.fleet.by, gives=vars(gives)))
    with pytest.raises(UsageError, match="--max-concurrent"):
        account.write(lambda c: credit.set_plan_limit(c, "other", None, account.fleet.by, gives=vars(Gives(1))))


@pytest.mark.both_databases
def test_concurrent_workers_grant_each_month_once(account: Account) -> None:
    """Three workers sweep, reserve, change the plan and buy as two months have gone by."""
    account.plan("team", 100, 0, 50)
    account.plan("pro", 70, 0, 50)
    account.join("team")
    account.give("bought", 1000, "purchased")
    account.tier()
    account.at(month(3) + HOUR_MS)
    by, now = account.fleet.by, account.fleet.clock.at_ms

    def work(worker: int) -> None:
        for turn in range(2):
            key = f"e{worker}-{turn}"
            account.write(lambda c: mature_due(c, now))
            account.write(lambda c, key=key: executions.accept(c, key, Request("acme", 1), by))  # type: ignore[misc]
            plan, own = ("team", "pro")[turn % 2], f"{worker} {turn}"
            account.write(lambda c, plan=plan, own=own: credit.grant(c, "acme", 1, by, key=own, plan=plan))  # type: ignore[misc]
            account.write(lambda c: tiers.buy(c, "acme", "pro", by))
            account.write(lambda c, key=key: executions.release(c, key, None, by))  # type: ignore[misc]

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    account.sweep()
    lots = [lot for lot, *_ in account.kept]
    wanted = [f"included:acme:team:2026-0{number}" for number in (1, 2, 3)] + ["included:acme:pro:2026-03"]
    assert sorted(lots) == sorted([*wanted, "rollover:acme:2026-02", "rollover:acme:2026-03"])
    assert account.balance == 1000 + 6 + 100 + 70 + 50 - 30


def test_plan_credit_added_later_is_granted_next_month(account: Account) -> None:
    account.plan("team")
    account.join()
    by = By(T0 + DAY_MS, "test", "a test")
    assert account.write(lambda c: credit.set_plan_limit(c, "team", None, by, gives=vars(Gives(100)))) == 5
    account.sweep(month(2))
    assert account.balance == 100


def test_change_to_unknown_plan_is_refused(account: Account) -> None:
    with pytest.raises(Refused, match="unknown plan gone"):
        account.write(lambda c: wallet.change_plan(c, "acme", "gone", account.fleet.by))
