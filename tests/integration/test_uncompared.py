"""What was accepted stays open until it is compared: nights that are skipped, or whose totals cannot be read."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.providers.http import Call, HttpResult
from drawdown.providers.protocol import ReadFailed, Rejected, Totals
from drawdown.schema.clock import utc
from drawdown.schema.database import read, write
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.server.metrics import uncompared as measured
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.provider.actions import set_rate
from drawdown.worker.push import actions as pushes
from drawdown.worker.reconcile import acknowledgement
from drawdown.worker.reconcile.acknowledgement import Covered, acknowledge, find_unbilled
from drawdown.worker.reconcile.balances import OUT_OF_TIME, UNTOLD
from drawdown.worker.reconcile.reconcile import FIRST_LOOK_MS, Settled, _without_acknowledged
from drawdown.worker.status.status import status
from drawdown.worker.status.system_state import uncompared
from drawdown.worker.usage import withdrawals
from drawdown.worker.wallets import actions as credit
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.reconciling import KEY, TOTALS, billed, charged, compare, settle, told
from tests.integration.test_autumn_credits import HOUR_MS, House
from tests.whole import share
from tests.world import T0, Fleet


def headline(fleet: Fleet) -> tuple[str, str, str]:
    found = read(fleet.engine, lambda c: status(c, fleet.clock.at_ms)).headline
    return found.verdict, found.reason, found.next


def tick(fleet: Fleet) -> None:
    """So that no tick is missed."""
    fleet.tick(fleet.clock.at_ms)


@pytest.mark.parametrize("nights", share([2, 34], whole=[2, 3, 9, 34]))
def test_reconcile_after_skipped_nights_finds_loss(engine: sa.Engine, nights: int) -> None:
    fleet, provider = billed(engine)
    del provider.charged[KEY]
    fleet.clock.at_ms += nights * DAY_MS
    assert told(compare(fleet, recent=True, correct=True)) == [("short", 60, 0, 60)]
    settle(fleet)
    assert charged(provider) == 60


def test_reconcile_after_nights_skipped_since_first_run_finds_loss(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    compare(fleet, recent=True, correct=True)
    fleet.sample("acme", T0 + WINDOW_MS, 5)
    settle(fleet)
    for key in [key for key in provider.charged if key != KEY]:
        del provider.charged[key]
    fleet.clock.at_ms += 5 * DAY_MS
    assert [line[3] for line in told(compare(fleet, recent=True, correct=True))] == [5]
    settle(fleet)
    assert charged(provider) == 65


def test_reconcile_unreadable_totals_stay_open_until_compared(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    provider.totals_fail = True
    for _ in range(4):
        fleet.clock.at_ms += DAY_MS
        found = compare(fleet, recent=True, correct=True)
        assert (found.unread, found.open_days, found.exit_status) == (1, 1, 75)
    tick(fleet)
    verdict, reason, fix = headline(fleet)
    assert verdict == "behind" and reason.startswith("reconcile has not compared 1 customer-day at fake since ")
    assert "not read" in reason and fix.startswith("drawdown reconcile --provider fake --correct")
    days = next(one for one in read(engine, lambda c: list(measured(c, fleet.clock.at_ms))) if "days" in one.name)
    assert [sample.value for sample in days.samples] == [1]
    provider.totals_fail = False
    del provider.charged[KEY]
    assert told(compare(fleet, recent=True, correct=True)) == [("short", 60, 0, 60)]
    settle(fleet)
    assert charged(provider) == 60
    compare(fleet, recent=True)
    assert headline(fleet)[0] == "settled"


def test_reconcile_day_with_only_refused_pushes_is_not_open(engine: sa.Engine) -> None:
    """Its totals cannot be read, as of a customer that does not exist there: nothing of it can have been charged."""
    provider = FakeProvider(capabilities(**TOTALS))
    provider.answers[KEY] = Rejected("no such customer")
    fleet, _ = billed(engine, provider=provider)
    write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.by))
    settle(fleet)
    assert fleet.rows("SELECT state, attempts FROM pushes") == [("voided", 1)]
    provider.totals_fail = True
    for _ in range(2):
        fleet.clock.at_ms += DAY_MS
        found = compare(fleet, recent=True, correct=True)
        assert (found.unread, found.open_days, found.exit_status) == (0, 0, 0)


@pytest.mark.parametrize("answer", [Rejected("no such meter"), None])
def test_reconcile_after_void_under_old_terms_finds_later_loss(engine: sa.Engine, answer: Rejected | None) -> None:
    """Its usage was sent again under the terms in force: a loss of that is found."""
    provider = FakeProvider(capabilities(**TOTALS))
    if answer is not None:
        provider.answers[KEY] = answer
    fleet, _ = billed(engine, provider=provider)
    if answer is None:
        provider.charged.clear()
        assert told(compare(fleet, correct=True)) == [("short", 60, 0, 60)]
    else:
        write(engine, lambda c: pushes.void(c, [KEY], fleet.by, "the meter had another name"))
    with engine.begin() as connection:
        terms = "UPDATE provider_states SET wire_since_ms = :at_ms WHERE provider = 'fake'"
        connection.execute(sa.text(terms), {"at_ms": fleet.clock.at_ms})
    settle(fleet)
    provider.charged.clear()
    found = compare(fleet, recent=True, correct=True)
    assert (found.other_terms, told(found)) == (0, [("short", 60, 0, 60)])


def test_reconcile_overdue_for_provider_is_shown_as_behind(engine: sa.Engine) -> None:
    fleet, _ = billed(engine)
    compare(fleet, recent=True)
    tick(fleet)
    assert headline(fleet)[0] == "settled"
    fleet.clock.at_ms += 3 * DAY_MS
    tick(fleet)
    verdict, reason, _ = headline(fleet)
    assert verdict == "behind" and reason.startswith("reconcile has not compared fake since ")
    compare(fleet, recent=True)
    assert headline(fleet)[0] == "settled"


def test_reconcile_first_run_ignores_days_before_first_look(engine: sa.Engine) -> None:
    fleet, _ = billed(engine)
    fleet.clock.at_ms += FIRST_LOOK_MS + DAY_MS
    assert compare(fleet, recent=True).compared == 0


def test_reconcile_of_single_org_does_not_move_mark(engine: sa.Engine) -> None:
    fleet, _ = billed(engine)
    compare(fleet, recent=True, org_id="acme")
    assert fleet.rows("SELECT * FROM compared_marks") == []


def test_balance_left_out_of_reconcile_is_shown_until_compared(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 0, "globex": 50})
    house.autumn.account.grant("acme", "credits", 1_000, T0, interval="month")
    grant = house.autumn.account.customers["acme"].grants["credits"][0]
    grant.interval = "fortnight"
    for org in ("acme", "globex"):
        house.use(org, 500, size=64)
    house.bill()
    fleet = house.fleet
    began = fleet.clock.at_ms + HOUR_MS
    for night in range(4):
        assert [one.customer_id for one in house.compare(recent=True, correct=True).left_out] == ["acme"]
        tick(fleet)
        assert compared(fleet) == [
            f"reconcile has not compared the balances of 1 customer at autumn since {utc(began)[:10]} (acme: {UNTOLD})"
        ]
        assert age(fleet) == [fleet.clock.at_ms // 1000 - began // 1000]
        assert (headline(fleet)[0] == "behind") is (night > 2)
        fleet.clock.at_ms += DAY_MS - HOUR_MS
    grant.interval = "month"
    assert house.compare(recent=True, correct=True).left_out == []
    tick(fleet)
    assert (compared(fleet), age(fleet), headline(fleet)[0]) == ([], [], "settled")


@pytest.mark.both_databases
def test_balance_left_out_of_reconcile_remains_open_after_unfinished_run(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 0})
    house.autumn.account.grant("acme", "credits", 1_000, T0, interval="month")
    grant = house.autumn.account.customers["acme"].grants["credits"][0]
    grant.interval = "fortnight"
    house.use("acme", 500, size=64)
    house.bill()
    house.compare(recent=True)
    since = house.fleet.one("SELECT open_since_ms FROM compared_marks WHERE customer_id = 'acme'")
    assert house.compare(recent=True, ends_in_ms=0).unfinished
    assert house.fleet.one("SELECT open_since_ms FROM compared_marks WHERE customer_id = 'acme'") == since
    assert [UNTOLD in said for said in compared(house.fleet)] == [True]


@pytest.mark.both_databases
def test_balance_left_out_of_reconcile_when_time_is_up_is_shown(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(engine, {"acme": 1_000})
    house.use("acme", 500, size=64)
    house.bill()
    handle, clock = house.autumn.handle, house.fleet.clock

    def slow(call: Call, now_ms: int) -> HttpResult:
        clock.at_ms += 1
        return handle(call, now_ms)

    with monkeypatch.context() as patched:
        patched.setattr(house.autumn, "handle", slow)
        found = house.compare(recent=True, correct=True, ends_in_ms=1)
    assert (found.unread, found.unfinished) == (0, True)
    assert [OUT_OF_TIME in said for said in compared(house.fleet)] == [True]
    assert house.compare(recent=True, correct=True).left_out == []
    assert compared(house.fleet) == []


def compared(fleet: Fleet) -> list[str]:
    """The lines of status."""
    found = read(fleet.engine, lambda c: status(c, fleet.clock.at_ms))
    return [said for one in found.standing.uncompared for said in uncompared(one)]


def age(fleet: Fleet) -> list[float]:
    """The age of the balance that was left out for longest, as it is measured."""
    found = read(fleet.engine, lambda c: list(measured(c, fleet.clock.at_ms)))
    return [sample.value for one in found if "balance_age" in one.name for sample in one.samples]


class Deleting(FakeProvider):
    """Takes pushes of a customer that was deleted, and counts none of them."""

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        return ReadFailed(f"{NEEDS_YOU}this customer was deleted over there")


def test_customer_deleted_at_provider_is_reported_and_push_is_not_resent(engine: sa.Engine) -> None:
    fleet, provider = billed(engine, provider=Deleting(capabilities(**TOTALS)))
    sent = len(provider.seen)
    for _ in range(4):
        fleet.clock.at_ms += DAY_MS
        compare(fleet, recent=True, correct=True)
        tick(fleet)
    assert len(provider.seen) == sent
    assert headline(fleet) == (
        "person_needed",
        "no provider bills 1 day of usage of 1 customer at fake: acme: this customer was deleted over there "
        f"({fleet.one('SELECT SUM(sealed_qty) FROM pushes')} compute_1gb without a rate)",
        "drawdown provider check fake, then drawdown org assign ORG --provider PROVIDER, "
        "then drawdown reconcile ORG --acknowledge",
    )
    write(fleet.engine, lambda c: set_rate(c, "fake", "compute_1gb", (10_000, 1), fleet.by, from_ms=None, tells=False))
    fleet.clock.at_ms += DAY_MS
    compare(fleet, recent=True)
    tick(fleet)
    assert "this customer was deleted over there (0.60 credits)" in str(headline(fleet)[1])


def night(fleet: Fleet, days: int = 1) -> None:
    fleet.clock.at_ms += days * DAY_MS
    compare(fleet, recent=True, correct=True)
    tick(fleet)


def deleted(engine: sa.Engine) -> Fleet:
    """A day of usage that no provider bills is reported, and usage is billed here from now on."""
    fleet: Fleet = billed(engine, provider=Deleting(capabilities(**TOTALS)))[0]
    night(fleet)
    night(fleet)
    assert headline(fleet)[0] == "person_needed"
    write(engine, lambda c: credit.grant(c, "acme", 10**9, fleet.by, key="k", plan=None))
    write(engine, lambda c: assign(c, ["acme"], "embedded", fleet.by))
    return fleet


@pytest.mark.both_databases
def test_unbilled_day_acknowledged_is_not_reported_again(engine: sa.Engine) -> None:
    fleet = deleted(engine)
    (seen,) = write(engine, lambda c: acknowledge(c, "acme", fleet.by)).unbilled
    assert (seen.provider, seen.customer_id, seen.days, seen.quantities) == ("fake", "acme", 1, {"compute_1gb": 60})
    assert headline(fleet)[0] == "settled"
    for _ in range(3):
        night(fleet)
        assert headline(fleet)[0] == "settled"
    assert int(str(fleet.one("SELECT compared_ms FROM compared_marks WHERE customer_id = 'acme'"))) > T0 + DAY_MS
    ((details,),) = fleet.rows("SELECT details FROM operator_actions WHERE action = 'unbilled_acknowledge'")
    assert {"days": 1, "quantities": {"compute_1gb": 60}}.items() <= json.loads(str(details)).items()
    assert write(engine, lambda c: acknowledge(c, "acme", fleet.by)).unbilled == []


def test_acknowledged_quantity_is_subtracted_from_sent_part_only(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day may also have a part in shadow, which has no quantity and can be settled again alone."""
    covered: defaultdict[tuple[str, str], Covered] = defaultdict(Covered)
    covered["acme", "acme"] = Covered(T0 + 1, Counter({("compute", T0): 60}))
    monkeypatch.setattr("drawdown.worker.reconcile.reconcile.read_covered", lambda *_: covered)
    shadow = Settled("acme", "acme", T0, T0 + 2, f"{NEEDS_YOU}invoice", "compute", 0, is_live=False)
    sent = replace(shadow, quantity=90, is_live=True)
    left = read(engine, lambda c: _without_acknowledged(c, "fake", [shadow, sent]))
    assert [one.quantity for one in left] == [0, 30]


