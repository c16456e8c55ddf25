"""Costs in credits that a provider tells: each is learned once, on record, and what cannot be read changes nothing."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import Cost, ReadFailed
from drawdown.schema.database import read
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS, window_of
from drawdown.worker.catalog.costs import read_pools
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import ReadCosts
from drawdown.worker.verdict.costs import learn_costs
from drawdown.worker.verdict.rates import rate_card_of
from drawdown.worker.verify.verify import verify
from tests.fake_provider import FakeProvider
from tests.integration.providing import clean, fleet_of
from tests.interleave.walk import Walk
from tests.prepaid import look
from tests.world import T0, Fleet

SMALL = Cost("compute_1gb", "credits", Decimal("0.0001"))
LARGE = Cost("compute_4gb", "credits", Decimal("0.0004"))
DEARER = replace(SMALL, credits=Decimal("0.0003"))
FIRST = T0 + 2 * WINDOW_MS


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made, provider = fleet_of(engine, costs=True)
    provider.costs_say = (SMALL, LARGE)
    return made


def fake(fleet: Fleet) -> FakeProvider:
    provider = fleet.extra["fake"]
    assert isinstance(provider, FakeProvider)
    return provider


def learned(fleet: Fleet, feature: str = "compute_1gb") -> list[tuple[object, ...]]:
    """Micro-credits, the window from which they hold in estimates, and between which moments they came."""
    columns = "micro, start_ms, confirmed_ms, at_ms"
    text = f"SELECT {columns} FROM provider_rates WHERE feature = :feature ORDER BY at_ms, start_ms"
    return fleet.rows(text, feature=feature)


def records(fleet: Fleet) -> int:
    return len(fleet.rows("SELECT 1 FROM operator_actions WHERE action = 'provider_rate'"))


def asked_ms(fleet: Fleet) -> object:
    return fleet.one("SELECT costs_read_ms FROM provider_states WHERE provider = 'fake'")


def test_reported_costs_are_stored_once(fleet: Fleet) -> None:
    for number in range(4):
        fleet.tick(FIRST + number * MINUTE_MS)
    assert learned(fleet) == [(100, 0, None, FIRST)] and learned(fleet, "compute_4gb") == [(400, 0, None, FIRST)]
    assert fleet.rows("SELECT DISTINCT balance, per_quantity, actor, reason FROM provider_rates") == [
        ("credits", 1, "drawdown", "reported by fake")
    ]
    assert records(fleet) == 2 and asked_ms(fleet) == FIRST + 3 * MINUTE_MS
    clean(fleet)


def test_provider_receives_all_stored_costs(fleet: Fleet) -> None:
    fleet.tick(FIRST)
    fake(fleet).costs_say = (DEARER,)
    for number in (1, 2):
        fleet.tick(FIRST + number * MINUTE_MS)
    known = [sorted((one.feature, one.credits) for one in costs) for costs in fake(fleet).costs_known]
    before = [(SMALL.feature, SMALL.credits), (LARGE.feature, LARGE.credits)]
    assert known == [[], before, sorted([*before, (DEARER.feature, DEARER.credits)])]


def test_changed_cost_is_added_with_the_time_of_last_confirmation(fleet: Fleet) -> None:
    fleet.tick(FIRST)
    fleet.tick(FIRST + 3 * MINUTE_MS)
    fake(fleet).costs_say = (DEARER, LARGE)
    changed = FIRST + 7 * MINUTE_MS
    fleet.tick(changed)
    fleet.tick(changed + WINDOW_MS)
    window = window_of(changed)
    assert learned(fleet) == [(100, 0, None, FIRST), (300, window, FIRST + 3 * MINUTE_MS, changed)]
    assert len(learned(fleet, "compute_4gb")) == 1 and records(fleet) == 3
    card = read(fleet.engine, lambda c: rate_card_of(c, "fake"))
    assert [getattr(card.rate("compute_1gb", at), "micro_credits", None) for at in (window - 1, window)] == [100, 300]
    clean(fleet)


def test_cost_changes_within_window_are_all_stored(fleet: Fleet) -> None:
    fleet.tick(FIRST)
    for number, cost in enumerate((DEARER, SMALL, DEARER), 1):
        fake(fleet).costs_say = (cost,)
        fleet.tick(FIRST + number * 1_000)
    window = window_of(FIRST)
    found = learned(fleet)
    assert [row[0] for row in found] == [100, 300, 100, 300]
    assert [row[1] for row in found] == [0, window, window + WINDOW_MS, window + 2 * WINDOW_MS]
    pools = read(fleet.engine, lambda c: read_pools(c, "fake"))
    assert pools.newest()["compute_1gb"].credits == DEARER.credits
    clean(fleet)


def test_cost_with_changed_balance_is_stored(fleet: Fleet) -> None:
    fleet.tick(FIRST)
    fake(fleet).costs_say = (replace(SMALL, balance="gold"),)
    fleet.tick(FIRST + MINUTE_MS)
    assert len(learned(fleet)) == 2
    assert read(fleet.engine, lambda c: read_pools(c, "fake")).of("compute_1gb") == "gold"
    clean(fleet)


def test_failed_cost_read_leaves_rates_unchanged(fleet: Fleet) -> None:
    fleet.tick(FIRST)
    before, provider = learned(fleet), fake(fleet)
    provider.costs_say = ReadFailed("503")
    fleet.sample("acme", FIRST + 1)
    assert fleet.tick(FIRST + 2 * WINDOW_MS).failures == []
    assert learned(fleet) == before and asked_ms(fleet) == FIRST, "that it was asked is no confirmation"
    assert len(provider.charged) == 2, "its pushes wait for no cost"
    provider.costs_say = (DEARER,)
    fleet.tick(FIRST + 4 * WINDOW_MS)
    assert learned(fleet)[1][2:] == (FIRST, FIRST + 4 * WINDOW_MS)
    clean(fleet)


def test_removed_cost_is_stored_as_zero_with_own_balance(fleet: Fleet) -> None:
    fleet.tick(FIRST)
    fake(fleet).costs_say = (LARGE,)
    for number in (1, 2):
        fleet.tick(FIRST + number * MINUTE_MS)
    assert learned(fleet) == [(100, 0, None, FIRST), (0, window_of(FIRST), FIRST, FIRST + MINUTE_MS)]
    pools = read(fleet.engine, lambda c: read_pools(c, "fake"))
    assert (pools.of("compute_1gb"), pools.of("compute_4gb")) == ("compute_1gb", "credits")
    clean(fleet)


def test_unreadable_single_cost_leaves_rate_unchanged(fleet: Fleet) -> None:
    fleet.tick(FIRST)
    fake(fleet).costs_say = (replace(DEARER, unread=True), LARGE)
    fleet.tick(FIRST + MINUTE_MS)
    fake(fleet).costs_say = (LARGE,)
    fleet.tick(FIRST + 2 * MINUTE_MS)
    fake(fleet).costs_say = (replace(SMALL, unread=True), LARGE)
    fleet.tick(FIRST + 3 * MINUTE_MS)
    assert [row[0] for row in learned(fleet)] == [100, 0], "nor does one that ended begin again"
    clean(fleet)


def test_cost_with_small_fraction_is_stored_exactly(fleet: Fleet) -> None:
    fake(fleet).costs_say = (replace(SMALL, credits=Decimal("0.0000001234")),)
    fleet.tick(FIRST)
    assert fleet.rows("SELECT micro, per_quantity FROM provider_rates") == [(1234, 10_000)]
    assert read(fleet.engine, lambda c: read_pools(c, "fake")).reported_costs()[0].credits == Decimal("0.0000001234")


def test_provider_without_cost_capability_is_not_queried(engine: sa.Engine) -> None:
    fleet, provider = fleet_of(engine)
    provider.costs_say = (SMALL,)
    fleet.tick(FIRST)
    assert provider.costs_known == [] and fleet.rows("SELECT 1 FROM provider_rates") == []


def test_watch_stores_reported_costs(fleet: Fleet) -> None:
    fleet.tick(FIRST)
    fake(fleet).costs_say = (DEARER,)
    look(fleet, MINUTE_MS * 2)
    assert [row[0] for row in learned(fleet)] == [100, 300]


def test_two_workers_store_same_cost_once(fleet: Fleet) -> None:
    """Both asked before either has written."""
    fleet.tick(FIRST)
    fake(fleet).costs_say = (DEARER, LARGE)
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    waiting = Walk(learn_costs(fleet.context("w2"), "fake"), world)
    waiting.until("learn_costs", fleet.engine)
    runner.run(learn_costs(fleet.context("w1"), "fake"), world)
    waiting.rest(fleet.engine)
    assert [row[0] for row in learned(fleet)] == [100, 300] and records(fleet) == 3
    clean(fleet)


def asking(fleet: Fleet, at_ms: int) -> Walk:
    """A worker that asks for the costs now, and was not answered yet."""
    fleet.clock.at_ms = at_ms
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    walk = Walk(learn_costs(fleet.context("w2"), "fake"), world)
    while not isinstance(walk.asked, ReadCosts):
        walk.one(fleet.engine)
    return walk


def answered(fleet: Fleet, walk: Walk, at_ms: int, *costs: Cost) -> Walk:
    """It has its answer, and has not stored it."""
    fleet.clock.at_ms, fake(fleet).costs_say = at_ms, costs
    walk.one(fleet.engine)
    return walk


def test_older_answer_does_not_replace_newer_cost(fleet: Fleet) -> None:
    fleet.tick(FIRST)
    older = answered(fleet, asking(fleet, FIRST + 1_000), FIRST + 2_000, SMALL, LARGE)
    fake(fleet).costs_say = (DEARER, LARGE)
    fleet.tick(FIRST + MINUTE_MS)
    older.rest(fleet.engine)
    fleet.tick(FIRST + 2 * MINUTE_MS)
    assert [row[0] for row in learned(fleet)] == [100, 300] and records(fleet) == 3
    clean(fleet)


def test_older_answer_does_not_replace_confirmed_cost(fleet: Fleet) -> None:
    """The newer answer changes no cost: only the time at which it was asked for shows that it came."""
    fleet.tick(FIRST)
    older = answered(fleet, asking(fleet, FIRST + 1_000), FIRST + 2_000, DEARER)
    fake(fleet).costs_say = (SMALL, LARGE)
    fleet.tick(FIRST + MINUTE_MS)
    older.rest(fleet.engine)
    assert [row[0] for row in learned(fleet)] == [100] and len(learned(fleet, "compute_4gb")) == 1
    assert asked_ms(fleet) == FIRST + MINUTE_MS


def test_answer_during_slower_answer_waits_for_next_read(fleet: Fleet) -> None:
    """It was asked for later and came earlier: stored with the time of its arrival, it would count as the older one."""
    fleet.tick(FIRST)
    slower, newer = asking(fleet, FIRST + 1_000), asking(fleet, FIRST + 2_000)
    answered(fleet, newer, FIRST + 2_500, DEARER, LARGE)
    answered(fleet, slower, FIRST + 3_000, replace(SMALL, credits=Decimal("0.0002")), LARGE).rest(fleet.engine)
    newer.rest(fleet.engine)
    assert [row[0] for row in learned(fleet)] == [100, 200] and asked_ms(fleet) == FIRST + 1_000
    fake(fleet).costs_say = (DEARER, LARGE)
    fleet.tick(FIRST + MINUTE_MS)
    assert [row[0] for row in learned(fleet)] == [100, 200, 300]
    assert learned(fleet)[-1][2:] == (FIRST + 1_000, FIRST + MINUTE_MS)
    clean(fleet)


def test_answer_without_cost_learned_meanwhile_does_not_confirm_it(fleet: Fleet) -> None:
    fake(fleet).costs_say = (LARGE,)
    fleet.tick(FIRST)
    without = asking(fleet, FIRST + 2_000)
    answered(fleet, asking(fleet, FIRST + 1_000), FIRST + 1_500, SMALL, LARGE).rest(fleet.engine)
    answered(fleet, without, FIRST + 2_500, LARGE).rest(fleet.engine)
    assert [row[0] for row in learned(fleet)] == [100] and asked_ms(fleet) == FIRST + 1_000
    fleet.tick(FIRST + MINUTE_MS)
    assert [row[0] for row in learned(fleet)] == [100, 0], "the next read ends it"


def test_mark_of_clock_that_was_days_ahead_does_not_stop_learning(fleet: Fleet) -> None:
    fleet.tick(FIRST)
    fleet.write("UPDATE provider_states SET costs_read_ms = :ahead_ms", {"ahead_ms": FIRST + 3 * DAY_MS})
    fake(fleet).costs_say = (DEARER, LARGE)
    fleet.tick(FIRST + MINUTE_MS)
    assert [row[0] for row in learned(fleet)] == [100, 300] and asked_ms(fleet) == FIRST + MINUTE_MS


def test_cost_dated_by_clock_that_was_ahead_is_not_stored_again(fleet: Fleet) -> None:
    """With an earlier date, the cost told now would not be in force, and would be stored at each read."""
    fleet.tick(FIRST)
    fake(fleet).costs_say = (DEARER, LARGE)
    fleet.clock.at_ms = FIRST + DAY_MS
    asking_ahead = asking(fleet, FIRST + DAY_MS)
    answered(fleet, asking_ahead, FIRST + DAY_MS, DEARER, LARGE).rest(fleet.engine)
    fake(fleet).costs_say = (SMALL, LARGE)
    for minute in (1, 2, 3):
        fleet.tick(FIRST + minute * MINUTE_MS)
    assert [row[0] for row in learned(fleet)] == [100, 300]
    fleet.tick(FIRST + DAY_MS + MINUTE_MS)
    assert [row[0] for row in learned(fleet)] == [100, 300, 100]


def test_unrecorded_cost_is_found_by_verify(fleet: Fleet) -> None:
    fleet.tick(FIRST)
    fleet.write(
        "INSERT INTO provider_rates (provider, feature, start_ms, micro, per_quantity, at_ms, actor, reason, balance) "
        "SELECT provider, feature, start_ms + 300000, 7, 1, at_ms, actor, reason, balance FROM provider_rates "
        "WHERE feature = 'compute_1gb'"
    )
    found = [one.text for one in read(fleet.engine, verify).breaches]
    assert any("7 for 1" in text for text in found), found
