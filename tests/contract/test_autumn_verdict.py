"""What a customer of Autumn can still spend: our verdict is the recorded answer of Autumn's own `check`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from drawdown.providers.protocol import CustomerState, Drawn, Part, ReadFailed
from drawdown.schema.units import MICRO
from tests.cases import cases
from tests.contract.autumn_credits import CALLS, FEATURES, O, account, needs_recording
from tests.contract.autumn_setup import NOW_MS, Stub, done, made, no, said, stubbed

Body = dict[str, Any]
CREDITS = {f"compute_{size}gb": Decimal(size) / 10_000 for size in (1, 2, 4, 8, 16, 32, 64)} | {"credits": Decimal(1)}


def state(body: object, features: object = FEATURES, **settings: str) -> CustomerState:
    found = done(stubbed(account(said(200, body), features), **settings).customers(["cus_1"]))["cus_1"]
    assert isinstance(found, CustomerState), found
    return found


def customer(balances: Mapping[str, object], controls: object = None, **more: object) -> Body:
    body: Body = {"id": "cus_1", "subscriptions": [], "balances": balances, **more}
    return body if controls is None else body | {"billing_controls": controls}


def balance(remaining: object = 10, granted: object = 10, usage: object = 0, **more: object) -> Body:
    shown = {"granted": granted, "remaining": remaining, "usage": usage, "unlimited": False, "overage_allowed": False}
    return shown | {"breakdown": [part("g-1", granted, usage=usage)]} | more


def part(name: str, granted: object = 10, **more: object) -> Body:
    return {**O, "id": name, "included_grant": granted, "remaining": granted, "usage": 0, **more}


# Rules

OVERAGE = {"overage_allowed": [{"feature_id": "credits", "enabled": True}]}


def spend(limit: object, **more: object) -> Body:
    return {"spend_limits": [{"feature_id": "credits", "enabled": True, "overage_limit": limit, **more}]}


def usage(limit: object, used: object, feature: str = "credits", **more: object) -> Body:
    entry = {"feature_id": feature, "enabled": True, "limit": limit, "interval": "month", "usage": used, **more}
    return {"usage_limits": [entry]}


@cases(
    ("shown", "controls", "credits"),
    [
        (balance(0, 10, 12), {}, 0),
        (balance(0, 10, 12), OVERAGE, None),
        (balance(0, 10, 12), OVERAGE | spend(5), 3),
        (balance(0, 10, 12), OVERAGE | spend(2), 0),
        (balance(0, 10, 12), OVERAGE | spend(1), 0),  # it was lowered: no debt
        (balance(0, 10, 12), spend(5), 0),  # `check` wants overage, too
        (balance(0, 10, 12), {"overage_allowed": [{"feature_id": "credits", "enabled": False}]}, 0),
        (balance(0, 10, 12), OVERAGE | spend(5, enabled=False), None),
        (balance(0, 10, 12), OVERAGE | {"spend_limits": [{"feature_id": "credits", "overage_limit": 5}]}, None),
        (balance(0, 10, 12), OVERAGE | spend(None), None),
        (balance(0, 10, 12, overage_allowed=True), spend(5), 3),
        (balance(0, 10, 12, overage_allowed=True, max_purchase=4), {}, 2),
        (balance(0, 10, 12, overage_allowed=True), {}, None),
        (balance(0, 10, 12, unlimited=True), {}, None),
        (balance(0, 10, 12, unlimited=True), usage(20, 12), 8),
        (balance(8, 10, 2), usage(5, 2), 3),
        (balance(8, 10, 2), usage(5, 7), 0),
        (balance(8, 10, 2), usage(500, 2), 8),
        (balance(8, 10, 2), usage(5, 7, enabled=False), 8),
        (balance(8, 10, 2), usage(5, 7, filter={"properties": {"api_key": "k1"}}), 8),
        (balance(8, 10, 2), {"usage_alerts": [{"feature_id": "credits"}], "auto_topups": [{}], "new": [1]}, 8),
        (balance(8, 10, 2), None, 8),
        (balance(0.0000001, 10, 2), {}, Decimal("0.000001")),
    ],
)
def test_spendable_balance_counts_overage_and_limits_as_autumn(
    shown: Body, controls: object, credits: int | None
) -> None:
    found = state(customer({"credits": shown}, controls))
    assert found.balance_micro == (None if credits is None else int(credits * MICRO))


def test_overage_without_balance_is_zero_balance() -> None:
    assert state(customer({}, OVERAGE)).balance_micro == 0


@cases(
    "controls",
    [
        7, {"usage_limits": {}}, {"usage_limits": [7]}, usage("5", 1), usage(5, None), usage(5, 1, enabled="yes"),
        usage(5, 1, feature=""), usage(5, 1, filter="all"), OVERAGE | spend("5"),
        OVERAGE | spend(120, limit_type="usage_percentage"), {"overage_allowed": [{"enabled": True}]},
        {"spend_limits": "none"},
    ],
)  # fmt: skip
def test_unreadable_control_fails_read(controls: object) -> None:
    answer = account(said(200, customer({"credits": balance()}, controls)))
    assert isinstance(done(stubbed(answer).customers(["cus_1"]))["cus_1"], ReadFailed)


@cases(
    "field",
    [
        {"max_purchase": "5"}, {"max_purchase": {}}, {"max_purchase": 10**19}, {"max_purchase": False},
        {"remaining": "8", "current_balance": 8}, {"granted": {}, "granted_balance": 10}, {"usage": 10**19},
        {"unlimited": "no"}, {"overage_allowed": 1},
    ],
)  # fmt: skip
def test_unreadable_balance_field_fails_read(field: Body) -> None:
    shown = balance(0, 10, 12, overage_allowed=True, max_purchase=4) | field
    answer = account(said(200, customer({"credits": shown})))
    assert isinstance(done(stubbed(answer).customers(["cus_1"]))["cus_1"], ReadFailed)


@cases(
    "absent", [balance(0, 10, 12, overage_allowed=True), balance(0, 10, 12, overage_allowed=True, max_purchase=None)]
)
def test_absent_max_purchase_is_no_limit(absent: Body) -> None:
    assert state(customer({"credits": absent})).balance_micro is None


def test_usage_limit_on_metered_feature_refuses_that_feature_only() -> None:
    found = state(customer({"credits": balance()}, usage(600, 600, "compute_64gb")))
    assert (found.refused, found.balance_micro) == (frozenset({"compute_64gb"}), 10 * MICRO)
    assert state(customer({"credits": balance()}, usage(600, 599, "compute_64gb"))).refused == frozenset()
    filtered = usage(600, 700, "compute_64gb", filter={"properties": {"api_key": "k1"}})
    assert state(customer({"credits": balance()}, filtered)).refused == frozenset()


def test_usage_limits_leave_units_by_metered_feature() -> None:
    limits = [
        *usage(600, 500, "compute_64gb")["usage_limits"], *usage(9, 1.5, "compute_64gb")["usage_limits"],
        *usage(600, 700, "compute_4gb")["usage_limits"], *usage(5, 1)["usage_limits"],
        *usage(600, 500, "compute_8gb", filter={"properties": {"api_key": "k1"}})["usage_limits"],
    ]  # fmt: skip
    found = state(customer({"credits": balance()}, {"usage_limits": limits}))
    assert found.feature_limits == {"compute_64gb": 7, "compute_4gb": 0}, "that of the credits is in the balance"


def test_own_feature_balance_counts_at_its_cost_for_that_feature_only() -> None:
    own = balance(100, 100)
    assert state(customer({"credits": balance(), "compute_8gb": own})).balance_micro == 10_080_000
    found = state(customer({"credits": balance(0), "compute_8gb": own}))
    assert found.balance_micro == 80_000 and found.refused == CREDITS.keys() - {"credits", "compute_8gb"}
    ended = state(customer({"credits": balance(0), "compute_8gb": balance(0)}))
    assert (ended.balance_micro, ended.refused) == (0, frozenset())
    assert state(customer({"compute_8gb": own})).balance_micro == 80_000
    assert state(customer({"compute_8gb": balance(unlimited=True)})).balance_micro is None
    limited = state(customer({"credits": balance(), "compute_8gb": own}, usage(10, 10)))
    assert limited.balance_micro == 80_000 and "compute_64gb" in limited.refused


def test_own_feature_balance_without_cost_is_not_zero() -> None:
    features: Any = json.loads(json.dumps(FEATURES))
    features["list"][-1]["credit_schema"][3]["credit_cost"] = 0
    assert state(customer({"compute_8gb": balance(100)}), features).balance_micro == 1


def test_balance_feature_setting_overrides_single_credit_system() -> None:
    balances = {"gpu_seconds": balance(500)}
    assert state(customer(balances)).balance_micro == 0
    assert state(customer(balances), balance_feature="gpu_seconds").balance_micro == 500 * MICRO
    archived: Any = json.loads(json.dumps(FEATURES))
    archived["list"][-1]["archived"] = True
    assert state(customer(balances), archived).balance_micro == 500 * MICRO


def test_balances_of_several_units_report_largest_not_sum() -> None:
    """Two credit systems and a feature of its own: the largest, so that it is zero only once all are."""
    two: Any = json.loads(json.dumps(FEATURES))
    schema = two["list"][-1]["credit_schema"]
    two["list"].append({**two["list"][-1], "id": "gold", "credit_schema": schema[4:]})
    two["list"][-2]["credit_schema"] = schema[:4]
    balances = {"credits": balance(0), "gold": balance(5), "gpu_seconds": balance(7)}
    found = state(customer(balances), two)
    assert found.balance_micro == 7 * MICRO
    assert found.refused == {f"compute_{size}gb" for size in (1, 2, 4, 8)}
    found = state(customer({**balances, "gpu_seconds": balance(0)}), two)
    assert found.balance_micro == 5 * MICRO and "gpu_seconds" in found.refused
    ended = {name: balance(0) for name in balances}
    assert state(customer(ended), two) == CustomerState(0, None, None, parts=tuple(parts_of(ended)))
    assert state(customer({**ended, "gold": balance(unlimited=True)}), two).balance_micro is None


def parts_of(balances: Mapping[str, Body]) -> list[Part]:
    return [Part(name, "g-1", Decimal(10)) for name in balances]


# Parts that were granted once


def test_balance_parts_granted_once_or_by_plan_are_reported() -> None:
    parts = [
        part("once", 20), part("bought", 0, prepaid_grant=7), part("ends", 5, expires_at=NOW_MS),
        part("plan", plan_id="p"),
        part("monthly", reset={"interval": "month", "resets_at": NOW_MS}), part("nothing", 0), part("odd", "many"),
        {"plan_id": None, "included_grant": 4}, part("free", 3, reset=None),
    ]  # fmt: skip
    found = state(customer({"credits": balance(breakdown=parts)}))
    assert found.parts == (
        Part("credits", "once", Decimal(20)), Part("credits", "bought", Decimal(7)),
        Part("credits", "ends", Decimal(5), NOW_MS, used=Decimal(0)),
        Part("credits", "plan", Decimal(10), plan="p", used=Decimal(0)),
        Part("credits", "free", Decimal(3)),
    )  # fmt: skip


# What was drawn


def drawn(body: object, features: object = FEATURES) -> object:
    return done(stubbed(account(said(200, body), features)).drawn("cus_1"))


def test_drawn_of_credit_system_is_in_credits_with_own_feature_usage() -> None:
    found = drawn(
        customer({"credits": balance(usage=0.12), "compute_8gb": balance(usage=100), "gpu": balance(usage=7)})
    )
    assert found == {
        "credits": Drawn(
            Decimal("0.12"),
            None,
            parts=(Part("credits", "g-1", Decimal(10)), Part("compute_8gb", "g-1", Decimal(10))),
            own={"compute_8gb": Decimal(100)},
        ),
        "gpu": Drawn(7, None, True, (Part("gpu", "g-1", Decimal(10)),)),
    }


def test_drawn_of_credit_system_without_balance_is_zero() -> None:
    assert drawn(customer({})) == {"credits": Drawn(Decimal(0), None)}
    assert drawn(customer({}), {"list": []}) == {}


def test_drawn_of_credit_system_uses_newest_cycle_of_its_parts() -> None:
    monthly = part("plan", usage=5, reset={"interval": "month", "resets_at": 1798391971994})
    body = customer({"credits": balance(usage=5, breakdown=[monthly]), "compute_8gb": balance(usage=0)})
    found = drawn(body)
    assert isinstance(found, dict) and found["credits"].since_ms == 1795799971994 and found["credits"].whole
    body["balances"]["compute_8gb"] = balance(usage=3)
    found = drawn(body)
    assert isinstance(found, dict) and not found["credits"].whole
    body["balances"]["compute_8gb"] = balance(breakdown=[part("x", reset={"interval": "fortnight", "resets_at": 1})])
    assert drawn(body) == {}, "its cycle cannot be told, so that the pool is left out"


def test_drawn_with_unreadable_cost_is_omitted_and_without_list_fails_read() -> None:
    odd: Any = json.loads(json.dumps(FEATURES))
    odd["list"][-1]["credit_schema"][3]["credit_cost"] = "much"
    assert drawn(customer({"credits": balance(), "compute_8gb": balance(usage=1)}), odd) == {}
    assert isinstance(drawn(customer({"credits": balance()}), no(503, "service_unavailable")), ReadFailed)


@cases(
    ("name", "credits"),
    [("C5", "1205"), ("C7", "3.2"), ("C10", "0.12"), ("C27", "-3.8"), ("B13", "0"), ("B2-13", "0"), ("D14", "0.1604")],
)
@pytest.mark.data
@needs_recording[1]
def test_drawn_of_recorded_balances_is_exact(name: str, credits: str) -> None:
    found = drawn({**CALLS[name].body, "id": "cus_1"})
    assert isinstance(found, dict) and found["credits"].quantity == Decimal(credits)


def test_features_list_is_read_once_for_many_customers() -> None:
    http = Stub(account(said(200, customer({"credits": balance()}))))
    autumn = made(http)
    for _ in range(5):
        done(autumn.customers(["cus_1"]))
        done(autumn.drawn("cus_1"))
    assert sum(call.url.endswith("features.list") for call in http.sent) == 1