def test_unbilled_day_after_acknowledgement_is_reported(engine: sa.Engine) -> None:
    """The customer is still assigned: its next day is reported, and the acknowledged day is not counted again."""
    fleet, _provider = billed(engine, provider=Deleting(capabilities(**TOTALS)))
    night(fleet)
    night(fleet)
    assert write(engine, lambda c: acknowledge(c, "", fleet.by)).unbilled == [], "each organisation is named"
    write(engine, lambda c: acknowledge(c, "acme", fleet.by))
    fleet.sample("acme", fleet.clock.at_ms - 3 * WINDOW_MS, 7)
    settle(fleet)
    night(fleet)
    night(fleet)
    assert headline(fleet)[1].startswith("no provider bills 1 day of usage of 1 customer at fake: acme")
    (seen,) = write(engine, lambda c: acknowledge(c, "acme", fleet.by)).unbilled
    assert (seen.days, seen.quantities) == (1, {"compute_1gb": 7})


def test_acknowledge_command_reports_unbilled_days_and_quantity(
    engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = deleted(engine)
    url = engine.url.render_as_string(hide_password=False)
    assert drawdown(["--database-url", url, "reconcile", "--acknowledge", "--reason", "settled"]) == 0
    assert "Run `drawdown reconcile acme --acknowledge`" in " ".join(capsys.readouterr().out.split())
    assert headline(fleet)[0] != "settled"
    assert drawdown(["--database-url", url, "reconcile", "acme", "--acknowledge", "--reason", "settled"]) == 0
    told = capsys.readouterr().out
    assert "1 unbilled day is acknowledged" in told
    assert "acme, fake as acme: 1 day of usage on 2026-01-01 (60 compute_1gb without a rate)" in told
    assert headline(fleet)[0] == "settled"


def test_unbilled_day_of_other_org_is_not_acknowledged(engine: sa.Engine) -> None:
    fleet = deleted(engine)
    fleet.assign("globex", provider="fake")
    assert write(engine, lambda c: acknowledge(c, "globex", fleet.by)).unbilled == []
    night(fleet)
    assert headline(fleet)[0] == "person_needed"


def test_unbilled_days_of_shared_customer_are_acknowledged_once(engine: sa.Engine) -> None:
    """Another organisation was billed as the deleted customer afterwards."""
    fleet = deleted(engine)
    write(engine, lambda c: assign(c, ["globex"], "fake", fleet.by, customer_id="acme"))
    fleet.sample("globex", fleet.clock.at_ms + WINDOW_MS, 30)
    fleet.clock.at_ms += 2 * WINDOW_MS
    settle(fleet)
    for _ in range(3):
        night(fleet)

    def left() -> dict[str, dict[str, int]]:
        return {one.org_id: one.quantities for one in read(engine, find_unbilled)}

    assert left() == {"acme": {"compute_1gb": 60}, "globex": {"compute_1gb": 30}}
    assert "no provider bills 2 days of usage" in headline(fleet)[1]
    write(engine, lambda c: acknowledge(c, "globex", fleet.by))
    for _ in range(2):
        said = "no provider bills 1 day of usage of 1 customer at fake: acme: this customer was deleted over there "
        assert headline(fleet)[1] == f"{said}(60 compute_1gb without a rate)"
        assert left() == {"acme": {"compute_1gb": 60}}
        night(fleet)
    assert [one.quantities for one in write(engine, lambda c: acknowledge(c, "acme", fleet.by)).unbilled] == [
        {"compute_1gb": 60}
    ]
    assert (left(), headline(fleet)[0]) == ({}, "settled")


@pytest.mark.both_databases
def test_acknowledged_day_with_later_correction_counts_difference(engine: sa.Engine) -> None:
    fleet = deleted(engine)
    write(engine, lambda c: acknowledge(c, "acme", fleet.by))
    for amount in (7, -60):
        if amount > 0:
            fleet.sample("acme", T0 + 5, amount)
        else:
            write(engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.by))
        settle(fleet)
        night(fleet)
        night(fleet)
        assert f"({amount} compute_1gb without a rate)" in headline(fleet)[1]
        (seen,) = write(engine, lambda c: acknowledge(c, "acme", fleet.by)).unbilled
        assert (seen.days, seen.quantities, seen.worth) == (
            1, {"compute_1gb": amount}, f"{amount} compute_1gb without a rate"
        )  # fmt: skip
        night(fleet)
        assert headline(fleet)[0] == "settled"
    found = fleet.rows("SELECT details FROM operator_actions WHERE action = 'unbilled_acknowledge' ORDER BY action_id")
    assert [json.loads(str(details))["quantities"] for (details,) in found] == [
        {"compute_1gb": amount} for amount in (60, 7, -60)
    ]


def test_unbilled_list_is_bounded_and_named_org_is_found(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledgement, "MOST_MARKS", 1)
    fleet = deleted(engine)
    fleet.write(
        "INSERT INTO compared_marks (provider, customer_id, compared_ms, open_days, open_since_ms, said, at_ms) "
        "SELECT provider, 'aaa', compared_ms, open_days, open_since_ms, said, at_ms FROM compared_marks "
        "WHERE customer_id = 'acme'"
    )
    assert read(engine, find_unbilled) == [], "the first customer has no push here"
    assert [one.org_id for one in write(engine, lambda c: acknowledge(c, "acme", fleet.by)).unbilled] == ["acme"]


def test_unread_day_is_not_passed_by_acknowledgement(engine: sa.Engine) -> None:
    """It was not read when a day of the same customer was acknowledged: it stays open until it is compared."""
    fleet = deleted(engine)
    write(engine, lambda c: acknowledge(c, "acme", fleet.by))
    fleet.extra = {"fake": FakeProvider(capabilities(**TOTALS), totals_fail=True)}
    night(fleet)
    assert "not read" in headline(fleet)[1]
