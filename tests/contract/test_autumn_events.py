"""Autumn's list of events: one push looked up in it, and totals of what was charged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import pytest

from drawdown.providers.http import Answer, Call, HttpResult
from drawdown.providers.protocol import Absent, Accepted, CannotTell, CustomerState, FoundPush, ReadFailed
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from tests.cases import cases
from tests.contract.autumn_setup import KEY, NOW_MS, WINDOW, Stub, World, done, made, no, push, said, stubbed

Body = dict[str, object]


def event(name: str = "evt_1", **changes: object) -> Body:
    own = {"balance_id": "b", "feature_id": "compute", "plan_id": "p", "value": 7}
    told: Body = {
        "id": name, "timestamp": WINDOW, "feature_id": "compute", "customer_id": "cus_1", "value": 7,
        "properties": {"drawdown_key": KEY}, "deductions": [own],
    }  # fmt: skip
    return told | changes


FEATURES = {
    "list": [
        {"id": "compute", "type": "metered"},
        {
            "id": "credits",
            "type": "credit_system",
            "credit_schema": [{"metered_feature_id": "compute", "credit_cost": 3}],
        },
    ]
}


def account(body: object) -> Callable[[Call], HttpResult]:
    """Answers the question for features, and everything else with one body."""
    return lambda call: said(200, FEATURES if call.url.endswith("features.list") else body)


def without(told: Body, name: str) -> Body:
    return {one: value for one, value in told.items() if one != name}


def taken(value: object, feature: str = "compute") -> list[Body]:
    return [{"balance_id": "b", "feature_id": feature, "value": value}]


@cases(
    ("events", "result"),
    [
        ([event()], FoundPush(7)),
        ([event(properties={"drawdown_key": "another"})], Absent()),
        ([event(properties=None)], Absent()),
        ([event(properties={})], Absent()),
        ([event(properties={"drawdown_key": 7})], Absent()),
        ([], Absent()),
        ([event(), event("evt_2")], FoundPush(14)),
        ([event(), event()], FoundPush(7)),
        ([event(deductions=[])], FoundPush(0)),
        ([event(value=20, deductions=taken(5))], FoundPush(5)),
        ([event(deductions=taken(4.25) + taken(2.75))], FoundPush(7)),
        ([event(value=-7, deductions=taken(-7))], FoundPush(-7)),
        ([event(deductions=taken(21, "credits"))], FoundPush(7)),  # at three credits a unit
        ([event(deductions=taken(10, "credits"))], FoundPush(4)),
        ([event(deductions=taken(21, "gold"))], CannotTell),
        ([event(deductions=taken(5.5))], CannotTell),
        ([event(deductions=None)], FoundPush(0)),
        ([without(event(), "deductions")], CannotTell),
        ([event(deductions=taken("7"))], CannotTell),
        ([event(), {"id": 5}], CannotTell),
        ([None], CannotTell),
        ([event(timestamp="yesterday")], CannotTell),
        ([event(properties="{}")], CannotTell),
    ],
)
def test_push_lookup_by_key_returns_deducted_quantity(events: list[object], result: object) -> None:
    provider = stubbed(account({"list": events, "next_cursor": None}))
    done(provider.costs(()))
    found = done(provider.lookup(push()))
    assert type(found) is result if isinstance(result, type) else found == result
    assert not isinstance(found, CannotTell) or found.may_have


@cases("answer", [no(400, "invalid_inputs"), no(404, "feature_not_found")])
def test_lookup_with_permanent_list_error_cannot_tell(answer: Answer) -> None:
    found = done(stubbed(answer).lookup(push()))
    assert isinstance(found, CannotTell) and not found.may_have


UNTOLD_ENDS: Final = [
    {"list": [], "next_cursor": 17}, {"list": [], "next_cursor": {"after": "x"}}, {"list": [], "has_more": "true"},
    {"list": [], "has_more": 1},
]  # fmt: skip


@cases("body", [{}, {"list": None}, {"list": []}, {"list": [], "has_more": True}, [], "x", *UNTOLD_ENDS])
def test_lookup_with_malformed_list_fails_read(body: object) -> None:
    assert isinstance(done(stubbed(said(200, body)).lookup(push())), ReadFailed)


def test_event_list_with_endless_pages_fails_read() -> None:
    turning = said(200, {"list": [event()], "next_cursor": "again"})
    assert isinstance(done(stubbed(turning).lookup(push())), ReadFailed)
    pages = iter(range(10_000))
    endless = stubbed(lambda _call: said(200, {"list": [event()], "next_cursor": f"page {next(pages)}"}))
    assert isinstance(done(endless.totals("cus_1", 0, NOW_MS)), ReadFailed)


def test_lookup_by_key_and_whole_list_ask_around_push_time() -> None:
    http = Stub(said(200, {"list": [], "next_cursor": None}))
    done(made(http).lookup(push()))
    by_key, whole = http.bodies
    assert by_key == whole | {"filter_by": {"drawdown_key": KEY}}
    assert whole.keys() == {"customer_id", "custom_range", "limit"} and whole["customer_id"] == "cus_1"
    assert whole["custom_range"] == {"start": WINDOW - 10_000, "end": WINDOW + 1 + 10_000}


def test_lookup_of_single_push_filters_by_key_and_of_many_reads_list_once() -> None:
    http = Stub(said(200, {"list": [event()], "next_cursor": None}))
    assert done(made(http).lookup(push())) == FoundPush(7)
    assert len(http.sent) == 1
    http = Stub(said(200, {"list": [event()], "next_cursor": None}))
    assert done(made(http).lookup_many([push(), push(key="other")])) == [FoundPush(7), Absent()]
    assert len(http.sent) == 1 and "filter_by" not in http.bodies[0]


@cases(
    "filtered",
    [
        said(200, {"list": [], "next_cursor": None}),
        said(200, {"list": [event(properties={"drawdown_key": "another"})], "next_cursor": None}),
        said(200, {"list": [{"id": 5}], "next_cursor": None}),
        no(400, "invalid_inputs", "filter_by: unknown"),
    ],
)
def test_push_missed_by_key_filter_is_found_in_whole_list(filtered: Answer) -> None:
    """To call a push absent that only the filter missed would bill it twice."""

    def listed(call: Call) -> HttpResult:
        return filtered if b"filter_by" in call.body else said(200, {"list": [event()], "next_cursor": None})

    assert done(stubbed(listed).lookup(push())) == FoundPush(7)


def test_lookup_with_throttled_filter_fails_read_after_first_call() -> None:
    http = Stub(said(429, "Too many"))
    found = done(made(http).lookup(push()))
    assert isinstance(found, ReadFailed) and found.too_many and len(http.sent) == 1
    assert found.reason == "events.list: HTTP 429: too many calls"


@cases(
    ("pages", "second"),
    [
        ([{"next_cursor": "c1"}, {"next_cursor": None}], ("start_cursor", "c1")),
        ([{"has_more": True}, {"has_more": False}], ("offset", 1)),
    ],
)
def test_lookup_reads_next_page_by_cursor_or_offset(pages: list[Body], second: tuple[str, object]) -> None:
    http = Stub(lambda _call: said(200, {"list": [event(f"evt_{len(http.sent)}")], **pages[len(http.sent) - 1]}))
    assert done(made(http).lookup(push())) == FoundPush(14)
    name, value = second
    assert name not in http.bodies[0] and http.bodies[1][name] == value


def test_pushes_across_pages_are_looked_up_and_totalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drawdown.providers.autumn.events.PAGE", 7)
    world = World()
    world.emulator.lists_per_s = 1_000
    requests = [push(n + 1, key=f"k{n}", ts=WINDOW + n * 1_000) for n in range(50)]
    for one in requests:
        assert world.push(one) == Accepted()
    assert done(world.provider.lookup(requests[0])) == Absent()  # listed a second later
    world.wait(2_000)
    assert [done(world.provider.lookup(one)) for one in requests] == [FoundPush(one.quantity) for one in requests]
    assert done(world.provider.totals("cus_1", WINDOW, WINDOW + 10_000)) == {"compute": sum(range(1, 11))}
    assert done(world.provider.totals("cus_1", WINDOW + 10_000, WINDOW + DAY_MS)) == {"compute": sum(range(11, 51))}
    assert done(world.provider.totals("cus_2", WINDOW, WINDOW + DAY_MS)) == {}


def test_totals_sum_deductions_of_all_senders_in_range() -> None:
    events = [
        event("a"),
        event("b", properties=None, deductions=taken(0.4)),
        event("c", timestamp=WINDOW - 1),
        event("d", timestamp=WINDOW + WINDOW_MS),
        event("e", feature_id="other", deductions=[], value=50),
        event("g", feature_id="other", deductions=None, value=50),
        event("f", customer_id="cus_2"),
    ]
    provider = stubbed(said(200, {"list": events, "next_cursor": None}))
    assert done(provider.totals("cus_1", WINDOW, WINDOW + WINDOW_MS)) == {"compute": 7, "other": 0}
    silent = stubbed(said(200, {"list": [without(event(), "deductions")], "next_cursor": None}))
    assert isinstance(done(silent.totals("cus_1", WINDOW, WINDOW + 1)), ReadFailed)


def test_totals_omit_unreadable_event_of_foreign_feature() -> None:
    """Else one such event of another program would keep all of the customer's days from being compared."""
    theirs = without(event("b", properties=None, feature_id="other"), "deductions")
    beside = stubbed(said(200, {"list": [event("a"), theirs], "next_cursor": None}))
    assert done(beside.totals("cus_1", WINDOW, WINDOW + 1)) == {"compute": 7}
    same = without(event("b", properties=None), "deductions")
    mixed = stubbed(said(200, {"list": [event("a"), same], "next_cursor": None}))
    assert isinstance(done(mixed.totals("cus_1", WINDOW, WINDOW + 1)), ReadFailed)


