"""What is read of Stripe: customers by the ledger's wallets, lookups, totals, and the check of a set-up."""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.ledger import accounts, entries, wallet
from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.protocol import Absent, Accepted, CannotTell, CustomerState, FoundPush, ReadFailed
from drawdown.providers.stripe import StripeProvider, build
from drawdown.schema.audit import By
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from tests.cases import cases
from tests.contract.stripe_setup import (
    NOW_MS,
    SECRET,
    WINDOW,
    Stub,
    World,
    done,
    error,
    one,
    push,
    said,
    setup,
    stubbed,
)

HOUR_MS = 60 * MINUTE_MS
RATE = (
    "INSERT INTO ledger_rates (feature, start_ms, micro_credits, at_ms, actor, reason) "
    "VALUES ('compute', 0, 1000, 0, 'a', 'r')"
)


def grant(engine: sa.Engine, customer_id: str, amount: int, key: str) -> None:
    def work(connection: sa.Connection) -> None:
        wallet.grant(connection, customer_id, amount, key=key, now_ms=NOW_MS, actor="a", reason="r")

    write(engine, work)


def plan(engine: sa.Engine, customer_id: str) -> None:
    def work(connection: sa.Connection) -> None:
        connection.execute(sa.text("INSERT INTO ledger_plans (plan, max_concurrent_sandboxes) VALUES ('pro', 9)"))
        accounts.set_plan(connection, customer_id, "pro", By(NOW_MS, "a", "r"))

    write(engine, work)


def spend(engine: sa.Engine, customer_id: str) -> None:
    def work(connection: sa.Connection) -> None:
        connection.execute(sa.text(RATE))
        wallet.charge(connection, [entries.Usage("u1", customer_id, "compute", 5, NOW_MS)], NOW_MS)
        assert accounts.read_wallets(connection, [customer_id])[customer_id].balance_micro < 0

    write(engine, work)


def test_customer_without_wallet_has_null_balance_without_http_call(engine: sa.Engine) -> None:
    stub = Stub(NotSent("nobody"))
    provider = build(setup(stub, FixedClock(NOW_MS), engine))
    assert done(provider.customers(["cus_1", "cus_2"])) == {
        "cus_1": CustomerState(None, None, None),
        "cus_2": CustomerState(None, None, None),
    }
    assert stub.calls == []


def test_wallet_balance_and_plan_are_customer_state(engine: sa.Engine) -> None:
    provider = build(setup(Stub(NotSent("")), FixedClock(NOW_MS), engine))
    grant(engine, "cus_1", 5_000_000, "g1")
    plan(engine, "cus_1")
    assert done(provider.customers(["cus_1"])) == {"cus_1": CustomerState(5_000_000, "pro", 9)}


def test_emptied_wallet_is_zero_and_wallet_without_grants_is_null(engine: sa.Engine) -> None:
    provider = build(setup(Stub(NotSent("")), FixedClock(NOW_MS), engine))
    grant(engine, "cus_1", 5_000_000, "g1")
    grant(engine, "cus_1", -5_000_000, "g2")
    plan(engine, "cus_2")
    spend(engine, "cus_2")
    states = done(provider.customers(["cus_1", "cus_2"]))
    assert states == {"cus_1": CustomerState(0, None, None), "cus_2": CustomerState(None, "pro", 9)}


@cases("revision", [0, 1, 2, 3])
@cases("zero_summaries", [False, True])
def test_lookup_of_revision_reads_its_own_minute(revision: int, zero_summaries: bool) -> None:
    world = World()
    world.stripe.zero_summaries = zero_summaries
    for other in set(range(4)) - {revision}:
        one(world.provider, push(1024 * (other + 1), revision=other))
    mine = push(5120, revision=revision)
    assert done(world.provider.lookup(mine)) == Absent()
    one(world.provider, mine)
    assert done(world.provider.lookup(mine)) == FoundPush(5120)


def test_lookup_in_shared_fifth_minute_cannot_tell() -> None:
    world = World()
    mine = push(revision=4)
    found = done(world.provider.lookup(mine))
    assert isinstance(found, CannotTell) and not found.may_have
    one(world.provider, mine)
    found = done(world.provider.lookup(mine))
    assert isinstance(found, CannotTell) and "2 at Stripe, 2 sent" in found.reason and found.may_have


def test_lookup_of_different_quantity_cannot_tell_and_shows_both() -> None:
    world = World()
    one(world.provider, push(3072, key="of somebody else"))
    found = done(world.provider.lookup(push(2048)))
    assert isinstance(found, CannotTell) and "3 at Stripe, 2 sent" in found.reason and found.may_have


