"""Lots: what begins, is used in order, expires, is given or taken back, to the micro-credit, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa

from drawdown.cli import main
from drawdown.cli.app import App
from drawdown.ledger import wallet
from drawdown.ledger.allocation import ORDER, Kind
from drawdown.ledger.draws import Cost
from drawdown.ledger.due_changes import mature_due
from drawdown.ledger.entries import Usage
from drawdown.ledger.lots import EXPIRY_WAIT_MS, Terms
from drawdown.ledger.reservations import Denied
from drawdown.schema.database import read, write
from drawdown.schema.errors import AnswerLost, Exit, Refused, UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.replay.plan import ReplayScope, plan
from drawdown.worker.replay.replay import replay
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import lists as wallets
from drawdown.worker.wallets.accounts import LotRow, LotsView, account_of, list_lots
from drawdown.worker.wallets.statement import Span, of_customer
from tests.acceptance.commands import drawdown
from tests.integration.verifying import verified
from tests.sqlite_databases import migrated
from tests.world import T0, Fleet

T = TypeVar("T")
HOUR_MS = 60 * MINUTE_MS
END = T0 + 30 * DAY_MS


class Purse:
    """The wallet of acme, in micro-credits; x and y cost one each."""

    def __init__(self, engine: sa.Engine) -> None:
        self.fleet = Fleet(engine)
        self.fleet.assign("acme")
        self.uses = 0
        for feature in ("x", "y"):
            self.write(lambda c, name=feature: credit.set_rate(c, name, 1, 1, self.fleet.by, from_ms=0))  # type: ignore[misc]

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        return write(self.fleet.engine, work)

    def give(self, key: str, amount: int, kind: Kind = "included", **terms: object) -> wallet.Granted:
        asked = Terms(kind, **terms)  # type: ignore[arg-type]
        return self.write(lambda c: credit.grant(c, "acme", amount, self.fleet.by, key=key, plan=None, terms=asked))

    def use(self, amount: int, ts: int | None = None, feature: str = "x") -> None:
        self.uses += 1
        at = self.fleet.clock.at_ms
        use = Usage(f"u{self.uses}", "acme", feature, amount, at if ts is None else ts)
        assert self.write(lambda c: wallet.charge(c, [use], at)) == [wallet.Charge.CHARGED]

    def accept(self, key: str, amount: int, **more: object) -> None:
        request = Request("acme", amount, **more)  # type: ignore[arg-type]
        self.write(lambda c: executions.accept(c, key, request, self.fleet.by))

    def settle(self, key: str, amount: int) -> None:
        self.write(lambda c: executions.settle(c, key, Cost(amount), self.fleet.by))

    def release(self, key: str) -> None:
        self.write(lambda c: executions.release(c, key, None, self.fleet.by))

    def take_back(self, lot: str, *, whole: bool = False) -> int:
        return self.write(lambda c: credit.take_back(c, lot, self.fleet.by, whole=whole)).taken_back_micro

    def sweep(self, at_ms: int | None = None) -> list[str]:
        """What is due is made true, and then nothing is."""
        if at_ms is not None:
            self.fleet.clock.at_ms = at_ms
        now = self.fleet.clock.at_ms
        found = self.write(lambda c: mature_due(c, now)).moved
        assert self.fleet.one("SELECT COUNT(*) FROM ledger_accounts WHERE next_due_ms <= :now", now=now) == 0
        return found

    @property
    def balance(self) -> int:
        ((balance, held),) = self.fleet.rows(
            "SELECT balance_micro, held_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'"
        )
        return int(str(balance)) - int(str(held))

    @property
    def shown(self) -> LotsView:
        return read(self.fleet.engine, lambda c: list_lots(c, "acme", self.fleet.clock.at_ms))

    def lot(self, key: str) -> LotRow:
        return next(row for row in self.shown.lots if row.lot == f"grant:{key}")

    @property
    def expiries(self) -> dict[str, int]:
        rows = self.fleet.rows("SELECT key, amount_micro FROM ledger_entries WHERE kind = 'expiry' ORDER BY key")
        return {str(key).removeprefix("expiry:grant:"): int(str(amount)) for key, amount in rows}


@pytest.fixture
def purse(engine: sa.Engine) -> Iterator[Purse]:
    """In the end, no lot is a breach, and each is what became of it."""
    made = Purse(engine)
    yield made
    assert [one.text for one in verified(made.fleet).breaches if one.invariant == 10] == []
    for row in made.shown.lots:
        parts = row.remaining_micro + row.waits_micro + row.used_micro + row.expired_micro + row.taken_back_micro
        assert row.amount_micro == parts, row


def test_repeated_grant_adds_single_lot(purse: Purse) -> None:
    for repeated in (False, True):
        assert purse.give("a", 50, expires_ms=END).repeated is repeated
        assert purse.balance == 50
        purse.fleet.clock.at_ms += 1
    rows = purse.fleet.rows("SELECT lot, customer_id, kind, amount_micro, priority, begins_ms, expires_ms, features "
                            "FROM ledger_lots")  # fmt: skip
    assert rows == [("grant:a", "acme", "included", 50, 50, T0, END, None)]
    assert purse.fleet.one("SELECT COUNT(*) FROM operator_actions WHERE action = 'ledger_grant'") == 1


@pytest.mark.both_databases
def test_key_of_negative_grant_is_refused_for_later_grant(purse: Purse) -> None:
    purse.give("a", -5, "purchased")
    with pytest.raises(Refused, match="was used for -"):
        purse.give("a", 50, begins_ms=T0 + DAY_MS)
    assert purse.shown.lots == []


@pytest.mark.parametrize(
    "other",
    [
        {"amount": 51},
        {"kind": "bonus"},
        {"expires_ms": END + 1},
        {"expires_ms": None},
        {"priority": 3},
        {"features": ("x",)},
        {"begins_ms": T0 + DAY_MS},
        {"amount": -50, "kind": "purchased", "expires_ms": None},
    ],
    ids=str,
)
def test_grant_key_with_other_terms_is_refused(purse: Purse, other: dict[str, object]) -> None:
    purse.give("a", 50, expires_ms=END)
    asked: dict[str, object] = {"amount": 50, "expires_ms": END, **other}
    with pytest.raises(Refused, match="was used for"):
        purse.give("a", **asked)  # type: ignore[arg-type]
    assert purse.balance == 50


WRONG = {
    "already over": ({"expires_ms": T0}, "invalid end of credit"),
    "over before it begins": ({"begins_ms": T0 + DAY_MS, "expires_ms": T0 + HOUR_MS}, "after the credit begins"),
    "below the first priority": ({"priority": -1}, "invalid priority"),
    "beyond the last priority": ({"priority": 1001}, "invalid priority"),
    "of no kind": ({"kind": "free"}, "included, bonus, purchased, sponsor, refund"),
    "before the year 2000": ({"begins_ms": 0}, "year 2000"),
    "for no feature": ({"features": ()}, "expected 1 to 100"),
    "for too many features": ({"features": tuple(f"f{number:03}" for number in range(101))}, "expected 1 to 100"),
    "for a feature twice": ({"features": ("x", "x")}, "each once"),
    "of what is taken": ({"amount": -5}, "need a positive amount"),
}


@pytest.mark.parametrize("situation", WRONG)
def test_invalid_lot_terms_are_refused(purse: Purse, situation: str) -> None:
    asked, said = WRONG[situation]
    with pytest.raises(UsageError, match=said):
        purse.give("a", **{"amount": 5, **asked})  # type: ignore[arg-type, dict-item]
    assert purse.fleet.rows("SELECT 1 FROM ledger_lots") == []


def test_lot_with_unknown_feature_is_refused(purse: Purse) -> None:
    asked = Terms("bonus", features=("compute_1g",))
    with pytest.raises(UnknownId, match="did you mean compute_1gb"):
        purse.write(lambda c: credit.grant(c, "acme", 5, purse.fleet.by, key="a", plan=None, new=False, terms=asked))


def test_future_lot_is_added_to_balance_at_begin(purse: Purse) -> None:
    purse.give("now", 10)
    purse.give("later", 20, begins_ms=T0 + DAY_MS, expires_ms=END)
    assert (purse.balance, purse.lot("later").state, purse.shown.left_by_kind()["included"]) == (10, "to come", 10)
    with pytest.raises(Denied, match="available"):
        purse.accept("e-1", 11)
    assert purse.sweep(T0 + DAY_MS - 1) == []
    purse.fleet.clock.at_ms += 1
    preview = read(purse.fleet.engine, lambda c: executions.preview(c, Request("acme", 30), T0 + DAY_MS))
    assert (preview.allowed, preview.available_micro, purse.balance) == (True, 30, 10)
    purse.accept("e-1", 30)  # nobody swept
    assert purse.balance == 0
    rows = purse.fleet.rows("SELECT amount_micro, ts, at_ms FROM ledger_entries WHERE key = 'grant:later'")
    assert rows == [(20, T0 + DAY_MS, T0 + DAY_MS)]


def test_unused_credit_expires_after_wait(purse: Purse) -> None:
    purse.give("month", 100, expires_ms=END)
    purse.give("bought", 50, "purchased")
    purse.use(30, T0 + DAY_MS)
    assert purse.sweep(END - 1) == []
    assert purse.sweep(END) == ["acme"], "it pays for nothing new"
    assert purse.sweep(END + EXPIRY_WAIT_MS - 1) == []
    assert (purse.balance, purse.lot("month").waits_micro, purse.lot("month").remaining_micro) == (120, 70, 0)
    assert purse.sweep(END + EXPIRY_WAIT_MS) == ["acme"]
    assert (purse.balance, purse.expiries) == (50, {"month:r0": 70})
    assert purse.fleet.rows("SELECT from_account, to_account, ts, lot FROM ledger_entries WHERE kind = 'expiry'") == [
        ("wallet:acme", "breakage", END, "grant:month")
    ]
    assert purse.shown.left_by_kind() == {"included": 0, "bonus": 0, "purchased": 50, "sponsor": 0, "refund": 0}
    assert purse.sweep(END + 2 * DAY_MS) == []


def test_late_usage_and_withdrawal_adjust_expired_lot(purse: Purse) -> None:
    purse.give("month", 100, expires_ms=END)
    purse.sweep(END + EXPIRY_WAIT_MS)
    assert (purse.balance, purse.expiries) == (0, {"month:r0": 100})
    purse.use(40, END - WINDOW_MS)
    assert purse.balance == -40
    assert purse.sweep(END + DAY_MS) == ["acme"]
    assert (purse.balance, purse.expiries) == (0, {"month:r0": 100, "month:r1": -40})
    purse.use(-15, END - WINDOW_MS)
    purse.sweep()
    assert (purse.balance, purse.expiries) == (0, {"month:r0": 100, "month:r1": -40, "month:r2": 15})
    purse.use(7, END)
    assert purse.sweep() == []
    assert (purse.balance, purse.shown.owed_micro) == (-7, 7)


def test_reservation_applies_due_expiry_and_late_usage_first(purse: Purse) -> None:
    """Nobody sweeps."""
    purse.give("month", 100, expires_ms=END)
    purse.give("bought", 50, "purchased")
    purse.fleet.clock.at_ms = END + EXPIRY_WAIT_MS
    with pytest.raises(Denied, match="needs"):
        purse.accept("e-1", 51)
    purse.accept("e-1", 20)
    purse.use(60, END - WINDOW_MS)
    purse.accept("e-2", 30)
    assert (purse.balance, purse.expiries) == (0, {"month:r0": 100, "month:r1": -60})


def test_debt_is_paid_from_next_lot(purse: Purse) -> None:
    purse.use(30)
    purse.give("month", 100, begins_ms=T0 + HOUR_MS, expires_ms=END)
    purse.sweep(END + EXPIRY_WAIT_MS)
    assert (purse.balance, purse.lot("month").used_micro, purse.expiries) == (0, 30, {"month:r0": 70})


def test_negative_grant_is_paid_from_lots_as_taken_back(purse: Purse) -> None:
    purse.give("month", 100, expires_ms=END)
    purse.fleet.clock.at_ms += DAY_MS
    purse.use(5)
    purse.write(lambda c: credit.grant(c, "acme", -25, purse.fleet.by, key="minus", plan=None))
    purse.sweep(END + EXPIRY_WAIT_MS)
    assert (purse.balance, purse.expiries) == (0, {"month:r0": 70})
    assert (purse.lot("month").used_micro, purse.lot("month").taken_back_micro) == (5, 25)
    now = purse.fleet.clock.at_ms
    told = read(purse.fleet.engine, lambda c: of_customer(c, "acme", Span(0, now + 1), now))
    moved = {change.section: change.moved_micro for change in told.changes}
    assert (moved["usage"], moved["taken_back"]) == (-5, -25), "the same words in the statement"


@pytest.mark.parametrize("how", ["release", "settle", "settle above", "expire"])
def test_reservation_defers_lot_expiry_until_end(purse: Purse, how: str) -> None:
    purse.give("month", 100, expires_ms=END)
    purse.give("bought", 10, "purchased")
    purse.fleet.clock.at_ms = END - HOUR_MS
    purse.accept("e-1", 60, for_ms=DAY_MS)
    purse.sweep(END + EXPIRY_WAIT_MS)
    assert (purse.balance, purse.expiries) == (0, {"month:r0": 50})
    purse.sweep(END + 2 * HOUR_MS)
    assert purse.expiries == {"month:r0": 50}, "it waits, and is not looked at for ever"
    if how == "release":
        purse.release("e-1")
    elif how == "settle":
        purse.settle("e-1", 45)
    elif how == "settle above":
        purse.settle("e-1", 105)
    else:
        purse.fleet.clock.at_ms = END + DAY_MS
    purse.sweep()
    left, more = {
        "release": (10, 50), "settle": (10, 5), "settle above": (5, -50), "expire": (10, 50)
    }[how]  # fmt: skip
    assert (purse.balance, purse.expiries) == (left, {"month:r0": 50, "month:r1": more})
    assert purse.fleet.one("SELECT deferred_micro FROM ledger_accounts") == 0


def test_deferred_lot_expiry_is_booked_when_credit_arrives(purse: Purse) -> None:
    purse.give("month", 100, expires_ms=END)
    purse.fleet.clock.at_ms = END - HOUR_MS
    purse.accept("e-1", 60, for_ms=DAY_MS)
    purse.sweep(END + EXPIRY_WAIT_MS)
    assert (purse.balance, purse.expiries) == (0, {"month:r0": 40})
    purse.give("bought", 50, "purchased")
    purse.sweep()
    assert (purse.balance, purse.expiries) == (0, {"month:r0": 40, "month:r1": 50})
    purse.release("e-1")
    with pytest.raises(Denied):
        purse.accept("e-2", 51)
    purse.accept("e-2", 50)


def test_usage_after_lot_end_does_not_delay_expiry(purse: Purse) -> None:
    purse.give("month", 10, expires_ms=END)
    purse.fleet.clock.at_ms = END
    purse.use(3)
    purse.sweep(END + EXPIRY_WAIT_MS)
    assert (purse.balance, purse.expiries) == (-3, {"month:r0": 10})


def test_restricted_lot_pays_only_listed_features(purse: Purse) -> None:
    purse.give("for x", 50, "bonus", features=("x",))
    purse.give("for all", 50, "purchased")
    purse.use(20, feature="x")
    purse.use(15, feature="y")
    purse.accept("e-1", 5)
    purse.settle("e-1", 5)
    assert (purse.lot("for x").remaining_micro, purse.lot("for all").remaining_micro) == (30, 30)
    purse.use(40, feature="x")
    assert (purse.lot("for x").remaining_micro, purse.lot("for all").remaining_micro) == (0, 20)
    purse.use(30, feature="y")
    assert (purse.balance, purse.shown.owed_micro) == (-10, 10)


def test_take_back_removes_remaining_credit_of_lot(purse: Purse) -> None:
    purse.give("a", 50)
    purse.give("b", 20)
    purse.use(30)
    assert (purse.take_back("a"), purse.balance) == (20, 20)
    assert (purse.take_back("grant:a"), purse.balance) == (0, 20), "what was taken before is not taken again"
    purse.use(-10)
    assert (purse.lot("a").remaining_micro, purse.take_back("a"), purse.balance) == (10, 10, 20)
    assert purse.lot("a").taken_back_micro == 30
    actions = "SELECT COUNT(*) FROM operator_actions WHERE action = 'ledger_grant' AND details LIKE '%back:grant:a:r%'"
    assert purse.fleet.one(actions) == 2
    with pytest.raises(UnknownId, match="unknown lot c"):
        purse.take_back("c")


def test_take_back_excludes_reserved_credit_unless_whole(purse: Purse) -> None:
    purse.give("a", 50)
    purse.accept("e-1", 30)
    assert (purse.take_back("a"), purse.balance) == (20, 0)
    assert (purse.take_back("a"), purse.balance) == (0, 0)
    purse.settle("e-1", 10)
    assert (purse.take_back("a"), purse.balance) == (20, 0)
    purse.give("b", 50)
    purse.accept("e-2", 30)
    assert (purse.take_back("b", whole=True), purse.balance) == (50, -30)


def test_take_back_of_whole_lot_moves_usage_to_other_lots(purse: Purse) -> None:
    purse.give("month", 30, expires_ms=END)
    purse.give("stolen", 50, "purchased", priority=1)
    purse.use(40)
    purse.sweep(END + EXPIRY_WAIT_MS)
    assert (purse.balance, purse.expiries) == (10, {"month:r0": 30})
    assert purse.take_back("stolen", whole=True) == 50
    assert (purse.balance, purse.expiries) == (-10, {"month:r0": 30, "month:r1": -30})
    assert (purse.lot("month").used_micro, purse.shown.owed_micro) == (30, 10)


def test_take_back_of_future_lot_removes_whole_amount(purse: Purse) -> None:
    purse.give("now", 1)
    purse.give("later", 50, begins_ms=T0 + DAY_MS, expires_ms=END)
    assert (purse.take_back("later"), purse.balance) == (50, 1)
    at = "SELECT SUM(amount_micro), MIN(ts) FROM ledger_entries WHERE key LIKE '%later%'"
    assert purse.fleet.rows(at) == [(0, T0 + DAY_MS)], "no balance before its start lacks it"
    purse.sweep(T0 + DAY_MS)
    assert purse.balance == 1
    purse.sweep(END + DAY_MS)
    assert (purse.balance, purse.expiries) == (1, {})


def test_take_back_of_ended_lot_prevents_expiry(purse: Purse) -> None:
    purse.give("month", 50, expires_ms=END)
    purse.fleet.clock.at_ms = END + MINUTE_MS
    assert purse.take_back("month") == 50
    purse.sweep(END + DAY_MS)
    assert (purse.balance, purse.expiries) == (0, {})


def test_concurrent_lot_operations_keep_ledger_consistent(purse: Purse) -> None:
    """Six workers use, reserve, settle, take back and sweep while two months are over and a third begins."""
    for number in range(4):
        purse.give(f"m{number}", 1000, expires_ms=END + number * MINUTE_MS, priority=number)
    purse.give("next", 1000, begins_ms=END + HOUR_MS)
    purse.give("bought", 5000, "purchased", priority=90)
    purse.fleet.clock.at_ms = END - HOUR_MS
    for number in range(6):
        purse.accept(f"held-{number}", 100, for_ms=DAY_MS)
    purse.fleet.clock.at_ms = now = END + HOUR_MS
    by = purse.fleet.by

    def work(worker: int) -> None:
        for turn in range(5):
            use = Usage(f"u{worker}-{turn}", "acme", "x", 7 + worker, END - WINDOW_MS * (1 + turn))
            purse.write(lambda c, use=use: wallet.charge(c, [use], now))  # type: ignore[misc]
            key = f"e{worker}-{turn}"
            purse.write(lambda c, key=key: executions.accept(c, key, Request("acme", 10), by))  # type: ignore[misc]
            purse.write(lambda c: mature_due(c, now))
            purse.write(lambda c, key=key: executions.settle(c, key, Cost(4), by))  # type: ignore[misc]
        purse.write(lambda c: executions.settle(c, f"held-{worker}", Cost(30 + worker), by))
        purse.write(lambda c: credit.take_back(c, f"m{worker % 4}", by, whole=worker == 5))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    purse.sweep()
    used = sum(5 * (7 + worker + 4) + 30 + worker for worker in range(6))
    rows = purse.shown.lots
    assert sum(row.used_micro for row in rows) == used
    assert [row.waits_micro for row in rows] == [0] * 6
    assert purse.lot("next").used_micro == 30 * 4, "runs of now"
    assert purse.balance == sum(row.remaining_micro for row in rows) == 880 + 5000
    assert purse.lot("m1").taken_back_micro == 1000, "the whole"


@pytest.mark.both_databases
def test_tick_expires_lot_and_late_samples_reopen_lot(purse: Purse) -> None:
    """All through the tick: samples, windows, a halt as credit is over, and its end as more begins."""
    fleet = purse.fleet
    purse.write(lambda c: credit.set_rate(c, "compute_1gb", 1, 1, fleet.by, from_ms=T0))
    purse.give("month", 1000, expires_ms=T0 + HOUR_MS)
    purse.give("next", 5, begins_ms=T0 + HOUR_MS + 4 * WINDOW_MS)
    fleet.sample("acme", T0 + 1, 60)
    fleet.tick(T0 + HOUR_MS)
    assert purse.balance == 940
    fleet.tick(T0 + HOUR_MS + EXPIRY_WAIT_MS)
    assert (purse.balance, purse.expiries) == (0, {"month:r0": 940})
    org = "SELECT is_halted FROM orgs WHERE org_id = 'acme'"
    assert fleet.one(org)
    fleet.tick(T0 + HOUR_MS + 4 * WINDOW_MS)
    assert (purse.balance, fleet.one(org)) == (5, False)
    fleet.sample("acme", T0 + 2, 40)
    fleet.tick_windows(2)
    assert (purse.balance, purse.expiries, fleet.one(org)) == (5, {"month:r0": 940, "month:r1": -40}, False)


@pytest.mark.parametrize("how", ["tick", "replay"])
def test_late_usage_of_expired_lot_is_equal_in_all_views(purse: Purse, how: str) -> None:
    """Usage of a lot's life that is charged once the lot was booked: whoever reads the wallet as it stands, its lots or
    its statement need not wait for the next tick."""
    fleet = purse.fleet
    purse.write(lambda c: credit.set_rate(c, "compute_1gb", 1, 1, fleet.by, from_ms=T0))
    purse.give("month", 20, expires_ms=T0 + HOUR_MS)
    purse.give("bought", 10, "purchased")
    fleet.tick(T0 + HOUR_MS + EXPIRY_WAIT_MS)
    fleet.sample("acme", T0 + 1, 25)
    if how == "replay":
        fleet.write("UPDATE buckets SET cursor = 9000000000000, epoch = epoch + 1")
        made = read(fleet.engine, lambda c: plan(c, ReplayScope(), T0, T0 + HOUR_MS, fleet.clock.at_ms))
        world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
        runner.run(replay(fleet.context(), made, fleet.by, dry_run=False), world)
    else:
        fleet.tick_windows(2)
    now = fleet.clock.at_ms
    account = read(fleet.engine, lambda c: account_of(c, "acme", now))
    (line,) = read(fleet.engine, lambda c: wallets.page(c, wallets.Chosen())).lines
    closing = read(fleet.engine, lambda c: of_customer(c, "acme", Span(0, now + 1), now)).closing_micro
    assert (account.balance_micro, account.available_micro, account.owed_micro) == (5, 5, 0)
    assert (line.balance_micro, line.available_micro, closing) == (5, 5, 5)
    assert purse.expiries == {"month:r0": 20, "month:r1": -20}
    assert fleet.one("SELECT projection_due_ms FROM orgs WHERE org_id = 'acme'") is None, "nothing waits for another"


def test_ledger_lots_command_prints_order_and_remaining_credit(purse: Purse) -> None:
    purse.give("bought", 50_000_000, "purchased")
    purse.give("month", 20_000_000, expires_ms=END)
    purse.give("for x", 5_000_000, "bonus", features=("x",), priority=1)
    purse.give("soon", 7_500_000, "sponsor", begins_ms=T0 + DAY_MS)
    purse.use(6_000_000)
    url = purse.fleet.engine.url.render_as_string(hide_password=False)
    lines = run(url, "ledger", "lots", "acme").splitlines()
    assert any(ORDER in line for line in lines)
    rows = [" ".join(line.split()) for line in lines[lines.index("Lots") + 2 :] if line]
    began = "2026-01-01T00:00:00Z"
    assert rows == [
        f"1 in use bonus 5.00 0.00 0.00 5.00 0.00 0.00 1 {began} - x grant:for x",
        f"2 in use included 20.00 19.00 0.00 1.00 0.00 0.00 50 {began} 2026-01-31T00:00:00Z all grant:month",
        f"3 in use purchased 50.00 50.00 0.00 0.00 0.00 0.00 50 {began} - all grant:bought",
        "- to come sponsor 7.50 7.50 0.00 0.00 0.00 0.00 50 2026-01-02T00:00:00Z - all grant:soon",
    ]
    told = json.loads(run(url, "ledger", "lots", "acme", "--json"))
    assert [(one["lot"], one["place"], one["remaining_micro"]) for one in told["lots"]] == [
        ("grant:for x", 1, 0), ("grant:month", 2, 19_000_000), ("grant:bought", 3, 50_000_000),
        ("grant:soon", None, 7_500_000),
    ]  # fmt: skip
    shown = json.loads(run(url, "ledger", "show", "acme", "--json"))
    names = ("available", "reserved", "included", "bonus", "purchased", "sponsor", "refund", "hold")
    assert [shown[name] for name in names] == [69, 0, 19, 0, 50, 0, 0, 0]


def run(url: str, *words: str, status: int = 0) -> str:
    found = drawdown(url, *words, at="2026-01-01T00:00")
    assert found.status == status, found
    return found.out + found.err


def test_ledger_show_names_change_that_is_not_booked_yet(purse: Purse, capsys: pytest.CaptureFixture[str]) -> None:
    """Without it, the available credit is not the sum of the entries."""
    purse.give("k", 20 * MICRO, "bonus", expires_ms=T0 + DAY_MS)
    purse.sweep(T0 + 2 * DAY_MS)
    url = purse.fleet.engine.url.render_as_string(hide_password=False)

    def shown() -> str:
        assert main.run(["--database-url", url, "--at", "2026-01-04", "ledger", "show", "acme"]) == 0
        return capsys.readouterr().out.splitlines()[0]

    assert shown() == "acme: 0.00 credits available, 0.00 reserved, plan -"
    purse.use(5 * MICRO, T0)
    assert shown() == "acme: 0.00 credits available, 0.00 reserved, 5.00 not booked yet, plan -"


def test_ledger_grant_and_take_back_commands_report_result(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lots.db"
    run(migrated(url), "init")
    given = ("ledger", "grant", "acme", "12.50", "--new", "--key", "k", "--kind", "bonus", "--feature", "compute_1gb",
             "--priority", "10", "--begins", "2026-01-02", "--expires", "2026-02-01")  # fmt: skip
    assert "0.00 credits, plan -; 12.50 more from 2026-01-02T00:00:00Z on" in run(url, *given)
    assert "was made before" in run(url, *given)
    assert "was used for" in run(url, *given[:-1], "2026-03-01", status=1)
    assert "invalid time" in run(url, *given[:-1], "whenever", status=2)
    assert "For 1d from now, pass +1d" in run(url, "ledger", "grant", "acme", "1", "--expires", "1d", status=2)
    assert "invalid end of credit" in run(url, "ledger", "grant", "acme", "1", "--expires", "yesterday", status=2)
    assert "included, bonus, purchased" in run(url, "ledger", "grant", "acme", "1", "--kind", "gift", status=2)
    assert "did you mean grant:k" in run(url, "ledger", "take-back", "grant:kk", status=2)
    assert "took back 12.50 credits of grant:k; 0.00 credits now" in run(url, "ledger", "take-back", "k")
    assert "0 credits are left to take back of grant:k" in run(url, "ledger", "take-back", "k", "--whole")


@pytest.mark.parametrize("times", ["--expires +30d", "--begins +2h", "--begins +1d --expires +30d"])
def test_repeated_grant_with_relative_times_is_credited_once(tmp_path: Path, times: str) -> None:
    """`+30d` is another moment each time, and the same credit; a length that differs is other content."""
    url = f"sqlite:///{tmp_path}/lots.db"
    run(migrated(url), "init")
    given = ("ledger", "grant", "acme", "20", "--key", "k", "--new", *times.split())
    run(url, *given)
    for at in ("2026-01-01T00:00:00.001", "2026-01-01T00:07", "2026-01-03T00:00"):
        told = drawdown(url, *given, at=at)
        assert told.status == 0 and "was made before. This call did not add credit" in told.out, told
    other = drawdown(url, *given[:-1], "+31d", at="2026-01-01T00:07")
    assert other.status == 1
    for words in ("20 credits to acme", "This call did not move credit", "`drawdown ledger lots acme`"):
        assert words in other.err
    assert len(json.loads(run(url, "ledger", "lots", "acme", "--json"))["lots"]) == 1


def test_repeated_grant_after_end_of_credit_is_recognised(tmp_path: Path) -> None:
    url = migrated(f"sqlite:///{tmp_path}/lots.db")
    run(url, "init")
    given = ("ledger", "grant", "acme", "20", "--key", "k", "--new", "--expires", "2026-01-02")
    run(url, *given)
    told = drawdown(url, *given, at="2026-01-03T00:00")
    assert told.status == 0 and "was made before. This call did not add credit or change the plan" in told.out, told
    other = drawdown(url, *given[:-1], "2026-01-01T12:00", at="2026-01-03T00:00")
    assert other.status == 1 and "This call did not move credit" in other.err


def test_lost_grant_answer_suggests_repeat_with_absolute_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`+30d` would be another moment by then, and the key has blanks that a shell takes apart."""
    url = migrated(f"sqlite:///{tmp_path}/lots.db")

    def lost(_app: App, _work: object, rollback: bool = False) -> None:
        raise AnswerLost("gone")

    monkeypatch.setattr(App, "write", lost)
    given = ["ledger", "grant", "acme", "20", "--key", "invoice 7", "--begins", "+2h", "--expires", "+30d"]
    assert main.run(["--database-url", url, "--at", "2026-01-01T00:00", *given]) == Exit.LEFT
    again = "--key 'invoice 7' --begins 2026-01-01T02:00:00Z --expires 2026-01-31T00:00:00Z"
    assert f"repeat the command with {again}. Drawdown makes the change only once" in capsys.readouterr().err