def test_lookup_in_lagging_list_is_absent_and_in_faulty_list_fails_read() -> None:
    world = World({"reads_lag": 1.0}, seed=3)
    assert world.push() == Accepted()
    assert done(world.provider.lookup(push())) == Absent()
    world.wait(world.provider.capabilities.lookup_lag_ms or 0)
    assert done(world.provider.lookup(push())) == FoundPush(7)
    world.emulator.faults.rates = {"reads_fail": 0.5, "nonsense": 0.3, "connection_refused": 0.2}
    for _ in range(200):
        world.wait(1_000)
        assert isinstance(done(world.provider.lookup(push())), ReadFailed | FoundPush)
        assert isinstance(done(world.provider.customers(["cus_1"]))["cus_1"], ReadFailed | CustomerState)


def test_lookup_of_many_pushes_reads_list_once_and_by_halves_if_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.emulator.lists_per_s = 1_000
    requests = [push(n + 1, key=f"k{n}", ts=WINDOW + n * 14_000) for n in range(40)]
    for one in requests[:-1]:
        assert world.push(one) == Accepted()
    world.wait(2_000)
    right = [*(FoundPush(one.quantity) for one in requests[:-1]), Absent()]
    assert done(world.provider.lookup_many(requests)) == right
    assert world.emulator.calls["events.list"] == 1
    monkeypatch.setattr("drawdown.providers.autumn.events.PAGE", 3)
    monkeypatch.setattr("drawdown.providers.autumn.events.MAX_PAGES", 3)
    assert done(world.provider.lookup_many(requests[::-1])) == right[::-1]


def test_lookup_of_push_far_from_unreadable_event_is_found() -> None:
    mine, bad, far = event("a"), event("b", deductions="?", customer_id=7), WINDOW + 6 * MINUTE_MS

    def listed(call: Call) -> HttpResult:
        asked = json.loads(call.body)["custom_range"]
        there = [one for one, ts in ((mine, WINDOW), (bad, far)) if asked["start"] <= ts < asked["end"]]
        return said(200, {"list": there, "next_cursor": None})

    found = done(made(Stub(listed)).lookup_many([push(), push(key="other", ts=far)]))
    assert found[0] == FoundPush(7) and isinstance(found[1], CannotTell)
