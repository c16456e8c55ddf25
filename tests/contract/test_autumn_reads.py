"""What the Autumn provider reads back: customers, lookups, totals, what was drawn, and a check of the account."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from drawdown.providers.autumn.credits import LIST_AGAIN_MS
from drawdown.providers.autumn.customers import MAX_MICRO, cycle_starts_ms
from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.protocol import CustomerState, Drawn, Lasting, NoCustomer, ReadFailed
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import DAY_MS
from tests.cases import cases
from tests.contract.autumn_setup import NOW_MS, PLAN_PARTS, WINDOW, Stub, World, done, made, no, push, said, stubbed

Body = dict[str, object]
FEATURES = {
    "list": [
        {"id": "compute", "type": "metered", "consumable": True, "archived": False},
        {"id": "seats", "type": "metered", "consumable": False, "archived": False},
        {"id": "tokens", "type": "metered", "consumable": True, "archived": False},
    ]
}
"""An account without a credit system. `test_autumn_verdict.py` has one."""


def balance(remaining: object = 93, granted: object = 100, **more: object) -> Body:
    return {"remaining": remaining, "granted": granted, "usage": 7, "unlimited": False, "overage_allowed": False} | more


def subscription(plan: str, status: str = "active", *, add_on: bool = False) -> Body:
    return {"plan_id": plan, "status": status, "add_on": add_on}


def customer(balances: object, *subscriptions: Body) -> Body:
    return {"id": "cus_1", "subscriptions": list(subscriptions), "balances": balances}


def account(body: object, features: object = None) -> Callable[[Call], HttpResult]:
    """Answers the question for features, and everything else with one body."""
    return lambda call: said(200, (features or FEATURES) if call.url.endswith("features.list") else body)


def state(body: object, **settings: str) -> object:
    return done(stubbed(account(body), **settings).customers(["cus_1"]))["cus_1"]


# Customers


def test_customer_of_emulator_is_read_with_plan_and_remaining_balance() -> None:
    world = World()
    world.push(push(30))
    assert done(world.provider.customers(["cus_1", "nobody"])) == {
        "cus_1": CustomerState(70_000_000, "starter", 3, parts=PLAN_PARTS, plans=frozenset({"starter"})),
        "nobody": NoCustomer(),
    }
    world.push(push(90, key="more"))
    assert done(world.provider.customers(["cus_1"])) == {
        "cus_1": CustomerState(0, "starter", 3, parts=PLAN_PARTS, plans=frozenset({"starter"}))
    }


def test_customer_balance_of_older_shape_is_read() -> None:
    older = {
        "current_balance": 12.5, "granted_balance": 100, "usage": 87.5, "unlimited": False, "overage_allowed": False,
        "reset": {"interval": "month", "resets_at": NOW_MS},
    }  # fmt: skip
    assert state(customer({"compute": older}, subscription("pro"))) == CustomerState(
        12_500_000, "pro", None, plans=frozenset({"pro"})
    )


@cases(
    ("balances", "micro"),
    [
        ({"compute": balance(0.000001)}, 1),
        ({"compute": balance(99.876543211)}, 99_876_543),
        ({"compute": balance(0)}, 0),
        ({"compute": balance(-3)}, -3_000_000),
        ({"compute": balance(10**15)}, MAX_MICRO),
        ({"compute": balance(unlimited=True)}, None),
        ({"compute": balance(0, overage_allowed=True)}, None),
        ({"compute": balance(0), "tokens": balance(5)}, 5_000_000),
        ({"compute": balance(0), "tokens": balance(0)}, 0),
        ({"compute": balance(0), "seats": balance(3)}, 0),
        ({"compute": balance(0), "concurrency": balance(3)}, 0),
        ({"compute": balance(0), "unheard_of": balance(3)}, 3_000_000),
        ({}, 0),
    ],
)
def test_customer_balance_is_sum_of_consumable_features(balances: Body, micro: int | None) -> None:
    found = state(customer(balances))
    assert isinstance(found, CustomerState) and found.balance_micro == micro


def test_balance_feature_setting_decides_balance_alone() -> None:
    balances = {"compute": balance(9), "tokens": balance(0)}
    for feature, micro in (("compute", 9_000_000), ("tokens", 0)):
        found = state(customer(balances), balance_feature=feature)
        assert isinstance(found, CustomerState) and found.balance_micro == micro


@cases("feature", ["missing", "seats"])
def test_balance_feature_that_is_not_consumable_fails_read(feature: str) -> None:
    balances = {"compute": balance(9), "seats": balance(0)}
    assert state(customer(balances), balance_feature=feature) == ReadFailed(
        f"{NEEDS_YOU}DRAWDOWN_AUTUMN_BALANCE_FEATURE names {feature}, which is not a consumable feature at Autumn. "
        "Set it to a feature or a credit system of this account"
    )


def test_balance_feature_created_later_is_found_after_reread() -> None:
    world = World(settings={"balance_feature": "gold"})
    assert isinstance(done(world.provider.customers(["cus_1"]))["cus_1"], ReadFailed)
    world.emulator.account.add_feature("gold")
    world.clock.at_ms += LIST_AGAIN_MS
    found = done(world.provider.customers(["cus_1"]))["cus_1"]
    assert isinstance(found, CustomerState) and found.balance_micro == 0


def test_features_list_is_read_once_for_three_customer_reads() -> None:
    http = Stub(account(customer({"compute": balance()})))
    provider = made(http)
    for _ in range(3):
        done(provider.customers(["cus_1"]))
    assert [one.url.rpartition("/")[2] for one in http.sent].count("features.list") == 1


@cases(
    ("subscriptions", "plan", "most"),
    [
        ([subscription("free")], "free", 2),
        ([subscription("extra", add_on=True), subscription("free")], "free", 2),
        ([subscription("free"), subscription("pro")], "free", 20),
        ([subscription("pro", "scheduled"), subscription("free")], "free", 2),
        ([subscription("pro", "expired")], None, 5),
        ([subscription("gold", "trialing")], "gold", 5),
        ([], None, 5),
    ],
)
def test_concurrency_is_highest_of_active_plans_or_granted_amount(
    subscriptions: list[Body], plan: str | None, most: int
) -> None:
    body = customer({"compute": balance(), "concurrency": balance(1, granted=5)}, *subscriptions)
    found = state(body, plans="free=2, pro=20")
    assert isinstance(found, CustomerState)
    assert (found.balance_micro, found.plan, found.max_concurrent) == (93_000_000, plan, most)


def test_concurrency_without_balance_or_unlimited_is_unlimited() -> None:
    for balances in ({"compute": balance()}, {"compute": balance(), "concurrency": balance(unlimited=True)}):
        assert state(customer(balances)) == CustomerState(93_000_000, None, None)
    assert state(customer({"compute": balance(), "seats": balance()}), concurrency_feature="seats") == CustomerState(
        93_000_000, None, 100
    )


@cases(
    "body",
    [
        {"id": "cus_1", "subscriptions": []},
        customer(None),
        customer([]),
        customer("many"),
        customer({"compute": None}),
        customer({"compute": balance(None)}),
        customer({"compute": balance("93")}),
        customer({"compute": balance(True)}),
        customer({"compute": {"granted": 1, "usage": 0}}),
        {"balances": {}, "subscriptions": None},
        {"balances": {}},
        [],
        None,
        "<html>",
        b"",
    ],
)
def test_unreadable_balance_fails_read(body: object) -> None:
    assert isinstance(state(body), ReadFailed)


FAILURES: list[HttpResult] = [
    no(503, "service_unavailable"), no(500, "internal_error"), said(429, "Too many"), said(502, "<html>"),
    said(302, ""), no(401, "invalid_secret_key", "Invalid secret key: am_sk_test_wron**"), no(401, "no_auth_header"),
    no(400, "invalid_api_version"), said(202, {}), NoAnswer("timed out"), NotSent("refused"), said(404, "<html>"),
]  # fmt: skip


@cases("answer", FAILURES)
def test_failed_reads_are_reported_without_secret(answer: HttpResult) -> None:
    provider = stubbed(answer)
    results = [
        done(provider.customers(["cus_1"]))["cus_1"],
        done(provider.lookup(push())),
        done(provider.totals("cus_1", WINDOW, WINDOW + 1)),
        done(provider.drawn("cus_1")),
    ]
    turned_away = isinstance(answer, Answer) and answer.status == 429
    assert [isinstance(one, ReadFailed) and one.too_many for one in results] == [turned_away] * len(results)
    assert all(isinstance(one, ReadFailed) for one in results)
    lines = done(provider.check(["compute"], ["cus_1"]))
    assert len(lines) == 1
    assert "am_sk" not in repr((results, lines, provider._settings))


def test_customer_id_invalid_at_autumn_is_not_found_and_not_looked_up() -> None:
    http = Stub(NoAnswer("must not be asked"))
    assert done(made(http).customers(["org 1"])) == {"org 1": NoCustomer()}
    assert http.sent == []


# What was drawn


def test_drawn_reports_usage_since_cycle_start() -> None:
    world = World()
    world.push(push(30))
    began = WINDOW - 1_000
    lasting = Lasting(Decimal(0), Decimal(0), Decimal(70), WINDOW - 1_000 + 30 * DAY_MS)
    expected = Drawn(30, began, parts=PLAN_PARTS, lasting=lasting, plans=frozenset({"starter"}), is_first=True)
    assert done(world.provider.drawn("cus_1")) == {"compute": expected}


def part(interval: str | None, resets_at: int | None = NOW_MS, **more: object) -> Body:
    return {"reset": None if interval is None else {"interval": interval, "resets_at": resets_at, **more}}


@cases(
    ("parts", "expected"),
    [
        ([part(None)], Drawn(7, None)),
        ([part("one_off", None)], Drawn(7, None)),
        ([part("day")], Drawn(7, NOW_MS - DAY_MS)),
        ([part("week", interval_count=2)], Drawn(7, NOW_MS - 14 * DAY_MS)),
        ([part("day"), part("day")], Drawn(7, NOW_MS - DAY_MS)),
        # Of the older part it cannot be told what was drawn before the newer one's cycle, unless nothing ever was.
        ([part("day"), part("day", NOW_MS + 1)], Drawn(7, NOW_MS + 1 - DAY_MS, whole=False)),
        ([part("day"), part("one_off", None)], Drawn(7, NOW_MS - DAY_MS, whole=False)),
        ([part("day"), {**part("one_off", None), "usage": 3}], Drawn(7, NOW_MS - DAY_MS, whole=False)),
        ([part("day"), {**part("one_off", None), "usage": 0}], Drawn(7, NOW_MS - DAY_MS)),
        ([part("day"), part("fortnight")], None),
        ([part("fortnight")], None),
        ([part("day", None)], None),
        ([part("day", interval_count=0)], None),
        ([{"reset": "monthly"}], None),
    ],
)
def test_drawn_omits_feature_with_unreadable_cycle(parts: list[Body], expected: Drawn | None) -> None:
    body = customer({"compute": balance(breakdown=parts), "concurrency": balance(breakdown=[part(None)])})
    assert done(stubbed(account(body)).drawn("cus_1")) == ({} if expected is None else {"compute": expected})


def lasting_part(interval: str, usage: float, remaining: float, **more: object) -> Body:
    return {**part(interval, None if interval == "one_off" else NOW_MS), "usage": usage, "remaining": remaining, **more}


@cases(
    ("parts", "expected"),
    [
        ([lasting_part("day", 7, 3), lasting_part("one_off", 2, 8)], ("2", "8", "3")),
        ([lasting_part("day", 7, 3), lasting_part("day", 1, 0.5)], ("0", "0", "3.5")),
        # Whether a part that expires is drawn on before those of a cycle is untold, and so is the order of two cycles.
        ([lasting_part("day", 7, 3), lasting_part("one_off", 2, 8, expires_at=NOW_MS)], None),
        ([lasting_part("day", 7, 3), lasting_part("week", 1, 0)], None),
        ([lasting_part("day", 7, 3), lasting_part("one_off", 2, 8, unlimited=True)], None),
        ([lasting_part("day", 7, 3), {**part("one_off", None), "usage": 3}], None),
        ([lasting_part("one_off", 2, 8)], None),
    ],
)
def test_drawn_lasting_credit_is_reported_if_draw_order_is_known(
    parts: list[Body], expected: tuple[str, str, str] | None
) -> None:
    found = done(stubbed(account(customer({"compute": balance(breakdown=parts)}))).drawn("cus_1"))
    assert not isinstance(found, ReadFailed)
    figures = None if expected is None else [Decimal(one) for one in expected]
    lasting = None if figures is None else Lasting(figures[0], figures[1], figures[2], NOW_MS)
    assert found["compute"].lasting == lasting


@cases(
    ("interval", "ends", "began"),
    [
        ("month", "2026-12-20", "2026-11-20"), ("month", "2026-01-15", "2025-12-15"),
        ("month", "2026-03-31", "2026-02-28"),
        ("month", "2026-02-28", "2026-01-28 2026-01-29 2026-01-30 2026-01-31"),
        ("month", "2026-11-30", "2026-10-30 2026-10-31"),
        ("month", "2026-12-31", "2026-11-30"),
        ("quarter", "2026-02-10", "2025-11-10"), ("semi_annual", "2026-02-10", "2025-08-10"),
        ("year", "2024-02-29", "2023-02-28"), ("year", "2025-02-28", "2024-02-28 2024-02-29"),
        ("year", "2026-07-01", "2025-07-01"),
        ("hour", "2026-07-01", "2026-06-30T23"), ("century", "2026-07-01", ""),
    ],
)  # fmt: skip
def test_cycle_starts_follow_calendar_months(interval: str, ends: str, began: str) -> None:
    """Several beginnings where the calendar does not say: a cycle from 29 January ends as one from the 31st."""
    assert cycle_starts_ms(interval, 1, _at(ends)) == [_at(day) for day in began.split()]


def _at(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1000 + 101


@cases(
    ("subscription", "began"),
    [
        ({"started_at": _at("2026-01-30"), "current_period_start": None}, ("2026-01-30", None)),
        ({"started_at": _at("2025-12-30"), "current_period_start": None}, ("2026-01-30", None)),
        # Whether the cycle after 30 November began on 31 December was not recorded.
        ({"started_at": _at("2025-10-31"), "current_period_start": None}, ("2026-01-31", "2026-01-30")),
        ({"started_at": _at("2025-10-31"), "current_period_start": _at("2026-01-31")}, ("2026-01-31", None)),
        ({"started_at": _at("2026-01-12"), "current_period_start": None}, ("2026-01-31", "2026-01-28")),
        ({"started_at": _at("2026-01-30"), "plan_id": "another"}, ("2026-01-31", "2026-01-28")),
        ({"started_at": _at("2026-01-30"), "status": "expired"}, ("2026-01-31", "2026-01-28")),
        ({"started_at": "then"}, ("2026-01-31", "2026-01-28")),
        ({"started_at": -(10**18)}, ("2026-01-31", "2026-01-28")),
    ],
)
def test_cycle_start_after_short_month_follows_plan_start(subscription: Body, began: tuple[str, str | None]) -> None:
    plan = {"plan_id": "team", **part("month", _at("2026-02-28"))}
    body = customer({"compute": balance(breakdown=[plan])})
    body["subscriptions"] = [{"plan_id": "team", "status": "active", "add_on": False, **subscription}]
    found = done(stubbed(account(body)).drawn("cus_1"))
    assert not isinstance(found, ReadFailed)
    latest, earliest = (None if day is None else _at(day) for day in began)
    assert (found["compute"].since_ms, found["compute"].earliest_ms) == (latest, earliest)


def test_cycle_start_of_plan_with_too_many_cycles_ignores_plan_start() -> None:
    body = customer({"compute": balance(breakdown=[{"plan_id": "team", **part("month", _at("2199-02-28"))}])})
    plan = {"plan_id": "team", "status": "active", "add_on": False, "started_at": _at("1970-01-30")}
    body["subscriptions"] = [plan]
    found = done(stubbed(account(body)).drawn("cus_1"))
    assert not isinstance(found, ReadFailed)
    assert found["compute"].earliest_ms == _at("2199-01-28")


# The check of an account


def test_check_of_sound_account_is_clean() -> None:
    world = World()
    assert done(world.provider.check(["compute"], ["cus_1"])) == []


def test_check_of_unfit_features_and_customers_reports_each() -> None:
    world = World(settings={"balance_feature": "gold", "concurrency_feature": "compute"})
    world.emulator.account.add_customer("cus_2", NOW_MS)
    lines = "\n".join(done(world.provider.check(["compute", "nothing", "pro_flag", "concurrency"], ["cus_2", "cus_3"])))
    for words in (
        "feature nothing does not exist at Autumn", "feature pro_flag is boolean",
        "feature concurrency is not consumable",
        "DRAWDOWN_AUTUMN_BALANCE_FEATURE names gold", "DRAWDOWN_AUTUMN_CONCURRENCY_FEATURE names compute",
        "customer cus_2 does not have a balance of compute", "customer cus_2 does not have a balance of gold",
        "customer cus_3: ",
    ):  # fmt: skip
        assert words in lines
    assert (world.emulator.calls["check"], list(world.emulator.account.events)) == (0, []), "nothing is charged"


def test_check_with_balance_in_credit_system_is_clean() -> None:
    body = customer({"credits": balance()})
    assert done(stubbed(account(body, credits(compute=3))).check(["compute"], ["cus_1"])) == []


def credits(*more: Mapping[str, object], **costs: object) -> Body:
    """An account with a credit system over these features, and these features besides."""
    metered = [{"id": name, "type": "metered", "consumable": True} for name in costs]
    schema = [{"metered_feature_id": name, "credit_cost": cost} for name, cost in costs.items()]
    return {"list": [*metered, {"id": "credits", "type": "credit_system", "credit_schema": schema}, *more]}


def checked(features: Body, billed: list[str], controls: object = None) -> str:
    body = customer({"credits": balance()}) | ({} if controls is None else {"billing_controls": controls})
    return "\n".join(done(stubbed(account(body, features)).check(billed, ["cus_1"])))


def test_check_names_billed_feature_outside_deciding_credit_system() -> None:
    own = {"id": "tokens", "type": "metered", "consumable": True}
    said_so = "credit system credits alone decides about halts, but does not pay for tokens. Add each to it"
    assert said_so in checked(credits(own, compute=3), ["compute", "tokens"])
    assert said_so not in checked(credits(own, compute=3), ["compute"])
    assert "decides about halts" not in checked(credits(compute=3, tokens=2), ["compute", "tokens"])


def test_check_of_unusable_credit_costs_reports_each_feature() -> None:
    lines = checked(credits(compute=0, fine="1", small=1.5e-12, back=-2, good=0.0000000001), ["compute", "fine"])
    assert "feature compute costs 0 in credit system credits" in lines
    assert "feature fine does not have a readable cost in credit system credits" in lines
    assert "small" not in lines, "nothing is billed under that name"
    lines = checked(credits(small=1.5e-12, back=-2, good=0.0000000001), ["small", "back", "good"])
    assert "feature small costs 0.0000000000015" in lines and "10 decimals" in lines
    assert "feature back costs -2" in lines and "good" not in lines


def test_check_of_features_without_balance_reports_line_per_customer() -> None:
    alone = [{"id": name, "type": "metered", "consumable": True} for name in ("one", "two")]
    lines = checked(credits(*alone, compute=3), ["compute", "one", "two"])
    outside, without = lines.split("\n")
    assert outside.endswith("to another balance") and "does not pay for one, two." in outside
    assert without.startswith("customer cus_1 does not have a balance of one, two, so ")


def test_check_of_feature_in_two_credit_systems_or_seats_is_reported() -> None:
    gold = {"id": "gold", "type": "credit_system", "credit_schema": [{"metered_feature_id": "b", "credit_cost": 2}]}
    assert "feature b is in 2 credit systems at Autumn (credits, gold)" in checked(credits(gold, a=1, b=2), ["a", "b"])
    held: Body = {"id": "a", "type": "metered", "consumable": False}
    lines = checked(credits(held, a=1), ["a"])
    assert "feature a is held as seats at Autumn, and credit system credits charges for it" in lines


@cases(
    ("controls", "word"),
    [
        ({"new_kind": [{"feature_id": "credits"}]}, "billing controls of the kind new_kind"),
        ({"usage_limits": [{"feature_id": "credits", "limit": 1, "usage": 0, "interval": "fortnight"}]}, "fortnight"),
        (
            {"usage_limits": [{"feature_id": "a", "limit": 1, "usage": 0, "interval": "day", "filter": {"plan": "x"}}]},
            "a usage limit of a with a filter that is not of properties",
        ),
        ({"usage_limits": [{"feature_id": "a", "limit": "1", "usage": 0, "interval": "day"}]}, "limit of a lacks"),
        ({"spend_limits": [{"feature_id": "a", "enabled": True, "overage_limit": "x"}]}, "invalid overage_limit"),
        ({"overage_allowed": 7}, "invalid overage_allowed: expected a list"),
    ],
)  # fmt: skip
def test_check_of_controls_of_unknown_kind_or_shape_reports_customer(controls: object, word: str) -> None:
    lines = checked(credits(a=1), ["a"], controls)
    assert "customer cus_1" in lines and word in lines


@cases(
    "controls",
    [
        {}, {"usage_alerts": [{"feature_id": "a"}], "auto_topups": [{}]}, {"new_kind": []},
        {"usage_limits": [{"feature_id": "a", "limit": 1, "usage": 0, "interval": "day"}]},
        {"usage_limits": [{"feature_id": "a", "limit": 1, "usage": 0, "interval": "day",
                           "filter": {"properties": {"api_key": "k1"}}}]},
    ],
)  # fmt: skip
def test_check_of_valid_controls_is_clean(controls: object) -> None:
    assert checked(credits(a=1), ["a"], controls) == ""


def test_check_reads_each_customer_once_and_does_not_charge() -> None:
    http = Stub(account(customer({"credits": balance()}), credits(a=1, b=1, c=1)))
    done(made(http).check(["a", "b", "c"], ["cus_1", "cus_1"]))
    assert [call.url.rpartition("/")[2] for call in http.sent] == ["features.list", "track", "customers.get"]
    assert json.loads(http.sent[1].body)["value"] == "0", "no number: Autumn refuses it before anything else (recorded)"


@cases(
    ("answer", "word"),
    [
        (no(401, "invalid_secret_key"), "DRAWDOWN_AUTUMN_SECRET_KEY"),
        (no(401, "no_auth_header"), "DRAWDOWN_AUTUMN_URL"),
        (no(400, "invalid_api_version"), "API version 2.3.0"),
        (NotSent("connection refused"), "connection refused"),
    ],
)
def test_check_with_wrong_key_address_or_version_reports_setting(answer: HttpResult, word: str) -> None:
    (line,) = done(stubbed(answer).check(["compute"], []))
    assert word in line
    assert ". Check DRAWDOWN_AUTUMN_SECRET_KEY and the address in DRAWDOWN_AUTUMN_URL, then run `drawdown" in line
