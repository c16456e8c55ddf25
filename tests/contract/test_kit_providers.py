"""What OpenMeter, Lago and Polar do beyond the suite: balances, meters that must not be used, pages, settings."""

from __future__ import annotations

import asyncio
import importlib
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drawdown.providers import lago, openmeter, polar
from drawdown.providers.conformance.bench import garbled, instead
from drawdown.providers.http import Answer
from drawdown.providers.kit import answers
from drawdown.providers.protocol import (
    Absent,
    Accepted,
    CannotTell,
    CustomerState,
    Duplicate,
    FoundPush,
    NoCustomer,
    Outcome,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.schema.errors import UsageError
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, SECOND_MS, WINDOW_MS
from tests.cases import cases
from tests.contract.test_conformance_kit import KEY, KitBench, LagoBench, OpenMeterBench, PolarBench
from tests.emulators import lago as emulator
from tests.world import T0

ROOT = Path(__file__).resolve().parents[2]
PUSH = PushRequest("usage:acme:1:compute", "c-1", "compute", 300, T0 - 2 * WINDOW_MS, 1)


def pushed(bench: KitBench, push: PushRequest = PUSH) -> Outcome:
    bench.advance(2 * MINUTE_MS)  # nothing that was read before is kept
    (outcome,) = asyncio.run(bench.provider.push([push]))
    return outcome


def state(bench: KitBench, customer_id: str = "c-1") -> object:
    return asyncio.run(bench.provider.customers([customer_id]))[customer_id]


def looked_up(bench: KitBench, push: PushRequest = PUSH) -> object:
    return asyncio.run(bench.provider.lookup(push))


def totals(bench: KitBench, from_ms: int, to_ms: int) -> object:
    return asyncio.run(bench.provider.totals("c-1", from_ms, to_ms))


@pytest.mark.parametrize("kind", [LagoBench, OpenMeterBench, PolarBench])
def test_refused_or_missing_key_needs_a_person(kind: type[KitBench]) -> None:
    for build in (KitBench.with_bad_key, KitBench.without_key):
        bench = kind()
        bench.provider = build(bench)
        outcome = pushed(bench)
        assert isinstance(outcome, RetryAt) and outcome.by_person, outcome


def test_key_refused_between_read_and_push_needs_a_person() -> None:
    bench = OpenMeterBench()
    asyncio.run(bench.provider.push([PUSH]))  # the reads stay cached
    bench.service.api_key = "another"
    (outcome,) = asyncio.run(bench.provider.push([replace(PUSH, key="usage:acme:2:compute")]))
    assert isinstance(outcome, RetryAt) and outcome.by_person and outcome.reason.startswith("the key is refused")


def test_object_read_before_clock_was_set_back_is_read_again() -> None:
    bench = LagoBench()
    assert pushed(bench) == Accepted()
    bench.service.subscriptions["c-1"]["status"] = "terminated"
    bench.advance(-DAY_MS)
    (outcome,) = asyncio.run(bench.provider.push([replace(PUSH, key="usage:acme:2:compute")]))
    assert isinstance(outcome, Rejected) and "active subscription" in outcome.reason


def test_missing_list_of_service_is_named_as_missing() -> None:
    bench = OpenMeterBench()
    missing = {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "no such route"}
    with bench._wire.spoiled(instead(Answer(404, {}, json.dumps(missing).encode()))):
        assert totals(bench, T0 - DAY_MS, T0) == ReadFailed("HTTP 404: the service does not have this list")


# Lago.


def test_lago_balance_is_sum_of_active_wallets() -> None:
    bench = LagoBench()
    assert state(bench) == CustomerState(12_500_000, "startup", None)
    bench.service.add_wallet("cust_of_c-1", "-2.25")
    bench.service.add_wallet("cust_of_c-1", "99", status="terminated")
    assert state(bench) == CustomerState(10_250_000, "startup", None)
    bench.service.wallets["cust_of_c-1"] = [{"status": "active", "credits_ongoing_balance": "NaN"}]
    assert isinstance(state(bench), ReadFailed)


def test_lago_customer_without_wallet_is_not_halted() -> None:
    bench = LagoBench()
    bench.service.wallets.clear()
    assert state(bench) == CustomerState(None, "startup", None)
    assert state(bench, "c-ended") == NoCustomer()


@cases(
    "metric",
    [{"aggregation_type": "count_agg"}, {"field_name": None}, {"expression": "a + b"}, {"rounding_function": "ceil"}],
)
def test_lago_metric_of_other_aggregation_is_rejected_unsent(metric: dict[str, object]) -> None:
    bench = LagoBench()
    bench.service.add_metric("compute", **metric)
    assert isinstance(pushed(bench), Rejected) and not bench.service.events


def test_lago_usage_before_subscription_is_rejected_unsent() -> None:
    bench = LagoBench()
    bench.service.add_subscription("c-1", T0)
    outcome = pushed(bench)
    assert isinstance(outcome, Rejected) and "before the start of the subscription" in outcome.reason
    assert not bench.service.events


@cases(
    ("previous", "since_ms", "outcome"),
    [("free", PUSH.ts, Accepted), ("free", PUSH.ts + 1_000, Rejected), (None, PUSH.ts, Rejected)],
)
def test_lago_usage_before_plan_upgrade_is_billed_on_previous_plan(
    previous: str | None, since_ms: int, outcome: type
) -> None:
    """An upgrade ends a subscription, and starts one with the same external id. Lago bills each event by its time."""
    bench = LagoBench()
    since = emulator.stamp(since_ms)
    bench.service.add_subscription("c-1", T0, previous_plan_code=previous, subscription_at=since)
    assert isinstance(pushed(bench), outcome)


def test_lago_subscription_with_dot_is_found() -> None:
    """Lago's path of a subscription ends at a dot, so Drawdown read another one, and rejected the usage."""
    bench = LagoBench()
    assert state(bench, "c-2.eu") == NoCustomer()
    bench.service.add_subscription("c-2.eu", T0 - 500 * DAY_MS)
    push = replace(PUSH, customer_id="c-2.eu")
    assert state(bench, "c-2.eu") == CustomerState(None, "startup", None)
    assert pushed(bench, push) == Accepted() and looked_up(bench, push) == FoundPush(300)


def test_lago_list_without_filter_does_not_prove_absence() -> None:
    bench = LagoBench()
    bench.service.subscriptions["c-2.eu"] = bench.service.subscriptions["c-1"]  # a server that ignores the filter
    assert isinstance(state(bench, "c-2.eu"), ReadFailed)
    assert isinstance(pushed(bench, replace(PUSH, customer_id="c-2.eu")), RetryAt) and not bench.service.events


def test_lago_repeat_is_duplicate_and_lookup_by_other_metric_cannot_tell() -> None:
    bench = LagoBench()
    bench.service.add_metric("other")
    pushed(bench)
    assert pushed(bench) == Duplicate()
    assert looked_up(bench) == FoundPush(300)
    assert isinstance(looked_up(bench, replace(PUSH, feature="other")), CannotTell)


def test_lago_lookup_of_key_with_dot_cannot_prove_absence() -> None:
    """Lago's path of an event ends at a dot, so a charged push looked absent, and its usage was billed twice."""
    provider = LagoBench().provider
    absent = asyncio.run(provider.lookup(PUSH))
    dotted = asyncio.run(provider.lookup(replace(PUSH, key=PUSH.key.replace("acme", "acme.com"))))
    assert isinstance(absent, Absent) and isinstance(dotted, CannotTell) and dotted.may_have


@cases("status", [403, 404, 422])
def test_lago_error_of_a_web_framework_proves_nothing(status: int) -> None:
    bench, plain = LagoBench(), Answer(status, {}, json.dumps({"status": status, "error": "no"}).encode())
    assert pushed(bench) == Accepted()
    with bench._wire.spoiled(instead(plain)):
        assert isinstance(looked_up(bench), ReadFailed)
    with bench._wire.spoiled(garbled(plain)):
        (outcome,) = asyncio.run(bench.provider.push([replace(PUSH, key="usage:acme:2:compute")]))
    assert isinstance(outcome, Unknown), outcome


@cases("code", ["resource_not_found", "customer_not_found"])
def test_lago_404_without_code_of_the_object_proves_nothing(code: str) -> None:
    """Lago answers an unknown route with `resource_not_found`, for example behind a proxy that lacks the route."""
    bench, missing = LagoBench(), emulator.error(404, "Not Found", code)
    assert pushed(bench) == Accepted()
    bench.advance(2 * MINUTE_MS)
    with bench._wire.spoiled(instead(missing)):
        assert isinstance(looked_up(bench), ReadFailed)
        assert isinstance(state(bench), ReadFailed)
        (outcome,) = asyncio.run(bench.provider.push([replace(PUSH, key="usage:acme:2:compute")]))
    assert isinstance(outcome, RetryAt), outcome


@pytest.mark.parametrize("text", ["1e999999999", "-1e31"])
def test_service_number_of_absurd_size_is_not_read(text: str) -> None:
    """Its conversion to an integer took minutes, in which no other organisation was billed or halted."""
    assert answers.number(answers.json_object(f'{{"a": {text}}}'.encode())["a"]) is None  # type: ignore[index]


def test_lago_totals_read_all_pages_and_exclude_range_end() -> None:
    bench = LagoBench()
    bench.service.add_metric("foreign", aggregation_type="max_agg")
    start = T0 - 2 * DAY_MS
    for number in range(250):
        pushed(bench, replace(PUSH, key=f"k{number}", ts=start + number * SECOND_MS, quantity=number))
    bench.service.events["c-1", "x"] = replace(bench.service.events["c-1", "k0"], transaction_id="x", code="foreign")
    assert totals(bench, start, start + DAY_MS) == {"compute": sum(range(250))}
    assert totals(bench, start, start + 249 * SECOND_MS) == {"compute": sum(range(249))}


@cases(
    ("properties", "total"),
    [({}, 300), ({"amount": "12 GB"}, 300), ({"amount": True}, 300), ({"amount": "2"}, 302), ({"amount": 1.75}, 302)],
)
def test_lago_totals_count_foreign_event_as_lago_does(properties: dict[str, object], total: int) -> None:
    """One event of another program, without the metric's property, stopped the comparison of its subscription."""
    bench = LagoBench()
    pushed(bench)
    bench.service.events["c-1", "x"] = replace(
        bench.service.events["c-1", PUSH.key], transaction_id="x", properties=properties
    )
    assert totals(bench, T0 - DAY_MS, T0) == {"compute": total}


@cases(
    ("key", "properties"),
    [(PUSH.key, {}), (PUSH.key, {"amount": "12 GB"}), (PUSH.key, {"amount": "1.75"}), (PUSH.key, {"amount": True}),
     (PUSH.key, None), ("x", None), ("x", [])],
)  # fmt: skip
def test_lago_totals_fail_at_unreadable_event(key: str, properties: Any) -> None:
    """An unreadable event of ours counted as 0, so reconcile reported a missing charge."""
    bench = LagoBench()
    pushed(bench)
    bench.service.events["c-1", key] = replace(
        bench.service.events["c-1", PUSH.key], transaction_id=key, properties=properties
    )
    assert isinstance(totals(bench, T0 - DAY_MS, T0), ReadFailed)


def test_lago_event_of_absurd_quantity_fails_totals() -> None:
    bench = LagoBench()
    pushed(bench)
    bench.service.events["c-1", PUSH.key].properties["amount"] = "9" * 41
    assert isinstance(totals(bench, T0 - DAY_MS, T0), ReadFailed)


# Polar.


def test_polar_repeated_push_is_duplicate() -> None:
    bench = PolarBench()
    pushed(bench)
    assert pushed(bench) == Duplicate() and looked_up(bench) == FoundPush(300)


@cases("status", [401, 403, 404, 422])
def test_polar_oauth_error_of_a_gateway_proves_nothing(status: int) -> None:
    body = {"error": "access_denied", "error_description": "sign in first"}
    bench, foreign = PolarBench(), Answer(status, {}, json.dumps(body).encode())
    assert pushed(bench) == Accepted()
    with bench._wire.spoiled(instead(foreign)):
        assert state(bench) == ReadFailed(f"HTTP {status}")
    with bench._wire.spoiled(garbled(foreign)):
        (outcome,) = asyncio.run(bench.provider.push([replace(PUSH, key="usage:acme:2:compute")]))
    assert isinstance(outcome, Unknown), outcome


@cases(("status", "code"), [(401, "invalid_token"), (403, "insufficient_scope")])
def test_polar_refused_token_needs_a_person(status: int, code: str) -> None:
    bench, refused = PolarBench(), {"error": code, "error_description": "The access token is invalid"}
    with bench._wire.spoiled(instead(Answer(status, {}, json.dumps(refused).encode()))):
        outcome = pushed(bench)
    assert isinstance(outcome, RetryAt) and outcome.by_person, outcome


def test_polar_404_of_a_gateway_does_not_prove_absence() -> None:
    bench, foreign = PolarBench(), {"error": "Not Found", "detail": "no such route"}
    with bench._wire.spoiled(instead(Answer(404, {}, json.dumps(foreign).encode()))):
        assert isinstance(state(bench), ReadFailed)


@cases(
    "meter",
    [
        {"aggregation": {"func": "count"}},
        {"archived_at": "2026-01-01T00:00:00Z"},
        {"filter": {"conjunction": "and", "clauses": []}},
    ],
)
def test_polar_meter_of_other_aggregation_is_rejected_unsent(meter: dict[str, object]) -> None:
    bench = PolarBench()
    bench.service.meters.clear()
    bench.service.add_meter("compute", **meter)
    assert isinstance(pushed(bench), Rejected) and not bench.service.events


def test_polar_feature_with_two_meters_is_rejected() -> None:
    bench = PolarBench()
    bench.service.add_meter("compute", aggregation={"func": "sum", "property": "other"})
    outcome = pushed(bench)
    assert isinstance(outcome, Rejected) and "2 meters" in outcome.reason


def test_polar_balance_is_read_from_meter_and_absent_without_setting() -> None:
    bench = PolarBench()
    bench.service.customers["c-1"] = {"credits": {"compute": 100}}
    pushed(bench)
    assert state(bench) == CustomerState(-200 * MICRO, "prod_1", None, plans=frozenset({"prod_1"}))
    bench.service.customers["c-1"] = {"credits": {}}
    assert state(bench) == CustomerState(0, "prod_1", None, plans=frozenset({"prod_1"}))
    bench.meter = ""
    bench.provider = bench._with_key("kit_key_canary_0123456789")
    assert state(bench) == CustomerState(None, "prod_1", None, plans=frozenset({"prod_1"}))


def test_polar_balance_meter_that_does_not_exist_fails_read() -> None:
    bench = PolarBench()
    bench.service.customers["c-1"] = {"credits": {}}
    bench.meter = "meter-computer"
    bench.provider = bench._with_key("kit_key_canary_0123456789")
    said = "DRAWDOWN_POLAR_BALANCE_METER is meter-computer, but Polar does not have a meter with this id"
    assert state(bench) == ReadFailed(f"{NEEDS_YOU}{said}. Set it to the id of a meter")
    lines = asyncio.run(bench.provider.check(["compute"], ["c-1"]))
    assert lines == [f"c-1: {said}. Set it to the id of a meter"]


def test_polar_totals_read_all_pages_and_exclude_range_end() -> None:
    bench = PolarBench()
    start = T0 - 2 * DAY_MS
    for number in range(250):
        pushed(bench, replace(PUSH, key=f"k{number}", ts=start + number * SECOND_MS, quantity=number))
    assert totals(bench, start, start + DAY_MS) == {"compute": sum(range(250))}
    assert totals(bench, start, start + 249 * SECOND_MS) == {"compute": sum(range(249))}


@cases(
    ("metadata", "total"),
    [({}, 300), ({"units": "2"}, 300), ({"units": True}, 300), ({"units": 2}, 302), ({"units": 1.75}, 302)],
)
def test_polar_totals_count_foreign_event_as_polar_does(metadata: dict[str, object], total: int) -> None:
    """One event of another program, without the meter's property, stopped the comparison of its customer."""
    bench = PolarBench()
    pushed(bench)
    bench.service.events["x"] = {**bench.service.events[PUSH.key], "external_id": "x", "metadata": metadata}
    assert totals(bench, T0 - DAY_MS, T0) == {"compute": total}


@cases(
    "metadata",
    [{polar.KEY: PUSH.key, **amount} for amount in ({}, {"units": "2 GB"}, {"units": 1.75}, {"units": True})]
    + [None, []],
)
def test_polar_totals_fail_at_unreadable_event(metadata: Any) -> None:
    """An unreadable event of ours counted as 0, so reconcile reported a missing charge."""
    bench = PolarBench()
    pushed(bench)
    bench.service.events[PUSH.key]["metadata"] = metadata
    assert isinstance(totals(bench, T0 - DAY_MS, T0), ReadFailed)


def test_polar_usage_ahead_of_clock_is_retried_later() -> None:
    bench = PolarBench()
    outcome = pushed(bench, replace(PUSH, ts=T0 + DAY_MS))
    assert isinstance(outcome, RetryAt) and outcome.at_ms <= bench.clock.now_ms() + 15 * MINUTE_MS


# OpenMeter.


@cases(("units", "total"), [("2", 302), ("1.75", 302), ("0.25", 300)])
def test_openmeter_totals_round_fractions_of_foreign_events(units: str, total: int) -> None:
    """One event of another program with a fraction stopped the comparison of its customer."""
    bench = OpenMeterBench()
    pushed(bench)
    bench.service.events.append({**bench.service.events[0], "id": "x", "source": "other", "data": {"units": units}})
    assert totals(bench, T0 - DAY_MS, T0) == {"compute": total}


def test_openmeter_accepted_push_is_queued_until_found() -> None:
    bench = OpenMeterBench()
    outcome = pushed(bench)
    assert outcome == Queued(bench.clock.now_ms() + openmeter.CONFIRM_MS)
    assert looked_up(bench) == FoundPush(300) and looked_up(bench, replace(PUSH, key="never")) == Absent()
    assert bench.provider.capabilities.applied_within_ms is None, "an event may wait in the queue for any time"


def test_openmeter_lookup_of_duplicate_or_foreign_event_cannot_tell() -> None:
    bench = OpenMeterBench()
    pushed(bench)
    bench.service.events.append(bench.service.events[0])  # a server without deduplication
    found = looked_up(bench)
    assert isinstance(found, CannotTell) and found.may_have
    del bench.service.events[1]
    bench.service.events[0]["subject"] = "c-9"
    found = looked_up(bench)
    assert isinstance(found, CannotTell) and found.may_have


def test_openmeter_balance_counts_overage_and_missing_entitlement() -> None:
    bench = OpenMeterBench()
    bench.service.grants["c-1", "compute"] = 1_000
    pushed(bench)
    assert state(bench) == CustomerState(700 * MICRO, None, None)
    pushed(bench, replace(PUSH, key="more", quantity=900))
    assert state(bench) == CustomerState(-200 * MICRO, None, None)
    bench.service.grants.clear()
    assert state(bench) == CustomerState(0, None, None), "without the entitlement there is nothing to spend"
    assert state(bench, "c-other") == NoCustomer(), "usage of this subject is not the customer's"


def test_openmeter_customer_with_soft_limit_is_not_halted() -> None:
    """Its balance also fell below zero by usage that OpenMeter had not counted yet."""
    bench = OpenMeterBench()
    bench.service.grants["c-1", "compute"] = 100
    bench.service.soft_limits.add(("c-1", "compute"))
    assert state(bench) == CustomerState(None, None, None)
    pushed(bench)
    assert state(bench) == CustomerState(None, None, None)
    bench.service.soft_limits.clear()
    bench.advance(2 * MINUTE_MS)
    assert state(bench) == CustomerState(-200 * MICRO, None, None)


def test_openmeter_balance_feature_that_does_not_exist_fails_read() -> None:
    bench = OpenMeterBench()
    settings = {"api_key": KEY, "dedupe_h": "24", "balance_feature": "computer"}
    bench.provider = openmeter.build(bench._setup("openmeter", settings))
    said = "DRAWDOWN_OPENMETER_BALANCE_FEATURE names computer, but OpenMeter does not have a feature with this key"
    assert state(bench) == ReadFailed(f"{NEEDS_YOU}{said}. Set it to a feature's key")


@cases("meter", [{"aggregation": "MAX"}, {"valueProperty": None}, {"valueProperty": "$.a[0].b"}])
def test_openmeter_meter_of_other_aggregation_is_rejected_unsent(meter: dict[str, object]) -> None:
    bench = OpenMeterBench()
    bench.service.add_meter("compute", **meter)
    assert isinstance(pushed(bench), Rejected) and not bench.service.events


def test_openmeter_without_deduplication_setting_is_dormant() -> None:
    bench = OpenMeterBench()
    provider = openmeter.build(bench._setup("openmeter", {"api_key": "openmeter_key"}))
    assert provider.dormant == "DRAWDOWN_OPENMETER_DEDUPE_H is not set"
    for hours in ("0", "soon", "1.5", "99999"):
        with pytest.raises(UsageError, match="DRAWDOWN_OPENMETER_DEDUPE_H") as refused:
            openmeter.build(bench._setup("openmeter", {"api_key": "openmeter_key", "dedupe_h": hours}))
        assert "soon" not in str(refused.value), "a secret could stand there by mistake"


# All.


@cases("module", [lago, polar, openmeter])
def test_kit_provider_refuses_invalid_setting_by_name(module: object) -> None:
    name = str(module.__name__).rpartition(".")[2]  # type: ignore[attr-defined]
    bench = LagoBench()
    for wrong in ({"sekret": "x"}, {"url": "https://user@host/"}, {"url": "ftp://host"}):
        with pytest.raises(UsageError, match=f"DRAWDOWN_{name.upper()}_{next(iter(wrong)).upper()}"):
            module.build(bench._setup(name, wrong))  # type: ignore[attr-defined]


def test_provider_entry_points_name_callable_builders() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = project["entry-points"]["drawdown.providers"]
    assert {"autumn", "embedded", "lago", "openmeter", "polar", "stripe"} == set(named)
    for place in named.values():
        module, _, builder = place.partition(":")
        assert callable(getattr(importlib.import_module(module), builder))