def test_repeated_pool_allot_with_relative_expiry_is_credited_once(tmp_path: Path) -> None:
    url = migrated(f"sqlite:///{tmp_path}/lots.db")
    for words in ("init", "pool make course", "ledger grant course 50", "ledger grant acme 5 --new"):
        run(url, *words.split())
    allot = ["pool", "allot", "course", "acme", "20", "--expires", "+30d", "--key", "spring-acme"]
    assert "until 2026-01-31T00:00:00Z. Available: 30.00 in course" in run(url, *allot)
    told = drawdown(url, *allot, at="2026-01-02T12:00")
    assert told.status == 0
    assert "until 2026-01-31T00:00:00Z. This call did not move credit. Available: 30.00 in course" in told.out
    other = drawdown(
        url,
        *[*allot[:4], "21", *allot[5:]],
        at="2026-01-02T12:00",
    )
    assert other.status == 1 and "20 credits to acme" in other.err and "This call did not move credit" in other.err


def test_future_lot_does_not_pay_debt_and_is_taken_back_whole(purse: Purse) -> None:
    purse.give("now", 100)
    purse.use(120)
    purse.give("next", 500, begins_ms=T0 + 30 * DAY_MS)
    view = read(purse.fleet.engine, lambda c: list_lots(c, "acme", purse.fleet.clock.at_ms))
    assert view.owed_micro == 20
    assert [(row.lot, row.used_micro, row.remaining_micro) for row in view.lots] == [
        ("grant:now", 100, 0),
        ("grant:next", 0, 500),
    ]
    assert purse.take_back("grant:next") == 500
    assert purse.fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'") == -20
    purse.sweep(T0 + 40 * DAY_MS)
