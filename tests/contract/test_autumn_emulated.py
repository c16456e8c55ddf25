"""The Autumn provider against the emulated service: single faults, and many of them settled by the worker's rules."""

from __future__ import annotations

import random
from decimal import Decimal

from drawdown.providers.protocol import (
    Absent,
    Accepted,
    CustomerState,
    Duplicate,
    FoundPush,
    Outcome,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.push.outcome import LookedUpPush, Settlement, after_lookup, settle
from tests.cases import cases
from tests.contract.autumn_setup import KEY, NOW_MS, PLAN_PARTS, WINDOW, World, done, push
from tests.whole import share

HOUR_MS = 60 * MINUTE_MS


def test_charge_above_empty_balance_overflows() -> None:
    world = World()
    assert world.push(push(250)) == Accepted()
    assert world.charged() == 250


def test_charge_repeated_is_duplicate_and_charged_once() -> None:
    world = World()
    assert world.push() == Accepted()
    assert world.push(push(attempt=2)) == Duplicate()
    assert world.charged() == 7


def test_charge_of_customer_without_balance_is_rejected_and_not_charged() -> None:
    world = World()
    world.emulator.account.add_customer("cus_2", NOW_MS)
    outcome = world.push(push(customer_id="cus_2"))
    assert isinstance(outcome, Rejected) and "does not have a balance" in outcome.reason
    assert done(world.provider.lookup(push(customer_id="cus_2"))) == Absent()
    world.wait(2_000)
    assert done(world.provider.lookup(push(customer_id="cus_2"))) == FoundPush(0)


def test_refund_at_server_that_stops_at_grant_is_capped_to_usage() -> None:
    world = World()
    world.emulator.account.stops_at_grant = True
    refused = world.push(push(-5, key="a"))
    assert isinstance(refused, Rejected) and "did not refund" in refused.reason
    assert "`drawdown push resolve KEY --outcome accepted --evidence TEXT`, then credit 5 units on" in refused.reason, (
        "what a person does"
    )
    assert world.push(push(20, key="b")) == Accepted()
    assert world.push(push(-5, key="c")) == Accepted()
    partly = push(-50, key="d")
    assert isinstance(world.push(partly), Queued)
    world.wait(2_000)
    assert done(world.provider.lookup(partly)) == FoundPush(-15)


def test_refund_with_overflow_exceeds_grant() -> None:
    """Only `cap` gives back no more than was used; the adapter sends `overflow` (recorded: C26, C34)."""
    world = World()
    assert world.push(push(-5, key="a")) == Accepted()
    assert world.push(push(20, key="b")) == Accepted()
    beyond = push(-50, key="c")
    assert world.push(beyond) == Accepted()
    world.wait(2_000)
    assert done(world.provider.lookup(beyond)) == FoundPush(-50)
    assert world.charged() == -35


def test_charge_in_credit_system_is_found_in_feature_units() -> None:
    world = World()
    account = world.emulator.account
    account.add_feature("credits", kind="credit_system", credit_schema={"compute": 3})
    account.add_customer("cus_2", NOW_MS)
    account.grant("cus_2", "credits", 100, NOW_MS)
    request = push(customer_id="cus_2")
    assert world.push(request) == Accepted()
    world.wait(2_000)
    assert done(world.provider.lookup(request)) == FoundPush(7)
    assert done(world.provider.totals("cus_2", WINDOW, WINDOW + 1)) == {"compute": 7}


def test_charge_over_credit_systems_counts_each_whole_unit() -> None:
    """A third of a unit was drawn on one system, and the rounded rest on the other was worth less than it paid for."""
    world = World()
    account = world.emulator.account
    account.add_customer("cus_2", NOW_MS)
    for name, cost, credits in (("promo", 3, 1), ("credits", Decimal("0.7"), 100)):
        account.add_feature(name, kind="credit_system", credit_schema={"compute": cost})
        account.grant("cus_2", name, credits, NOW_MS)
    assert world.push(push(customer_id="cus_2")) == Accepted()
    assert list(account.by_key.values()) == [7]


@cases(
    ("fault", "kind", "charged_then", "found"),
    [
        ("request_lost", Unknown, 0, Absent()),
        ("answer_lost", Unknown, 7, FoundPush(7)),
        ("error_500_before", Unknown, 0, Absent()),
        ("error_500_after", Unknown, 7, FoundPush(7)),
        ("throttled", RetryAt, 0, Absent()),
        ("throttled_nonsense", RetryAt, 0, Absent()),
        ("queued_late", Queued, 7, FoundPush(7)),
        ("queued_dropped", Queued, 0, Absent()),
        ("claimed_not_applied", Unknown, 0, Absent()),
        ("uncharged_200", Rejected, 0, FoundPush(0)),
        ("accepted_then_lost", Accepted, 0, Absent()),
        ("key_store_refuses", Accepted, 7, FoundPush(7)),
        ("key_store_hangs", Unknown, 7, FoundPush(7)),
        ("connection_refused", RetryAt, 0, Absent()),
    ],
)
def test_each_fault_maps_to_outcome_and_lookup_result(
    fault: str, kind: type[Outcome], charged_then: int, found: object
) -> None:
    world = World({fault: 1.0})
    assert type(world.push()) is kind
    world.emulator.faults.rates = {}
    world.wait(2 * MINUTE_MS)
    assert world.charged() == charged_then
    assert done(world.provider.lookup(push())) == found


def test_drawn_shows_double_charge_of_key_store_that_fails_open() -> None:
    world = World()
    assert world.push() == Accepted()
    world.emulator.key_store = "refusing"
    assert world.push(push(attempt=2)) == Accepted()
    world.wait(2_000)
    assert world.charged() == 14 and len(world.emulator.doubles) == 1
    assert done(world.provider.lookup(push())) == FoundPush(7)
    assert done(world.provider.totals("cus_1", WINDOW, WINDOW + WINDOW_MS)) == {"compute": 7}
    drawn = done(world.provider.drawn("cus_1"))
    assert isinstance(drawn, dict) and drawn["compute"].quantity == 14


def test_charges_with_balance_store_down_are_queued_and_applied_later() -> None:
    world = World()
    world.emulator.balance_store = "down"
    assert isinstance(world.push(), Queued)
    assert isinstance(done(world.provider.customers(["cus_1"]))["cus_1"], ReadFailed)
    world.wait(5 * MINUTE_MS)
    assert world.push(push(attempt=2)) == Duplicate() and world.charged() == 0
    world.emulator.balance_store = "up"
    world.wait(2_000)
    assert done(world.provider.lookup(push())) == FoundPush(7) and world.charged() == 7


def test_charges_above_account_rate_are_queued_and_applied() -> None:
    world = World()
    world.emulator.tracks_per_minute = 3
    told = [type(world.push(push(key=f"k{n}"))) for n in range(5)]
    assert told == [Accepted, Accepted, Accepted, Queued, Queued]
    world.wait(MINUTE_MS)
    assert world.charged() == 35


def test_push_repeated_after_key_retention_is_charged_twice() -> None:
    world = World()
    assert world.push() == Accepted()
    world.wait(world.provider.capabilities.key_retention_ms or 0)
    assert world.push(push(attempt=2)) == Accepted()
    assert world.charged() == 14


def test_new_cycle_renews_grant_and_resets_drawn() -> None:
    world = World()
    assert world.push(push(130)) == Accepted()
    world.wait(31 * DAY_MS)
    assert done(world.provider.customers(["cus_1"])) == {
        "cus_1": CustomerState(100_000_000, "starter", 3, parts=PLAN_PARTS, plans=frozenset({"starter"}))
    }
    drawn = done(world.provider.drawn("cus_1"))
    assert isinstance(drawn, dict) and drawn["compute"].quantity == 0
    assert drawn["compute"].since_ms is not None and WINDOW < drawn["compute"].since_ms < world.clock.at_ms


SOUND = (
    "request_lost", "answer_lost", "error_500_before", "error_500_after", "throttled", "throttled_nonsense",
    "queued_late", "queued_dropped", "claimed_not_applied", "uncharged_200", "key_store_hangs", "connection_refused",
    "nonsense", "reads_fail", "reads_lag",
)  # fmt: skip
"""Faults after which the worker's rules alone end in exactly one charge."""


@cases("seed", share(range(4), whole=range(12)))
def test_worker_rules_charge_once_under_each_sound_fault(seed: int) -> None:
    rates = dict.fromkeys(SOUND, 0.04)
    world = World(rates, seed)
    rng = random.Random(seed)
    owed = {f"{KEY}-{n}": (rng.randrange(1, 50), WINDOW - n * WINDOW_MS) for n in range(40)}
    for key, (quantity, ts) in owed.items():
        _settle(world, key, quantity, ts)
    world.emulator.faults.rates = {}
    world.wait(HOUR_MS)
    for quantity, ts in owed.values():
        assert world.charged(ts) == quantity
    assert world.emulator.doubles == [] and sum(world.emulator.faults.counts.values()) > 5


def _settle(world: World, key: str, quantity: int, ts: int) -> None:
    """One push to its end by the worker's own decisions; what is rejected or void is sealed again under a new key."""
    can = world.provider.capabilities
    revision = attempt = lookups = 0
    state, at_ms, first_ms, last_ms, claimed = "due", world.clock.at_ms, 0, 0, False
    for _step in range(500):
        world.wait(max(0, at_ms - world.clock.at_ms))
        now = world.clock.at_ms
        request = push(quantity, key=f"{key}:r{revision}", ts=ts, attempt=attempt + 1)
        if state == "due":
            attempt += 1
            first_ms = first_ms or now
            outcome = world.push(request)
            last_ms = last_ms if isinstance(outcome, RetryAt | Duplicate) and last_ms else now
            claimed = claimed or isinstance(outcome, Queued | Duplicate)
            end: object = settle(outcome, attempt, now, can)
        else:
            lookups += 1
            asked = LookedUpPush(state, quantity, lookups, last_ms, first_ms, claimed)
            end = after_lookup(done(world.provider.lookup(request)), asked, now, can)
        if isinstance(end, Settlement):
            state, at_ms = end.state, end.due_at_ms
        if state == "accepted":
            return
        if state == "rejected" or not isinstance(end, Settlement):
            revision, attempt, lookups = revision + 1, 0, 0
            state, at_ms, first_ms, last_ms, claimed = "due", now, 0, 0, False
    raise AssertionError(f"{key} came to no end")