def test_lookup_in_lagging_list_is_absent_until_found() -> None:
    world = World({"reads_lag": 1.0})
    one(world.provider, push())
    assert done(world.provider.lookup(push())) == Absent()
    world.clock.at_ms += HOUR_MS
    assert done(world.provider.lookup(push())) == FoundPush(2048)


def test_accepted_push_lost_silently_is_absent_in_lookup() -> None:
    world = World({"accepted_then_lost": 1.0})
    assert one(world.provider, push()) == Accepted()
    assert done(world.provider.lookup(push())) == Absent()


def test_lookup_with_missing_meter_or_customer_cannot_tell() -> None:
    world = World()
    assert isinstance(done(world.provider.lookup(push(feature="other"))), CannotTell)
    assert isinstance(done(world.provider.lookup(push(customer_id="cus_nobody"))), CannotTell)


def test_meter_recreated_under_same_name_is_counted_with_old_meter() -> None:
    world = World()
    one(world.provider, push())
    next(iter(world.stripe.meters.values())).active = False
    world.stripe.add_meter("gb_seconds")
    assert done(world.provider.lookup(push())) == FoundPush(2048)


def test_lookup_on_meter_that_does_not_sum_cannot_tell() -> None:
    world = World()
    world.stripe.add_meter("counted", formula="count")
    assert isinstance(done(world.provider.lookup(push(feature="counted"))), CannotTell)


@cases("seed", range(10))
def test_lookup_and_totals_with_failing_reads_fail(seed: int) -> None:
    world = World({"reads_fail": 1.0}, seed)
    assert isinstance(done(world.provider.lookup(push())), ReadFailed)
    assert isinstance(done(world.provider.totals("cus_1", WINDOW, NOW_MS)), ReadFailed)


def summaries(*values: object, more: bool = False) -> Answer:
    data = [{"id": f"s{number}", "aggregated_value": value} for number, value in enumerate(values)]
    return said(200, {"object": "list", "data": data, "has_more": more})


def meters_then(answer: HttpResult) -> StripeProvider:
    listed = World().stripe.handle(Call("GET", "/v1/billing/meters", {"authorization": f"Bearer {SECRET}"}), NOW_MS)
    return stubbed(lambda call: answer if "event_summaries" in call.url else listed)[0]


@cases(
    "answer",
    [
        said(200, b'{"data": [{"aggregated_value": NaN}]}'),
        said(200, {"data": [{"aggregated_value": "2"}]}),
        said(200, {"data": [{"aggregated_value": True}]}),
        said(200, {"data": [{}]}),
        said(200, b'{"data": [{"aggregated_value": 1e999999}]}'),
        said(200, {"data": ["2"]}),
        said(200, {"data": None}),
        said(200, {}),
        said(200, {"data": [], "has_more": True}),
        summaries(1.0, more=True),
        said(500, b""),
        said(401, error("no")),
        said(429, error("later", code="rate_limit")),
        said(404, b"<h1>not Stripe's</h1>"),
        NoAnswer("cut"),
        NotSent("refused"),
    ],
)
def test_malformed_summary_fails_read(answer: HttpResult) -> None:
    turned_away = isinstance(answer, Answer) and answer.status == 429
    for found in (
        done(meters_then(answer).lookup(push())),
        done(meters_then(answer).totals("cus_1", WINDOW, NOW_MS)),
    ):
        assert isinstance(found, ReadFailed) and found.too_many is turned_away


def test_summary_values_are_exact() -> None:
    large = (10**15 - 1) * 1024
    provider = meters_then(said(200, b'{"data": [{"aggregated_value": 999999999999999.0}]}'))
    assert done(provider.lookup(push(large))) == FoundPush(large)
    assert isinstance(done(meters_then(summaries(2.5)).lookup(push())), CannotTell)
    assert isinstance(done(meters_then(summaries(2.5)).totals("cus_1", WINDOW, NOW_MS)), ReadFailed)


def test_totals_are_base_units_by_feature_in_range() -> None:
    world = World()
    one(world.provider, push(4096))
    one(world.provider, push(1024, revision=1))
    one(world.provider, push(7, feature="compute_4gb", key="b"))
    one(world.provider, push(1024, customer_id="cus_2", key="c"))
    one(world.provider, push(1024, key="d", ts=WINDOW + WINDOW_MS))
    assert done(world.provider.totals("cus_1", WINDOW, WINDOW + WINDOW_MS)) == {"compute": 5120, "compute_4gb": 7}
    assert done(world.provider.totals("cus_1", WINDOW, WINDOW + MINUTE_MS)) == {"compute": 4096, "compute_4gb": 7}
    assert done(world.provider.totals("cus_1", WINDOW - WINDOW_MS, WINDOW)) == {}


