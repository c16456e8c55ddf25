"""What suppliers are owed: shares, holds, freezes, reversals, payouts and their files, on both databases."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.cli.main import run
from drawdown.ledger.draws import Cost
from drawdown.ledger.payouts import Payout
from drawdown.ledger.reservations import Denied
from drawdown.ledger.settlements import Settlement, net_of
from drawdown.schema.audit import By
from drawdown.schema.database import read, write
from drawdown.schema.errors import UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements import lists
from drawdown.worker.settlements.actions import MAX_HOLD_MS, Change
from drawdown.worker.settlements.lists import (
    SettlementFilter,
    Sums,
    list_payouts,
    list_suppliers,
    show_settlement,
)
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets.actions import grant
from tests.world import T0, Fleet

T = TypeVar("T")
STATES = ("hold", "eligible", "frozen", "released", "reversed")
HOLD_MS = 35 * DAY_MS


class Shop:
    """acme with 10,000 credits; pixel gets 70 percent for good, and loop 50 percent, within a day, and gives back."""

    def __init__(self, engine: sa.Engine) -> None:
        self.fleet = Fleet(engine)
        self.fleet.assign("acme")
        self.write(lambda c: grant(c, "acme", 10_000 * MICRO, self.by, key="first", plan=None))
        self.set("pixel", Change(share_ppm=700_000), new=True)
        loose = Change(share_ppm=500_000, hold_ms=DAY_MS, threshold_micro=10 * MICRO, takes_clawbacks=True)
        self.set("loop", loose, new=True)

    @property
    def by(self) -> By:
        return self.fleet.by

    @property
    def now(self) -> int:
        return self.fleet.clock.at_ms

    def write(self, work: Callable[[sa.Connection], T], *, rollback: bool = False) -> T:
        return write(self.fleet.engine, work, rollback=rollback)

    def later(self, ms: int) -> None:
        self.fleet.clock.at_ms += ms

    def set(self, name: str, change: Change, *, new: bool = False) -> None:
        self.write(lambda c: settlements.set_supplier(c, name, change, self.by, new=new))

    def accept(self, key: str, supplier: str | None = "pixel", credits: int = 100) -> None:
        request = Request("acme", credits * MICRO, supplier=supplier)
        self.write(lambda c: executions.accept(c, key, request, self.by))

    def settle(self, key: str, micro: int) -> None:
        self.write(lambda c: executions.settle(c, key, Cost(micro), self.by))

    def draw(self, key: str, number: int, credits: int) -> None:
        self.write(lambda c: executions.draw(c, key, number, Cost(credits * MICRO), self.by))

    def release(self, key: str, incurred: Cost | None) -> None:
        self.write(lambda c: executions.release(c, key, incurred, self.by))

    def ran(self, key: str, supplier: str | None = "pixel", credits: int = 200) -> None:
        """A run that was settled at so much."""
        self.accept(key, supplier)
        self.settle(key, credits * MICRO)

    def freeze(self, key: str, *, undo: bool = False) -> bool:
        return self.write(lambda c: settlements.freeze(c, key, self.by, undo=undo))[1]

    def freeze_all(self, supplier: str, *, undo: bool = False) -> bool:
        return self.write(lambda c: settlements.freeze_supplier(c, supplier, self.by, undo=undo))

    def reverse(self, run_: str, credits: int | None = None, key: str = "r") -> settlements.Reversed:
        micro = None if credits is None else credits * MICRO
        return self.write(lambda c: settlements.reverse(c, run_, key, micro, self.by))

    def payout(
        self, supplier: str = "pixel", period: str = "2026-02", expect: int | None = None, *, dry: bool = False
    ) -> tuple[Payout, bool]:
        expected = None if expect is None else expect * MICRO
        return self.write(lambda c: settlements.make_payout(c, supplier, period, self.by, expected), rollback=dry)

    def found(self, key: str) -> Settlement:
        return read(self.fleet.engine, lambda c: show_settlement(c, key, self.now, 10))[0]

    def listed(self, *states: str, supplier: str = "") -> list[Settlement]:
        chosen = SettlementFilter(states, supplier)
        return read(self.fleet.engine, lambda c: lists.page(c, chosen, self.now, most=50)[0])

    def file(self, payout: str) -> tuple[str, str]:
        """As CSV, and as JSON."""

        def made(connection: sa.Connection) -> tuple[str, str]:
            found = lists.require_payout(connection, payout)
            kinds = (lists.csv_file, lists.json_file)
            as_csv, as_json = ("".join(kind(connection, found)) for kind in kinds)
            return as_csv, as_json

        return read(self.fleet.engine, made)

    def sums(self, supplier: str = "pixel") -> Sums:
        accounts = read(self.fleet.engine, lambda c: list_suppliers(c, self.now, 50))
        (sums,) = (one.sums for one in accounts if one.supplier == supplier)
        parts = (sums.hold_micro, sums.eligible_micro, sums.frozen_micro, sums.released_micro, sums.reversed_micro)
        assert sums.net_micro == sum(parts)
        assert sums.paid_micro == sums.released_micro - (sums.clawed_back_micro - sums.carried_micro)
        return sums

    def purse(self) -> object:
        return self.fleet.rows("SELECT balance_micro, held_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'")


@pytest.fixture
def shop(engine: sa.Engine, request: pytest.FixtureRequest) -> Iterator[Shop]:
    """Whatever a test does with it, `verify` finds nothing wrong at its end, unless the test breaks it."""
    made = Shop(engine)
    yield made
    if "broken" not in request.node.name:
        assert read(engine, verify).breaches == []


def test_settlement_of_execution_is_held_then_released_in_payout(shop: Shop) -> None:
    shop.ran("e-1", credits=200)
    found, purse = shop.found("e-1"), shop.purse()
    assert purse == [(9_800 * MICRO, 0)]
    assert (found.gross_micro, found.share_ppm, found.net_micro) == (200 * MICRO, 700_000, 140 * MICRO)
    assert (found.state, found.settled_ms, found.hold_until_ms) == ("hold", shop.now, shop.now + HOLD_MS)
    shop.later(HOLD_MS - 1)
    assert shop.found("e-1").state == "hold"
    shop.later(1)
    assert shop.found("e-1").state == "eligible"
    assert shop.sums().eligible_micro == 140 * MICRO
    dry, _ = shop.payout(dry=True)
    assert shop.fleet.rows("SELECT * FROM payouts") == shop.fleet.rows("SELECT * FROM payout_lines") == []
    made, repeated = shop.payout(expect=140)
    assert (made, repeated) == (dry, False)
    assert (made.payout, made.total_micro, made.carried_micro, made.lines) == (
        "payout:pixel:2026-02", 140 * MICRO, 0, 1)  # fmt: skip
    assert (shop.found("e-1").state, shop.found("e-1").payout) == ("released", "payout:pixel:2026-02")
    assert shop.sums() == Sums(net_micro=140 * MICRO, released_micro=140 * MICRO, paid_micro=140 * MICRO)
    assert shop.purse() == purse


def test_settlement_share_is_rounded_down(shop: Shop) -> None:
    shares = [
     (0, 700_000, 0), (1, 999_999, 0), (3, 333_333, 0), (10, 333_333, 3), (7, 1_000_000, 7), (7, 0, 0),
     (10**15, 999_999, 999_999_000_000_000), (10**15 - 1, 333_333, 333_332_999_999_999),
    ]  # fmt: skip
    for number, (_, ppm, _) in enumerate(shares):
        shop.set(f"other-{number}", Change(share_ppm=ppm), new=True)
        shop.accept(f"e-{number}", f"other-{number}")
    for number, (gross, ppm, net) in enumerate(shares):
        assert net_of(gross, ppm) == net
        shop.settle(f"e-{number}", gross)
        assert shop.found(f"e-{number}").net_micro == net


def test_settlement_counts_all_charges_of_execution_once(shop: Shop) -> None:
    shop.accept("e-1")
    for number in (1, 2, 2):
        shop.draw("e-1", number, 30)
    assert shop.fleet.rows("SELECT * FROM settlements") == []
    for _ in range(2):
        shop.settle("e-1", 100 * MICRO)
    assert shop.fleet.rows("SELECT reservation, gross_micro FROM settlements") == [("e-1", 100 * MICRO)]


def test_settlement_excludes_capped_cost(shop: Shop) -> None:
    request = Request("acme", 100 * MICRO, supplier="pixel", overage="cap")
    shop.write(lambda c: executions.accept(c, "e-1", request, shop.by))
    shop.settle("e-1", 150 * MICRO)
    assert shop.found("e-1").gross_micro == 100 * MICRO


def test_settlement_of_released_execution_counts_incurred_cost(shop: Shop) -> None:
    for key, incurred in (("free", None), ("incurred", Cost(20 * MICRO)), ("drawn", None), ("none", Cost(0))):
        shop.accept(key)
        if key == "drawn":
            shop.draw("drawn", 1, 10)
        shop.release(key, incurred)
    rows = shop.fleet.rows("SELECT reservation, gross_micro FROM settlements ORDER BY 1")
    assert rows == [("drawn", 10 * MICRO), ("incurred", 20 * MICRO)]


def test_settlement_of_expired_execution_is_added_after_settle(shop: Shop) -> None:
    shop.accept("e-1")
    shop.draw("e-1", 1, 10)
    shop.later(60 * MINUTE_MS)
    shop.accept("another")  # matures the wallet
    assert shop.fleet.one("SELECT state FROM reservations WHERE reservation = 'e-1'") == "expired"
    assert (shop.sums().net_micro, shop.sums().unsettled_micro) == (0, 10 * MICRO)
    shop.settle("e-1", 50 * MICRO)
    assert (shop.found("e-1").gross_micro, shop.found("e-1").hold_until_ms) == (50 * MICRO, shop.now + HOLD_MS)
    assert shop.sums().unsettled_micro == 0


def test_execution_without_supplier_does_not_add_settlement(shop: Shop) -> None:
    shop.ran("e-1", None)
    assert shop.fleet.rows("SELECT * FROM settlements") == []


def test_settlement_terms_are_those_at_end_of_execution(shop: Shop) -> None:
    shop.accept("e-1")
    shop.ran("before")
    shop.set("pixel", Change(share_ppm=100_000, hold_ms=40 * DAY_MS, threshold_micro=7, takes_clawbacks=True))
    shop.settle("e-1", 100 * MICRO)
    before, found = shop.found("before"), shop.found("e-1")
    assert (before.share_ppm, before.threshold_micro, before.takes_clawbacks) == (700_000, 100 * MICRO, False)
    assert (found.net_micro, found.threshold_micro, found.takes_clawbacks) == (10 * MICRO, 7, True)
    assert found.hold_until_ms == shop.now + 40 * DAY_MS


def test_execution_repeat_with_other_supplier_is_denied(shop: Shop) -> None:
    shop.accept("e-1", "pixel")
    shop.accept("e-1", "pixel")
    for other in ("loop", None):
        with pytest.raises(Denied) as denied:
            shop.accept("e-1", other)
        assert denied.value.code == "other_content"
    with pytest.raises(UnknownId, match="did you mean pixel"):
        shop.accept("e-2", "pixle")


def test_payout_requires_more_than_threshold(shop: Shop) -> None:
    shop.set("exact", Change(share_ppm=1_000_000), new=True)
    shop.ran("e-1", "exact", 100)
    shop.later(HOLD_MS)
    with pytest.raises(
        Denied,
        match=r"cannot release a payout of exact: the releasable amount is 100 credits. A payout must exceed 100",
    ):
        shop.payout("exact")
    assert shop.fleet.rows("SELECT * FROM payout_lines") == []
    shop.accept("e-2", "exact")
    shop.settle("e-2", 1)
    shop.later(HOLD_MS)
    assert shop.payout("exact", "2026-03")[0].total_micro == 100 * MICRO + 1


def test_payout_dry_run_shows_credits_of_wallets_that_owe(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.ran("paid", credits=200)
    shop.later(HOLD_MS)
    url = shop.fleet.engine.url.render_as_string(hide_password=False)

    def dry_run() -> str:
        asked = ["--database-url", url, "--at", str(shop.now), "settlement", "payout", "pixel", "--dry-run"]
        assert run(asked) == 0
        return capsys.readouterr().out

    assert "owe" not in dry_run()
    shop.ran("beyond", credits=9_900)
    shop.later(HOLD_MS)
    assert "7,070.00 credits of it are for executions of wallets that owe now" in " ".join(dry_run().split())


def test_payout_after_raised_threshold_uses_threshold_at_settlement(shop: Shop) -> None:
    shop.ran("e-1", credits=200)
    shop.set("pixel", Change(threshold_micro=1_000 * MICRO))
    shop.ran("e-2", credits=1)
    shop.later(HOLD_MS)
    assert shop.payout()[0].total_micro == 140_700_000


def test_payout_repeated_in_same_period_returns_first_result(shop: Shop) -> None:
    shop.ran("e-1")
    shop.later(HOLD_MS)
    first = shop.payout(expect=140)
    shop.later(HOLD_MS)
    shop.ran("late")
    assert shop.payout(period="2026-02", expect=140) == (first[0], True)
    assert shop.payout(period="2026-02") == (first[0], True)
    with pytest.raises(Denied, match="totals 140 credits, not 141") as denied:
        shop.payout(period="2026-02", expect=141)
    assert denied.value.code == "not_as_expected"
    shop.later(HOLD_MS)
    assert [one.reservation for one in shop.listed("released")] == ["e-1"]
    made, repeated = shop.payout(period="2026-04")
    assert (made.total_micro, made.lines, repeated) == (140 * MICRO, 1, False)
    assert [one.period for one in read(shop.fleet.engine, lambda c: list_payouts(c, "pixel", 9))] == [
        "2026-04", "2026-02"]  # fmt: skip


WRONG_PERIODS = {
    "no month": ("2026-13", UsageError, "invalid period"),
    "a day": ("2026-01-31", UsageError, "invalid period"),
    "a month to come": ("2026-03", UsageError, "it has not begun. Pass 2026-02 or an earlier"),
}


def test_payout_of_invalid_period_is_refused(shop: Shop) -> None:
    shop.ran("e-1")
    shop.later(HOLD_MS)
    for period, error, said in WRONG_PERIODS.values():
        with pytest.raises(error, match=said):
            shop.payout(period=period)


def test_payout_of_earlier_period_is_denied(shop: Shop) -> None:
    shop.ran("e-1")
    shop.later(HOLD_MS)
    shop.payout()
    shop.ran("e-2")
    shop.later(HOLD_MS)
    with pytest.raises(Denied, match="Use a later period") as denied:
        shop.payout(period="2026-01")
    assert denied.value.code == "earlier_period"


def test_frozen_settlement_is_excluded_from_payout_until_unfrozen(shop: Shop) -> None:
    shop.ran("e-1")
    shop.ran("e-2", credits=300)
    assert [shop.freeze("e-1"), shop.freeze("e-1")] == [True, False]
    shop.later(HOLD_MS)
    assert (shop.found("e-1").state, shop.found("e-2").state) == ("frozen", "eligible")
    assert shop.payout()[0].total_micro == 210 * MICRO
    assert shop.sums().frozen_micro == 140 * MICRO
    shop.later(1)
    assert [shop.freeze("e-1", undo=True), shop.freeze("e-1", undo=True)] == [True, False]
    assert shop.found("e-1").state == "eligible"
    (frozen,) = read(shop.fleet.engine, lambda c: show_settlement(c, "e-1", shop.now, 10))[2]
    assert (frozen.from_ms, frozen.actor, frozen.reason) == (T0, "test", "a test")
    assert (frozen.ended_ms, frozen.ended_by, frozen.ended_reason) == (shop.now, "test", "a test")
    shop.later(HOLD_MS)
    assert shop.payout(period="2026-03")[0].total_micro == 140 * MICRO


def test_frozen_supplier_payout_is_denied_and_executions_continue(shop: Shop) -> None:
    shop.ran("e-1")
    shop.later(HOLD_MS)
    assert [shop.freeze_all("pixel"), shop.freeze_all("pixel")] == [True, False]
    shop.ran("e-2")
    assert {shop.found(key).state for key in ("e-1", "e-2")} == {"frozen"}
    with pytest.raises(
        Denied, match=r"supplier pixel is frozen by test \(a test\). Run `drawdown supplier freeze pixel --undo`"
    ) as no:
        shop.payout()
    assert no.value.code == "frozen_supplier"
    assert shop.freeze_all("pixel", undo=True)
    assert (shop.found("e-1").state, shop.found("e-2").state) == ("eligible", "hold")
    assert shop.payout()[0].lines == 1


def test_payout_or_freeze_with_clock_behind_is_denied(shop: Shop) -> None:
    shop.ran("e-1")
    shop.later(HOLD_MS + 5)
    shop.freeze("e-1")
    shop.freeze("e-1", undo=True)
    shop.later(-3)
    for act in (shop.payout, lambda: shop.freeze("e-1"), lambda: shop.freeze_all("pixel")):
        with pytest.raises(Denied, match="the clock of this machine is 3 ms behind") as denied:
            act()
        assert denied.value.code == "clock_behind"
    shop.later(3)
    shop.payout()


def test_reversal_before_payout_reduces_owed_amount(shop: Shop) -> None:
    shop.ran("e-1")
    for repeated in (False, True):
        done = shop.reverse("e-1", 30)
        assert (done.reversal.amount_micro, done.reversal.is_clawback, done.repeated) == (30 * MICRO, False, repeated)
    assert (shop.found("e-1").owed_micro, shop.found("e-1").state) == (110 * MICRO, "hold")
    shop.later(HOLD_MS)
    assert shop.payout()[0].total_micro == 110 * MICRO
    assert shop.sums().reversed_micro == 30 * MICRO


def test_settlement_reversed_in_full_is_not_paid_out(shop: Shop) -> None:
    shop.ran("e-1")
    shop.reverse("e-1", 40, "part")
    shop.freeze("e-1")
    for repeated in (False, True):
        done = shop.reverse("e-1")
        assert (done.reversal.amount_micro, done.repeated) == (100 * MICRO, repeated)
    assert shop.found("e-1").state == "reversed"
    shop.later(HOLD_MS)
    with pytest.raises(Denied, match="cannot release a payout of pixel: the releasable amount is 0 credits"):
        shop.payout()
    assert shop.sums() == Sums(net_micro=140 * MICRO, reversed_micro=140 * MICRO)


REVERSALS: dict[str, tuple[str, str, Callable[[Shop], object]]] = {
    "more than is left": ("above_left", "130 of 140 credits can be reversed", lambda s: s.reverse("e-1", 131, "k")),
    "again what is gone": (
        "nothing_left",
        "its amount, 140 credits, is already reversed",
        lambda s: s.reverse("gone", None, "k"),
    ),
    "its key at another amount": ("other_content", "key r was used", lambda s: s.reverse("e-1", 11)),
    "its key of another run": ("other_content", "key r was used", lambda s: s.reverse("e-2", 10)),
    "its key for the whole of it": ("other_content", "key r was used", lambda s: s.reverse("e-1")),
    "after a release for good": (
        "no_clawbacks",
        "pixel then did not allow clawbacks",
        lambda s: s.reverse("paid", 1, "k"),
    ),
    "a freeze of what was released": ("released", "released it", lambda s: s.freeze("paid")),
}


def test_reversal_denied_leaves_reversals_unchanged(shop: Shop) -> None:
    shop.ran("paid")
    shop.later(HOLD_MS)
    shop.payout()
    for key in ("e-1", "e-2", "gone"):
        shop.ran(key)
    shop.reverse("e-1", 10)
    shop.reverse("gone", None, "all of it")
    before = shop.fleet.rows("SELECT * FROM settlement_reversals ORDER BY 1")
    for situation, (code, said, act) in REVERSALS.items():
        with pytest.raises(Denied, match=said) as denied:
            act(shop)
        assert denied.value.code == code, situation
    assert shop.fleet.rows("SELECT * FROM settlement_reversals ORDER BY 1") == before


def test_clawback_is_deducted_from_next_payout_once(shop: Shop) -> None:
    shop.ran("e-1", "loop", 100)
    shop.later(DAY_MS)
    assert shop.payout("loop", "2026-01")[0].total_micro == 50 * MICRO
    done = shop.reverse("e-1", 20, "claw")
    assert (done.reversal.is_clawback, done.settlement.state, done.settlement.left_micro) == (
        True, "released", 30 * MICRO)  # fmt: skip
    assert (shop.sums("loop").clawed_back_micro, shop.sums("loop").carried_micro) == (20 * MICRO, 20 * MICRO)
    shop.later(HOLD_MS)
    shop.ran("small", "loop", 50)
    shop.later(DAY_MS)
    less = r"payout of loop: the releasable amount is 25 credits, less 20 clawed back. A payout must exceed 10"
    with pytest.raises(Denied, match=less):
        shop.payout("loop", "2026-02")
    shop.ran("e-2", "loop", 60)
    shop.later(DAY_MS)
    made, _ = shop.payout("loop", "2026-02")
    assert (made.released_micro, made.carried_micro, made.total_micro, made.lines) == (
        55 * MICRO, -20 * MICRO, 35 * MICRO, 3)  # fmt: skip
    sums = shop.sums("loop")
    assert (sums.clawed_back_micro, sums.carried_micro, sums.paid_micro) == (20 * MICRO, 0, 85 * MICRO)
    shop.ran("e-3", "loop", 100)
    shop.later(HOLD_MS)
    assert shop.payout("loop", "2026-03")[0].carried_micro == 0, "once for good"


def test_payout_of_clawbacks_only_is_denied(shop: Shop) -> None:
    shop.set("loop", Change(threshold_micro=0))
    shop.ran("e-1", "loop", 100)
    shop.later(DAY_MS)
    shop.payout("loop", "2026-01")
    shop.later(HOLD_MS)
    for _ in range(2):
        with pytest.raises(Denied, match="cannot release a payout of loop: the releasable amount is 0 credits"):
            shop.payout("loop", "2026-02")
        shop.write(lambda c: settlements.reverse(c, "e-1", "claw", None, shop.by))


WRONG_TERMS = {
    "a name with a line break": ("a\nb", Change(1), True, "characters"),
    "no share": ("new", Change(), True, "Pass its share"),
    "more than all": ("pixel", Change(1_000_001), False, "millionths: expected 0 to 1,000,000"),
    "less than nothing": ("pixel", Change(-1), False, "millionths: expected 0 to 1,000,000"),
    "a negative threshold": ("pixel", Change(threshold_micro=-1), False, "threshold"),
    "a threshold beyond all": ("pixel", Change(threshold_micro=10**15 + 1), False, "threshold"),
    "a hold under 35 days": ("pixel", Change(hold_ms=HOLD_MS - 1), False, "at least 35 days"),
    "a negative hold": ("loop", Change(hold_ms=-1), False, "0 to 3,650 days"),
    "a hold beyond ten years": ("pixel", Change(hold_ms=MAX_HOLD_MS + 1), False, "0 to 3,650 days"),
    "claw-backs given up, with a short hold": ("loop", Change(takes_clawbacks=False), False, "at least 35 days"),
}


def test_supplier_invalid_terms_are_refused(shop: Shop) -> None:
    before = shop.fleet.rows("SELECT * FROM supplier_terms ORDER BY 1, 2")
    for name, change, new, said in WRONG_TERMS.values():
        with pytest.raises(UsageError, match=said):
            shop.set(name, change, new=new)
    assert shop.fleet.rows("SELECT * FROM supplier_terms ORDER BY 1, 2") == before


def test_supplier_longest_hold_is_accepted(shop: Shop) -> None:
    shop.set("pixel", Change(hold_ms=MAX_HOLD_MS))
    shop.ran("e-1")
    assert shop.found("e-1").hold_until_ms == shop.now + MAX_HOLD_MS


UNKNOWN: dict[str, tuple[str, Callable[[Shop], object]]] = {
    "terms of a supplier": ("pixel", lambda s: s.set("pixle", Change(1))),
    "a payout of a supplier": ("pixel", lambda s: s.payout("pixle")),
    "a freeze of a supplier": ("pixel", lambda s: s.freeze_all("pixle")),
    "a freeze": ("deploy-1", lambda s: s.freeze("deploi-1")),
    "a reversal": ("deploy-1", lambda s: s.reverse("deploi-1")),
    "a look": ("deploy-1", lambda s: s.found("deploi-1")),
    "a list": ("pixel", lambda s: s.listed(*STATES, supplier="pixle")),
    "a list of payouts": ("pixel", lambda s: read(s.fleet.engine, lambda c: list_payouts(c, "pixle", 1))),
    "a file": ("payout:pixel:2026-02", lambda s: s.file("payout:pixel:2026-2")),
}


def test_unknown_supplier_or_settlement_suggests_nearest_name(shop: Shop) -> None:
    shop.ran("deploy-1")
    shop.later(HOLD_MS)
    shop.payout()
    for near, act in UNKNOWN.values():
        with pytest.raises(UnknownId, match=f"did you mean {near}\\?"):
            act(shop)


def test_reversal_amount_of_zero_or_less_is_refused(shop: Shop) -> None:
    shop.ran("e-1")
    for credits in (0, -1, 10**9 + 1):
        with pytest.raises(UsageError, match="expected more than 0"):
            shop.reverse("e-1", credits)
    with pytest.raises(UsageError, match="key"):
        shop.reverse("e-1", 1, "")


def test_settlement_actions_repeated_are_recorded_once(shop: Shop) -> None:
    shop.ran("e-1")
    for _ in range(2):
        shop.set("pixel", Change(share_ppm=700_000))
        shop.freeze("e-1")
        shop.reverse("e-1", 1)
    shop.freeze("e-1", undo=True)
    shop.freeze_all("loop")
    shop.later(HOLD_MS)
    shop.payout()
    shop.payout()
    said = "SELECT action, target FROM operator_actions WHERE action LIKE 's%' AND action LIKE '%\\_%' ESCAPE '\\' "
    rows = [row for row in shop.fleet.rows(f"{said} ORDER BY action_id") if str(row[0]).startswith(("supp", "settl"))]
    assert rows == [
        ("supplier_set", "pixel"), ("supplier_set", "loop"), ("settlement_freeze", "e-1"),
        ("settlement_reverse", "e-1"), ("settlement_unfreeze", "e-1"), ("settlement_freeze", "loop"),
        ("settlement_payout", "payout:pixel:2026-02"),
    ]  # fmt: skip


def test_payout_file_adds_up_and_escapes_spreadsheet_formulas(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "LINES_AT_ONCE", 2)
    shop.set("=cmd", Change(share_ppm=500_000, hold_ms=0, threshold_micro=0, takes_clawbacks=True), new=True)
    for key in ("=1+1", "+2", "-3", "@4", "'5"):
        shop.ran(key, "=cmd", 10)
    shop.payout("=cmd", "2026-01")
    shop.write(lambda c: settlements.reverse(c, "+2", "@r", MICRO, replace(shop.by, reason="\t=HYPERLINK(1)")))
    shop.later(HOLD_MS)
    shop.ran("next", "=cmd", 10)
    shop.payout("=cmd", "2026-02")
    first, second = shop.file("payout:=cmd:2026-01"), shop.file("payout:=cmd:2026-02")
    assert first == shop.file("payout:=cmd:2026-01"), "the same bytes each time"
    rows = list(csv.DictReader(io.StringIO(first[0])))
    assert [row["line"] for row in rows] == sorted(f"settlement:{key}" for key in ("=1+1", "+2", "-3", "@4", "'5"))
    assert {row["execution"] for row in rows} == {"'=1+1", "'+2", "'-3", "'@4", "''5"}
    assert {row["supplier"] for row in rows} == {"'=cmd"}
    assert sum(int(row["amount_micro"]) for row in rows) == 25 * MICRO
    taken = next(csv.DictReader(io.StringIO(second[0])))
    assert (taken["line"], taken["kind"], taken["amount"], taken["reason"]) == (
        "reversal:@r", "clawback", "-1.000000", "\\t=HYPERLINK(1)")  # fmt: skip
    whole = json.loads(second[1])
    assert whole["total_micro"] == sum(row["amount_micro"] for row in whole["rows"]) == 4 * MICRO
    assert whole["lines"] == len(whole["rows"]) == 2
    assert [row["execution"] for row in whole["rows"]] == ["+2", "next"], "JSON has texts as they are"


@pytest.mark.both_databases
def test_concurrent_payouts_reversals_and_freezes_pay_settlement_once(shop: Shop) -> None:
    """Payouts, reversals, freezes and runs that end, of one supplier, all together: no deadlock, nothing twice."""
    shop.set("loop", Change(hold_ms=0, threshold_micro=0))
    for number in range(12):
        shop.accept(f"e-{number}", "loop")
    for number in range(6):
        shop.settle(f"e-{number}", 10 * MICRO)
    by = shop.by

    def act(number: int) -> None:
        def work(c: sa.Connection) -> object:
            if number % 4 == 0:
                return settlements.make_payout(c, "loop", "2026-01", by)
            if number % 4 == 1:
                return settlements.reverse(c, f"e-{number % 6}", f"r{number % 6}", MICRO, by)
            if number % 4 == 2:
                return executions.settle(c, f"e-{number % 6 + 6}", Cost(10 * MICRO), by)
            return settlements.freeze_supplier(c, "loop", by, undo=number % 8 == 3)

        try:
            shop.write(work)
        except Denied as denied:
            assert denied.code in ("frozen_supplier", "below_threshold"), denied

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(act, range(48)))
    sums = shop.sums("loop")
    assert sums.net_micro == 5 * MICRO * int(str(shop.fleet.one("SELECT COUNT(*) FROM settlements")))


GUARDED = {
    "terms": "UPDATE supplier_terms SET share_ppm = 1",
    "terms that go": "DELETE FROM supplier_terms",
    "a settlement": "UPDATE settlements SET net_micro = 0",
    "a settlement that goes": "DELETE FROM settlements",
    "a reversal": "UPDATE settlement_reversals SET amount_micro = 1",
    "a reversal that goes": "DELETE FROM settlement_reversals",
    "a payout": "UPDATE payouts SET at_ms = 0",
    "a payout that goes": "DELETE FROM payouts",
    "a line": "UPDATE payout_lines SET payout = 'x'",
    "a line that goes": "DELETE FROM payout_lines",
    "a freeze": "UPDATE settlement_freezes SET reason = 'x' WHERE ended_ms IS NULL",
    "a freeze that ended": "UPDATE settlement_freezes SET ended_ms = NULL WHERE ended_ms IS NOT NULL",
    "a freeze that goes": "DELETE FROM settlement_freezes",
    "a run's supplier": "UPDATE reservations SET supplier = 'loop'",
    "a hold under 35 days": "INSERT INTO settlements (reservation, supplier, revision, gross_micro, share_ppm, "
    "net_micro, settled_ms, hold_until_ms, threshold_micro, takes_clawbacks) SELECT 'x', supplier, revision, "
    "gross_micro, share_ppm, net_micro, settled_ms, hold_until_ms - 1, threshold_micro, takes_clawbacks "
    "FROM settlements WHERE reservation = 'e-1'",
    "a settlement in another payout": "INSERT INTO payout_lines (line, payout, reservation, reversal, amount_micro) "
    "SELECT 'settlement:again', 'payout:x', reservation, reversal, amount_micro FROM payout_lines",
    "a second payout of a month": "INSERT INTO payouts (payout, supplier, period, released_micro, carried_micro, "
    "total_micro, at_ms, actor, reason) SELECT 'x', supplier, period, released_micro, carried_micro, total_micro, "
    "at_ms, actor, reason FROM payouts",
}


def test_settlement_rows_forbidden_changes_are_refused_by_database(shop: Shop) -> None:
    """What is refused changes nothing, so one database meets many."""
    shop.ran("e-1")
    shop.later(HOLD_MS)
    shop.freeze("e-1")
    shop.freeze("e-1", undo=True)
    shop.reverse("e-1", 1)
    shop.payout()
    shop.ran("e-2")
    shop.freeze("e-2")
    for situation, statement in GUARDED.items():
        with pytest.raises(DBAPIError):
            shop.fleet.write(statement)
            pytest.fail(f"{situation} was taken")


def test_settlement_released_twice_in_broken_database_is_found(shop: Shop) -> None:
    """The constraints refuse it; where somebody took them away, `verify` says so."""
    shop.ran("e-1")
    shop.later(HOLD_MS)
    shop.payout()

    def work(connection: sa.Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("ALTER TABLE payout_lines DROP CONSTRAINT payout_lines_sane"))
        else:
            connection.execute(sa.text("PRAGMA ignore_check_constraints = ON"))
        connection.execute(
            sa.text(
                GUARDED["a settlement in another payout"]
                .replace("payout:x", "payout:pixel:2026-02")
                .replace(":", "\\:")
            )
        )

    shop.write(work)
    texts = [one.text for one in read(shop.fleet.engine, verify).breaches]
    assert "2 payout lines are for the same part of e-1" in texts


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_supplier_and_settlement_commands_show_terms_payouts_and_freezes(
    shop: Shop, database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", f"{tmp_path}/state")
    shop.ran("e-1")
    shop.later(HOLD_MS)

    def asked(words: str, status: int = 0) -> str:
        assert run(["--at", str(shop.now), *words.split()]) == status, words
        said = capsys.readouterr()
        return said.err if status else said.out

    assert "clawbacks: no" in asked("supplier set stone --share 12.5 --hold 40d --threshold 5 --no-clawbacks --new")
    assert "nothing changes" in asked("supplier set stone --share 12.5%")
    assert "at least 35 days" in asked("supplier set stone --hold 34d", 2)
    assert "expected 0 to 100" in asked("supplier set stone --share 101", 2)
    assert "invalid percentage" in asked("supplier set stone --share half", 2)
    assert "invalid length of time" in asked("supplier set stone --hold soon", 2)
    assert "Pass its share" in asked("supplier set sand --new", 2)
    assert "pixel" in asked("supplier list") and "eligible" in asked("settlement list")
    assert json.loads(asked("--json settlement list --state hold"))["settlements"] == []
    assert "to release it, pass --expect 140" in asked("settlement payout pixel --dry-run")
    assert "pass --expect CREDITS" in asked("settlement payout pixel", 2)
    assert "not 139" in asked("settlement payout pixel --expect 139", 1)
    assert "frozen; its state is frozen" in asked("settlement freeze e-1 --reason dispute")
    assert "the releasable amount is 0 credits" in asked("settlement payout pixel --dry-run", 1)
    assert "not frozen; its state is eligible" in asked("settlement freeze e-1 --undo")
    assert "30.00 credits are no longer owed; 110.00 are left" in asked("settlement reverse e-1 --amount 30 --key t-7")
    assert "the same reversal was made before" in asked("settlement reverse e-1 --amount 30 --key t-7")
    assert "settlement export payout:pixel:2026-02" in asked("settlement payout pixel --expect 110")
    assert "the same payout was made before" in asked("settlement payout pixel --expect 110")
    assert json.loads(asked("--json settlement export payout:pixel:2026-02"))["rows"][0]["execution"] == "e-1"
    assert asked("settlement export payout:pixel:2026-02").count("\n") == 2
    assert "110.00" in asked("settlement payouts --supplier pixel")
    shown = asked("settlement show e-1")
    assert "released" in shown and "t-7" in shown and "dispute" in shown
    assert "pixel: frozen" in asked("supplier freeze pixel") and "before; nothing" in asked("supplier freeze pixel")
    assert json.loads(asked("--json supplier list"))["suppliers"][1]["is_frozen"] is True
