"""Tiers: concurrent sandboxes that are bought by the month; and the commands on plans and tiers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.ledger.due_changes import look_ahead
from drawdown.ledger.lots import EXPIRY_WAIT_MS
from drawdown.ledger.reservations import Denied
from drawdown.schema.database import read
from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.wallets import tiers
from drawdown.worker.wallets.tiers import tiers_of
from tests.integration.monthly import Account, month, proven
from tests.integration.test_lots import run
from tests.sqlite_databases import migrated
from tests.world import T0


@pytest.fixture
def account(engine: sa.Engine) -> Iterator[Account]:
    yield from proven(engine)


@pytest.mark.both_databases
def test_tier_is_charged_monthly_and_larger_of_plan_and_tier_applies(account: Account) -> None:
    fleet = account.fleet
    account.plan("team", 40, most=5)
    account.tier("pro", 100, 30)
    with pytest.raises(Denied, match="is not on a plan"):
        account.buy()
    account.join()
    account.at(T0 + 10 * DAY_MS)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(Denied, match=r"has 0\.000029 credits"):
        patched.setattr(tiers, "unbilled_micro", lambda *_: 11)  # usage that is not charged yet
        account.buy()
    bought = account.buy()
    assert (bought.charged_micro, bought.wallet.balance_micro, bought.wallet.max_concurrent) == (30, 10, 100)
    assert account.buy().changed is False
    fleet.tick(accept_clock=True)
    assert fleet.one("SELECT max_concurrent_sandboxes FROM orgs WHERE org_id = 'acme'") == 100
    account.sweep(month(2))
    assert account.balance == 50, "until what was left of January is booked, nothing is charged"
    account.sweep(month(2) + EXPIRY_WAIT_MS)
    assert account.balance == 10
    rows = fleet.rows("SELECT key, from_account, to_account, amount_micro, ts FROM ledger_entries WHERE kind = 'tier' "
                      "ORDER BY ts")  # fmt: skip
    assert rows == [
        ("tier:acme:pro:2026-01", "wallet:acme", "tiers", 30, T0 + 10 * DAY_MS),
        ("tier:acme:pro:2026-02", "wallet:acme", "tiers", 30, month(2)),
    ]
    account.plan("team", 40, most=500)
    fleet.tick(month(2) + DAY_MS, accept_clock=True)
    assert fleet.one("SELECT max_concurrent_sandboxes FROM orgs WHERE org_id = 'acme'") == 500


def test_tier_without_credit_for_next_month_ends(account: Account) -> None:
    fleet = account.fleet
    account.plan("team", 10)
    account.join()
    account.give("bought", 25, "purchased")
    account.tier("pro", 100, 30)
    account.buy()
    fleet.tick(T0 + DAY_MS, accept_clock=True)
    fleet.tick(month(2) + EXPIRY_WAIT_MS, accept_clock=True)
    (held,) = read(fleet.engine, lambda c: tiers_of(c, "acme"))
    assert (held.ended_ms, held.ended_reason, account.balance) == (month(2) + EXPIRY_WAIT_MS, "no_credit", 15)
    assert fleet.one("SELECT max_concurrent_sandboxes FROM orgs WHERE org_id = 'acme'") == 5
    with pytest.raises(Denied, match=r"has 0.000015 credits to pay with, but a month of pro costs 0.00003"):
        account.buy()
    account.give("more", 25, "purchased")
    assert account.buy().charged_micro == 30


@pytest.mark.both_databases
@pytest.mark.parametrize(("credit", "sandboxes"), [(60, 100), (55, 5)])
def test_wallet_with_due_changes_has_sandboxes_of_paid_tiers(account: Account, credit: int, sandboxes: int) -> None:
    """Only the number of the plan was read before a change was booked, and a halt or a gate may use it."""

    def ahead() -> int | None:
        return read(account.fleet.engine, lambda c: look_ahead(c, "acme", account.fleet.clock.now_ms())).max_concurrent

    account.plan("team")
    account.join()
    account.give("bought", credit, "purchased")
    account.tier()
    account.buy()
    for at_ms, expected in ((month(2) - 1, 100), (month(2), 100), (month(2) + EXPIRY_WAIT_MS, sandboxes)):
        account.at(at_ms)
        assert ahead() == expected, at_ms
    account.sweep()
    assert ahead() == sandboxes, "as was foreseen"


@pytest.mark.both_databases
def test_tier_of_org_billed_elsewhere_ends_with_paid_month(account: Account) -> None:
    account.plan("team")
    account.join()
    account.give("bought", 100, "purchased")
    account.tier()
    account.buy()
    account.at(T0 + DAY_MS)
    account.write(lambda c: assign(c, ["acme"], "autumn", account.fleet.by, customer_id="cus_9"))
    ahead = read(account.fleet.engine, lambda c: look_ahead(c, "acme", month(2) + EXPIRY_WAIT_MS))
    account.sweep(month(2) + EXPIRY_WAIT_MS)
    (held,) = read(account.fleet.engine, lambda c: tiers_of(c, "acme"))
    assert (held.ended_reason, account.balance, ahead.balance_micro) == ("billed_elsewhere", 70, 70)


def test_tier_undone_lasts_until_end_of_month(account: Account) -> None:
    account.plan("team")
    account.join()
    account.give("bought", 100, "purchased")
    account.tier()
    account.buy()
    assert account.undo().wallet.max_concurrent == 100
    assert account.undo().changed is False
    assert account.buy().charged_micro == 0, "the month is paid for"
    account.undo()
    account.sweep(month(2) - 1)
    assert account.balance == 70
    account.sweep(month(2))
    (held,) = read(account.fleet.engine, lambda c: tiers_of(c, "acme"))
    assert (held.ended_ms, held.ended_reason, account.balance) == (month(2), None, 70)


def test_tier_with_more_sandboxes_is_charged_first(account: Account) -> None:
    account.plan("team")
    account.join()
    account.give("bought", 100, "purchased")
    for name, at_once, price in (("base", 10, 20), ("pro", 100, 40)):
        account.tier(name, at_once, price)
        account.buy(name)
    account.sweep(month(2) + EXPIRY_WAIT_MS)
    held = read(account.fleet.engine, lambda c: tiers_of(c, "acme"))
    assert [(one.tier, one.ended_reason) for one in held] == [("pro", None), ("base", "no_credit")]
    assert account.balance == 0


def test_tier_of_months_without_tick_is_charged_for_current_month_only(account: Account) -> None:
    account.plan("team")
    account.join()
    account.give("bought", 100, "purchased")
    account.tier()
    account.buy()
    account.sweep(month(6) + DAY_MS)
    assert account.balance == 40
    assert account.fleet.rows("SELECT key FROM ledger_entries WHERE kind = 'tier' ORDER BY key") == [
        ("tier:acme:pro:2026-01",),
        ("tier:acme:pro:2026-06",),
    ]


def test_tier_that_ends_during_execution_accept_refreshes_projection(account: Account) -> None:
    """Whoever makes it true has its organisation asked about."""
    fleet = account.fleet
    account.plan("team")
    account.join()
    account.give("bought", 35, "purchased")
    account.tier()
    account.buy()
    fleet.tick(T0 + DAY_MS, accept_clock=True)
    account.at(month(2) + EXPIRY_WAIT_MS)
    assert fleet.one("SELECT projection_due_ms FROM orgs WHERE org_id = 'acme'") is None
    account.accept("e-1", 1)
    assert fleet.one("SELECT projection_due_ms FROM orgs WHERE org_id = 'acme'") is not None


def test_tier_purchase_with_expired_credit_only_is_denied(account: Account) -> None:
    account.plan("team", 30)
    account.join()
    account.tier()
    account.at(T0 + DAY_MS)
    account.plan("team", 0)
    account.at(month(2) + MINUTE_MS)
    assert account.balance == 30
    with pytest.raises(Denied, match="0 credits to pay with"):
        account.buy()


@pytest.mark.parametrize("name", ["", "a:b", "A", "x" * 65])
def test_tier_invalid_name_or_missing_options_are_refused(account: Account, name: str) -> None:
    with pytest.raises(UsageError, match="invalid tier name"):
        account.tier(name)
    with pytest.raises(UsageError, match="--at-once and --price"):
        account.write(lambda c: tiers.set_tier(c, "new", tiers.Change(price_micro=1), account.fleet.by))


def test_plan_and_tier_commands_show_terms_and_changes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/plans.db"
    run(migrated(url), "init")
    assert "--max-concurrent" in run(url, "plan", "set", "team", "--included", "20", "--new", status=2)
    made = run(url, "plan", "set", "team", "--max-concurrent", "5", "--included", "20", "--rollover-max", "10",
               "--first", "2.50", "--new")  # fmt: skip
    assert "included: 20.00" in made and "first: 2.50" in made
    assert "Pass a lower --rollover-min, or a higher --rollover-max" in run(
        url, "plan", "set", "team", "--rollover-min", "11", status=2
    )
    changed = json.loads(run(url, "plan", "set", "team", "--rollover-min", "1", "--json"))
    assert (changed["max_concurrent"], changed["was"], changed["rollover_min_micro"]) == (5, 5, 1_000_000)
    (plan,) = json.loads(run(url, "plan", "list", "--json"))["plans"]
    gives = [plan[f"{name}_micro"] for name in ("included", "rollover_min", "rollover_max", "first")]
    assert gives == [20_000_000, 1_000_000, 10_000_000, 2_500_000]
    given = run(url, "ledger", "grant", "acme", "7.50", "--plan", "team", "--new")
    assert "acme: 30.00 credits, plan team; a new customer" in given
    assert "before: none" in run(url, "tier", "set", "pro", "--at-once", "100", "--price", "25", "--new")
    bought = run(url, "tier", "buy", "acme", "pro")
    assert "pro, paid for until 2026-02-01T00:00:00Z, and renews then; 25.00 credits charged, 100 sandboxes" in bought
    shown = run(url, "ledger", "show", "acme")
    assert "plan team, tier pro (100 at once, renews at 2026-02-01T00:00:00Z)" in shown
    assert "ends at 2026" not in shown
    run(url, "tier", "buy", "acme", "pro", "--undo")
    assert "ends at 2026-02-01T00:00:00Z" in run(url, "ledger", "show", "acme")
    told = json.loads(run(url, "ledger", "show", "acme", "--json"))
    assert [told[name] for name in ("available", "reserved", "included", "hold")] == [5, 0, 0, 0]
    assert [one["tier"] for one in told["tiers"]] == ["pro"]
    assert json.loads(run(url, "tier", "list", "--json"))["tiers"] == [
        {"tier": "pro", "at_once": 100, "price": 25, "price_micro": 25_000_000, "customers": 1}
    ]
    run(url, "verify")