@cases(("customer", "said"), [("cus_1", "was deleted at Stripe"), ("cus_9", "does not exist at Stripe")])
def test_totals_of_deleted_or_missing_customer_fail_read(customer: str, said: str) -> None:
    """Stripe takes its events, and counts none: a zero would have the whole day sent again, each night."""
    world = World()
    assert done(world.provider.totals("cus_1", WINDOW, WINDOW + WINDOW_MS)) == {}
    world.stripe.customers["cus_1"] = True
    found = done(world.provider.totals(customer, WINDOW, WINDOW + WINDOW_MS))
    assert isinstance(found, ReadFailed) and found.reason.startswith(NEEDS_YOU) and said in found.reason


def test_totals_of_unaligned_range_fail_read() -> None:
    assert isinstance(done(World().provider.totals("cus_1", WINDOW + 1, NOW_MS)), ReadFailed)


def test_totals_ignore_foreign_meters() -> None:
    world = World()
    world.stripe.add_meter("api_requests", formula="count")
    world.stripe.add_meter("Some Meter")
    one(world.provider, push())
    assert done(world.provider.totals("cus_1", WINDOW, NOW_MS)) == {"compute": 2048}


def test_meters_are_read_by_page_and_cached_for_10_minutes() -> None:
    world = World()
    for number in range(250):
        world.stripe.add_meter(f"Other {number}")
    one(world.provider, push())
    for _ in range(3):
        assert done(world.provider.lookup(push())) == FoundPush(2048)
    assert world.stripe.calls["GET /v1/billing/meters"] == 3
    world.clock.at_ms += 11 * MINUTE_MS
    done(world.provider.lookup(push()))
    assert world.stripe.calls["GET /v1/billing/meters"] == 6


def test_drawn_at_stripe_is_empty() -> None:
    assert done(World().provider.drawn("cus_1")) == {}


def test_check_of_sound_stripe_account_is_clean() -> None:
    assert done(World(account="acct_emulator").provider.check(["compute", "compute_4gb"], ["cus_1", "cus_2"])) == []


def test_check_sends_only_reads() -> None:
    world = World()
    done(world.provider.check(["compute"], ["cus_1"]))
    assert all(name.startswith("GET ") for name in world.stripe.calls)


def test_check_of_bad_meters_and_customers_reports_each() -> None:
    world = World()
    world.stripe.add_meter("archived", active=False)
    world.stripe.add_meter("counts", formula="count")
    world.stripe.add_meter("keys", customer_key="customer", value_key="amount")
    world.stripe.customers["cus_2"] = True
    features = ["compute", "gb_seconds", "missing", "archived", "counts", "keys"]
    lines = done(world.provider.check(features, ["cus_1", "cus_2", "cus_3"]))
    assert len(lines) == 8
    for start, words in (
        ("archived:", "Reactivate"),
        ("counts:", "formula sum"),
        ("gb_seconds:", "DRAWDOWN_STRIPE_METERS"),
        ("keys:", "stripe_customer_id"),
        ("keys:", "under amount: expected value"),
        ("missing:", "Create it"),
        ("cus_2:", "deleted"),
        ("cus_3:", "does not exist at Stripe"),
    ):
        assert any(line.startswith(start) and words in line for line in lines), (start, lines)


@cases(
    ("answer", "words"),
    [
        (said(401, error("Invalid API Key provided: sk_test_emulator")), "DRAWDOWN_STRIPE_SECRET_KEY"),
        (said(403, error("no permissions")), "restricted key needs"),
        (said(400, error("Invalid Stripe API version")), "DRAWDOWN_STRIPE_API_VERSION"),
        (said(200, {"data": []}, stripe_version="2020-01-01"), "DRAWDOWN_STRIPE_API_VERSION"),
        (said(200, b"<html>"), "does not answer like Stripe"),
        (said(503, b""), "does not answer like Stripe"),
        (NoAnswer("timed out"), "DRAWDOWN_STRIPE_URL"),
        (NotSent("refused"), "DRAWDOWN_STRIPE_URL"),
    ],
)
def test_check_with_bad_key_or_address_reports_single_line(answer: HttpResult, words: str) -> None:
    provider, stub = stubbed(answer)
    (line,) = done(provider.check(["compute"], ["cus_1"]))
    assert words in line and SECRET not in line
    assert len(stub.calls) == 1


def test_check_with_foreign_account_or_plain_http_reports_both() -> None:
    lines = done(World(account="acct_other", url="http://stripe.test").provider.check([], []))
    assert len(lines) == 2 and "https" in lines[0] and "acct_emulator" in lines[1]


def test_check_with_unreadable_customers_reports_their_count() -> None:
    def answer(call: Call) -> HttpResult:
        return said(429, b"", request_id="req_1") if "/customers/" in call.url else said(200, {"data": []})

    provider = stubbed(answer, url="http://localhost:1")[0]
    assert done(provider.check([], ["a", "b", "c"])) == ["3 customers could not be read: HTTP 429"]
