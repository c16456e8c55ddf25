"""Stripe's meters with an `event_time_window`: one keeps one event of each hour or day, so no push goes there."""

from __future__ import annotations

import asyncio

from drawdown.providers.http import Call, HttpResult
from drawdown.providers.kit.emulator import Direct, FaultPlan
from drawdown.providers.protocol import Accepted, Outcome, Rejected
from drawdown.providers.stripe import build
from drawdown.providers.stripe.meters import REMEMBERED_MS
from drawdown.schema.clock import FixedClock
from drawdown.schema.units import WINDOW_MS
from tests.cases import cases
from tests.contract.stripe_setup import NOW_MS, World, done, one, push, setup
from tests.emulators.stripe import StripeEmulator

STREAM = "https://stripe.test"
HOUR = NOW_MS - NOW_MS % 3_600_000 - 3_600_000


def windowed(window: str, stream_url: str = "") -> World:
    world = World(stream_url=stream_url)
    next(iter(world.stripe.meters.values())).window = window
    return world


@cases("stream_url", ["", STREAM])
@cases("window", ["hour", "day"])
def test_push_to_meter_with_event_time_window_is_rejected_unsent(window: str, stream_url: str) -> None:
    """Twelve pushes an hour: Stripe takes each with a 200, and bills the last."""
    world = windowed(window, stream_url)
    pushes = [push(1024 * (n + 1), key=f"k{n}", ts=HOUR + n * WINDOW_MS) for n in range(12)]
    outcomes = [one(world.provider, request) for request in pushes]
    assert [type(outcome) for outcome in outcomes] == [Rejected] * 12
    assert all(f"newest event of each {window}. Archive it" in str(outcome) for outcome in outcomes)
    assert not any(name.startswith("POST") for name in world.stripe.calls)


def test_emulated_meter_with_hour_window_counts_newest_event_only() -> None:
    world = windowed("hour")
    sent = Direct(world.stripe, world.clock)
    for number in range(12):
        body = f"event_name=gb_seconds&payload[stripe_customer_id]=cus_1&payload[value]={number + 1}"
        body += f"&identifier=k{number}&timestamp={(HOUR + number * WINDOW_MS) // 1000}"
        headers = {"authorization": f"Bearer {world.stripe.secret_key}"}
        done(sent.send(Call("POST", "https://stripe.test/v1/billing/meter_events", headers, body.encode())))
    assert world.stripe.charged("cus_1", "gb_seconds") == 12  # of 78


def test_check_of_meter_with_window_reports_window_and_fix() -> None:
    (line,) = done(windowed("hour").provider.check(["compute"], ["cus_1"]))
    assert line.startswith("compute: the meter mtr_1 (gb_seconds) keeps one event an hour")
    assert line.endswith("Archive it, and create a meter without a window")


def test_meter_recreated_without_window_accepts_pushes() -> None:
    world = windowed("day")
    assert isinstance(one(world.provider, push()), Rejected)
    next(iter(world.stripe.meters.values())).active = False
    world.stripe.add_meter("gb_seconds")
    world.clock.at_ms += REMEMBERED_MS + 1
    assert one(world.provider, push(attempt=2)) == Accepted()


def test_push_with_unreadable_meters_is_accepted() -> None:
    """A restricted key may lack the right to read meters."""
    world = World({"reads_fail": 1.0})
    assert one(world.provider, push()) == Accepted()


@cases("fails", [False, True])
def test_concurrent_pushes_share_single_read_of_meters(fails: bool) -> None:
    clock = FixedClock(NOW_MS)
    stripe = StripeEmulator(faults=FaultPlan(0, {"reads_fail": 1.0 if fails else 0.0}))
    stripe.add_customer("cus_1")
    stripe.add_meter("gb_seconds")

    class Slow(Direct):
        async def send(self, call: Call) -> HttpResult:
            await asyncio.sleep(0)
            return await super().send(call)

    provider = build(setup(Slow(stripe, clock), clock))

    async def together(name: str) -> list[Outcome]:
        found = await asyncio.gather(*(provider.push([push(key=f"{name}{n}")]) for n in range(64)))
        return [outcome for outcomes in found for outcome in outcomes]

    for tick in (1, 2):  # each in an event loop of its own
        found = done(together(f"of tick {tick}: "))
        assert {type(outcome) for outcome in found} == {Accepted}
        assert stripe.calls["GET /v1/billing/meters"] == tick
        clock.at_ms += REMEMBERED_MS + 1
