"""Stripe as a provider: what each answer means, against an emulator of it and against answers made by hand."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
import sqlalchemy as sa

from drawdown.providers.http import HttpResult, NoAnswer, NotSent
from drawdown.providers.protocol import (
    Accepted,
    CannotTell,
    Duplicate,
    Outcome,
    Provider,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.providers.registry import load
from drawdown.providers.stripe import build
from drawdown.providers.stripe.settings import DEFAULT_VERSION, read_settings
from drawdown.providers.stripe.wire import idempotency_key, key_of
from drawdown.schema.clock import FixedClock
from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from tests.cases import cases
from tests.contract.stripe_setup import (
    KEY,
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
from tests.emulators.stripe import BILLING_FAULTS

HOUR_MS = 60 * MINUTE_MS
DUPLICATE = f"An event already exists with identifier {KEY}."


def answered(answer: HttpResult, attempt: int = 1) -> Outcome:
    return one(stubbed(answer)[0], push(attempt=attempt))


def retry_after(outcome: Outcome) -> int:
    assert isinstance(outcome, RetryAt), outcome
    return outcome.at_ms - NOW_MS


# Settings and capabilities.


def test_stripe_entry_point_without_key_is_dormant() -> None:
    registry = load({}, FixedClock(NOW_MS), Stub(NotSent("")), sa.create_engine("sqlite://"))
    stripe = registry.providers["stripe"]
    assert isinstance(stripe, Provider)
    assert stripe.dormant == "DRAWDOWN_STRIPE_SECRET_KEY is not set"


def test_dormant_stripe_does_not_send() -> None:
    provider, stub = stubbed(said(200, {}), secret_key="")
    assert isinstance(one(provider, push()), RetryAt)
    assert isinstance(done(provider.lookup(push())), ReadFailed)
    assert isinstance(done(provider.totals("cus_1", WINDOW, NOW_MS)), ReadFailed)
    assert "DRAWDOWN_STRIPE_SECRET_KEY" in done(provider.check(["compute"], ["cus_1"]))[0]
    assert stub.calls == []


def test_stripe_capabilities_are_documented_limits() -> None:
    can = World().provider.capabilities
    assert (can.batch_size, can.in_flight, can.calls_per_s, can.reads_per_s) == (1, 64, 950, 20)
    assert can.one_at_a_time and can.duplicate_proves_delivery and can.negatives
    assert can.own_customer_ids and can.balance_in_ledger and not can.drawn
    assert can.key_retention_ms == 24 * HOUR_MS
    assert can.max_key_chars == 100
    assert can.max_quantity == 999_999_999_999_999
    assert can.oldest_ms == 35 * DAY_MS - HOUR_MS
    assert (can.lookup_lag_ms, can.applied_within_ms, can.totals_lag_ms) == (HOUR_MS, 24 * HOUR_MS, HOUR_MS)
    assert can.live_from_ms is None
    assert (can.unit_of("compute"), can.unit_of("compute_4gb")) == (1024, 1)


@cases(
    ("name", "text"),
    [
        ("secret_key", "pk_live_ABC"),
        ("secret_key", " sk_live_ABC"),
        ("secret_key", "sk_live_ABC\n"),
        ("secret_key", "sk_live_A\x00BC"),
        ("secret_key", "topsecret"),
        ("url", "api.stripe.com"),
        ("url", "ftp://api.stripe.com"),
        ("url", "https://user:topsecret@api.stripe.com"),
        ("url", "https://api.stripe.com?x=topsecret"),
        ("url", "https://api.stripe.com:port"),
        ("url", "https://api.stripe.com/a b"),
        ("api_version", "newest"),
        ("webhook_secrets", "whsec_a topsecret"),
        ("webhook_secrets", "whsec_a,topsecret"),
        ("account", "topsecret"),
        ("meters", "compute"),
        ("meters", "compute=a/0"),
        ("meters", "compute=a/1.5"),
        ("meters", "compute=a/-1"),
        ("meters", "compute=a b"),
        ("meters", "Compute=a"),
        ("meters", "compute=a, compute=b"),
        ("meters", "compute=a, other=a"),
        ("mode", "test"),
        ("cut_over", "2026-09-01T00:00:00"),
        ("cut_over", "tomorrow"),
    ],
)
def test_invalid_stripe_setting_is_refused_by_name_without_value(name: str, text: str) -> None:
    with pytest.raises(UsageError) as refused:
        build(setup(Stub(NotSent("")), FixedClock(NOW_MS), **{name: text}))
    assert f"DRAWDOWN_STRIPE_{name.upper()}" in str(refused.value)
    assert "topsecret" not in str(refused.value) and "ABC" not in str(refused.value)


def test_unknown_stripe_setting_is_refused() -> None:
    with pytest.raises(UsageError, match="DRAWDOWN_STRIPE_CUTOVER is not a setting"):
        read_settings({"cutover": "2026-09-01T00:00:00Z"})


def test_stripe_settings_repr_does_not_contain_secrets() -> None:
    settings = read_settings({"secret_key": "rk_live_topsecret", "webhook_secrets": "whsec_topsecret, whsec_old"})
    assert settings.webhook_secrets == ("whsec_topsecret", "whsec_old")
    assert "topsecret" not in repr(settings)


def test_shadow_mode_and_cut_over_set_first_live_window() -> None:
    def live_from(**settings: str) -> int | None:
        return read_settings(settings).live_from_ms

    cut_over = 1_788_220_800_000
    assert live_from(mode="live") is None
    assert live_from(cut_over="2026-09-01T00:00:00Z") == cut_over
    assert live_from(cut_over="2026-09-01T02:00:00+02:00") == cut_over
    assert live_from(cut_over="2026-09-01T00:00:00.001Z") == cut_over + WINDOW_MS
    assert live_from(mode="live", cut_over="2026-08-31T23:55:01Z") == cut_over
    for shadow in (live_from(mode="shadow"), live_from(mode="shadow", cut_over="2026-09-01T00:00:00Z")):
        assert shadow is not None and shadow > NOW_MS + 1000 * 365 * DAY_MS and shadow % WINDOW_MS == 0


# What is sent.


def test_push_is_sent_as_single_meter_event_in_units_and_seconds() -> None:
    provider, stub = stubbed(NoAnswer("cut"))
    one(provider, push(-4096, attempt=3))
    (call,) = stub.calls
    assert (call.method, call.url) == ("POST", "https://stripe.test/v1/billing/meter_events")
    assert dict(parse_qsl(call.body.decode())) == {
        "event_name": "gb_seconds",
        "payload[stripe_customer_id]": "cus_1",
        "payload[value]": "-4",
        "identifier": KEY,
        "timestamp": str(WINDOW // 1000),
    }
    assert call.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert call.headers["Authorization"] == f"Bearer {SECRET}"
    assert call.headers["Stripe-Version"] == DEFAULT_VERSION
    assert call.headers["Idempotency-Key"] == f"{KEY}.3"
    assert SECRET not in repr(call)


def test_each_attempt_sends_same_body_with_new_idempotency_key() -> None:
    provider, stub = stubbed(NoAnswer("cut"))
    for attempt in (1, 2, 3):
        one(provider, push(attempt=attempt))
    assert len({call.body for call in stub.calls}) == 1
    assert len({call.headers["Idempotency-Key"] for call in stub.calls}) == 3


@cases("key", [KEY, f"{KEY}:r4", "usage:a%2Eb:0:c", "usage:a.7:0:c", "usage:ü\r\n:0:c", "0a" * 32])
def test_idempotency_key_is_decoded_to_push_key(key: str) -> None:
    sent = idempotency_key(push(key=key, attempt=12))
    assert sent.isascii() and sent.isprintable() and " " not in sent and len(sent) <= 255
    assert key_of(sent) == key
    assert key_of(KEY) == KEY


def test_long_push_key_is_shortened_for_header() -> None:
    sent = idempotency_key(push(key="\U0001f4a3" * 100, attempt=2))
    assert len(sent) <= 255 and sent.endswith(".2")


@cases(
    "changes",
    [
        {"quantity": 1500},
        {"quantity": -1},
        {"quantity": 10**15 * 1024},
        {"quantity": -(10**15) * 1024},
        {"feature": "gb_seconds"},
    ],
)
def test_push_stripe_cannot_accept_is_rejected_unsent(changes: dict[str, int]) -> None:
    provider, stub = stubbed(NoAnswer("cut"))
    outcome = one(provider, push(**changes))
    assert isinstance(outcome, Rejected) and outcome.reason
    assert stub.calls == []


def test_quantity_of_fifteen_digits_is_accepted() -> None:
    world = World()
    assert one(world.provider, push((10**15 - 1) * 1024)) == Accepted()
    assert world.stripe.charged("cus_1", "gb_seconds") == 10**15 - 1


def test_feature_without_meter_setting_uses_meter_of_same_name() -> None:
    world = World()
    assert one(world.provider, push(7, feature="compute_4gb", key="k")) == Accepted()
    assert world.stripe.charged_by() == {("cus_1", "compute_4gb", WINDOW // 1000): 7}


# What comes back.


def test_push_sent_twice_is_duplicate_and_charged_once() -> None:
    world = World()
    assert one(world.provider, push()) == Accepted()
    assert one(world.provider, push(attempt=2)) == Duplicate()
    assert world.stripe.charged("cus_1", "gb_seconds", WINDOW // 1000) == 2


def test_negative_correction_reduces_charge() -> None:
    world = World()
    one(world.provider, push(4096))
    assert one(world.provider, push(-1024, revision=1)) == Accepted()
    assert world.stripe.charged("cus_1", "gb_seconds") == 3


@cases(
    "body",
    [
        {"object": "billing.meter_event", "identifier": "another"},
        {"object": "billing.meter_event"},
        {"object": "list", "identifier": KEY},
        [KEY],
        b"<html>",
        b"",
        b'{"object": "billing.meter_event", "identifier": "' + KEY.encode(),
        b"[" * 100_000,
        b'{"x": 1e99999999999999999999, "object": NaN}',
    ],
)
def test_success_without_matching_identifier_is_unknown(body: object) -> None:
    assert isinstance(answered(said(200, body)), Unknown)


def test_duplicate_error_with_or_without_code_is_duplicate() -> None:
    assert answered(said(400, error(DUPLICATE))) == Duplicate()
    assert answered(said(400, error("Seen.", code="duplicate_meter_event"))) == Duplicate()


def test_duplicate_error_in_other_words_is_unknown() -> None:
    assert isinstance(answered(said(400, error(f"Identifier {KEY} has already been used."))), Unknown)


def test_reused_idempotency_key_with_other_content_is_not_accepted() -> None:
    """A first attempt that the provider knows of is never settled by itself: the worker looks it up (rule R1)."""
    world = World()
    assert one(world.provider, push(4096)) == Accepted()
    assert one(world.provider, push(2048)) == Duplicate()
    assert isinstance(answered(said(400, error("Keys for ...", "idempotency_error")), attempt=2), Unknown)
    assert isinstance(done(world.provider.lookup(push(2048))), CannotTell)


@cases("status", [400, 404, 422])
def test_stripe_error_about_request_is_rejected_with_its_message(status: int) -> None:
    outcome = answered(said(status, error("No such customer: 'cus_1'", code="resource_missing"), request_id="req_abc"))
    assert outcome == Rejected(f"HTTP {status}: resource_missing: No such customer: 'cus_1' (req_abc)")


@cases(
    ("status", "body"),
    [
        (400, b"<h1>Bad request</h1>"),
        (404, b"not found"),
        (400, error("odd", "api_error")),
        (409, b"<h1>Conflict</h1>"),
        (409, error("in use", "idempotency_error", "idempotency_key_in_use")),
        (409, error("in use", code="idempotency_key_in_use")),
        (401, b"<h1>Forbidden</h1>"),
        (403, b"<h1>Forbidden</h1>"),
        (401, {"message": "Unauthorized"}),
        (403, {"error": {"code": 403, "message": "Forbidden", "status": "PERMISSION_DENIED"}}),
        (403, {"error": {"code": "Forbidden", "message": "no"}}),
        (409, {"error": {"code": 409, "message": "Aborted", "status": "ABORTED"}}),
        (409, error("conflict")),
        (402, b""),
        (302, b""),
        (204, b""),
        (500, error("broken", "api_error")),
        (502, b"<h1>Bad gateway</h1>"),
        (503, error(DUPLICATE)),
        (599, b""),
    ],
)
def test_inconclusive_answer_is_unknown(status: int, body: object) -> None:
    assert isinstance(answered(said(status, body)), Unknown)
    assert isinstance(answered(said(status, body, stripe_should_retry="false", retry_after="9")), Unknown)


def test_lost_answer_is_unknown_and_refused_connection_is_retried() -> None:
    assert isinstance(answered(NoAnswer("timed out")), Unknown)
    assert retry_after(answered(NotSent("refused"))) >= 1000


@cases("status", [401, 403])
def test_refused_api_key_is_retried_in_5_minutes_without_secret(status: int) -> None:
    outcome = answered(said(status, error(f"Invalid API Key provided: {SECRET}")))
    assert retry_after(outcome) == 5 * MINUTE_MS
    assert isinstance(outcome, RetryAt) and SECRET not in outcome.reason and "sk_test" not in outcome.reason


def test_stripe_error_text_is_truncated_to_printable_line() -> None:
    outcome = answered(said(400, error("bad\n\x1b[31m" + "x" * 10_000)))
    assert isinstance(outcome, Rejected)
    assert len(outcome.reason) < 300 and outcome.reason.isprintable()


@cases("status", [409, 429])
@cases(
    ("headers", "wait_ms"),
    [
        ({"retry_after": "7"}, 7000),
        ({"retry_after": "1.5"}, 1500),
        ({"retry_after": "0"}, 1000),
        ({"retry_after": "999999999999999"}, 15 * MINUTE_MS),
        ({"retry_after": "7", "stripe_should_retry": "false"}, 7000),
        ({"stripe_should_retry": "true"}, 1000),
        ({"stripe_should_retry": "false"}, 15 * MINUTE_MS),
        ({}, 2000),
        ({"retry_after": "soon"}, 2000),
        ({"retry_after": "-5"}, 2000),
        ({"retry_after": "1e999"}, 2000),
        ({"retry_after": "nan"}, 2000),
        ({"retry_after": "9" * 1000}, 15 * MINUTE_MS),
        ({"retry_after": "Wed, 99 Foo 2026"}, 2000),
        ({"retry_after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 1000),
    ],
)
def test_throttled_push_is_retried_after_requested_wait(status: int, headers: dict[str, str], wait_ms: int) -> None:
    body = b"Slow down" if status == 429 else error("locked", code="lock_timeout")
    assert retry_after(answered(said(status, body, **headers))) == wait_ms


def test_throttled_push_with_retry_date_waits_whole_seconds() -> None:
    world = World({"throttled": 1.0}, seed=1)
    waits = {retry_after(one(world.provider, push(attempt=attempt))) for attempt in range(1, 40)}
    assert {wait for wait in waits if wait <= 20_000 and wait % 1000 == 0}
    assert world.stripe.charged_by() == {}


def test_retry_waits_double_up_to_15_minutes() -> None:
    waits = [retry_after(answered(said(429, b""), attempt)) for attempt in (1, 2, 3, 10, 1000)]
    assert waits == [2000, 4000, 8000, 15 * MINUTE_MS, 15 * MINUTE_MS]


@cases("code", ["rate_limit", "lock_timeout"])
def test_retryable_error_code_with_status_400_is_retried(code: str) -> None:
    assert isinstance(answered(said(400, error("later", code=code))), RetryAt)


@cases("kind", ["throttled", "throttled_nonsense", "lock_timeout", "connection_refused"])
def test_push_not_applied_by_fault_is_retried_and_charged_once(kind: str) -> None:
    world = World({kind: 1.0})
    assert isinstance(one(world.provider, push()), RetryAt)
    world.stripe.faults.rates = {}
    assert one(world.provider, push(attempt=2)) == Accepted()
    assert world.stripe.charged("cus_1", "gb_seconds") == 2


@cases("kind", ["request_lost", "answer_lost", "error_500_before", "error_500_after", "cached_500"])
def test_push_with_unknown_outcome_is_charged_once_after_retry(kind: str) -> None:
    world = World({kind: 1.0})
    assert isinstance(one(world.provider, push()), Unknown)
    world.stripe.faults.rates = {}
    assert one(world.provider, push(attempt=2)) in (Accepted(), Duplicate())
    assert world.stripe.charged("cus_1", "gb_seconds") == 2


def test_saved_500_is_not_replayed_for_next_attempt() -> None:
    """Under one Idempotency-Key it would be replayed for a day, and the push never go through."""
    world = World({"cached_500": 1.0})
    assert isinstance(one(world.provider, push()), Unknown)
    world.stripe.faults.rates = {}
    assert isinstance(one(world.provider, push()), Unknown), "the same attempt number meets the saved answer"
    assert one(world.provider, push(attempt=2)) == Accepted()


@cases("seed", range(20))
def test_pushes_under_each_fault_are_charged_once(seed: int) -> None:
    kinds = [kind for kind in BILLING_FAULTS if kind not in ("late_rejection", "accepted_then_lost", "reads_lag")]
    world = World(dict.fromkeys(kinds, 0.07), seed)
    for number in range(40):
        for attempt in range(1, 60):
            request = push(1024 * (number + 1), key=f"k{number}", attempt=attempt, ts=WINDOW + number * 1000)
            outcome = one(world.provider, request)
            assert not isinstance(outcome, Rejected), outcome
            if isinstance(outcome, Accepted | Duplicate):
                break
            world.clock.at_ms = outcome.at_ms if isinstance(outcome, RetryAt) else world.clock.at_ms + 60_000
    assert sorted(world.stripe.charged_by().values()) == list(range(1, 41))
    assert len(world.stripe.faults.counts) >= 8


def test_emulator_limits_calls_per_second() -> None:
    world = World()
    world.stripe.calls_per_s = 4  # one of them reads the meters
    outcomes = [one(world.provider, push(1024, key=f"k{number}")) for number in range(4)]
    assert outcomes[:3] == [Accepted()] * 3
    assert retry_after(outcomes[3]) == 1000
    world.clock.at_ms += 1000
    assert one(world.provider, push(1024, key="k3", attempt=2)) == Accepted()


def test_identifier_resent_after_24_h_is_charged_twice() -> None:
    """Why rule P2 stops sending an hour before that."""
    world = World()
    one(world.provider, push())
    world.clock.at_ms += DAY_MS - 1
    assert one(world.provider, push(attempt=2)) == Duplicate()
    world.clock.at_ms += 1
    assert one(world.provider, push(attempt=3)) == Accepted()
    assert world.stripe.doubles == [KEY]


def test_emulator_refuses_events_older_than_35_days_or_ahead_5_minutes() -> None:
    world = World()
    oldest = NOW_MS - 35 * DAY_MS
    assert one(world.provider, push(ts=oldest, key="a")) == Accepted()
    assert isinstance(one(world.provider, push(ts=oldest - 1000, key="b")), Rejected)
    assert one(world.provider, push(ts=NOW_MS + 300_000, key="c")) == Accepted()
    assert isinstance(one(world.provider, push(ts=NOW_MS + 301_000, key="d")), Rejected)


def test_push_to_missing_or_archived_meter_is_rejected() -> None:
    world = World()
    assert isinstance(one(world.provider, push(feature="other")), Rejected)
    next(iter(world.stripe.meters.values())).active = False
    assert isinstance(one(world.provider, push()), Rejected)
