"""Autumn as a provider: what is sent, and what each answer proves, by hand and against the emulated service."""

from __future__ import annotations

import json

import sqlalchemy as sa
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from drawdown.providers.autumn.wire import MAX_QUANTITY
from drawdown.providers.http import Answer, HttpResult, NoAnswer, NotSent
from drawdown.providers.protocol import Accepted, Duplicate, Outcome, PushRequest, Queued, Rejected, RetryAt, Unknown
from drawdown.providers.registry import load
from drawdown.schema.clock import FixedClock
from drawdown.schema.units import MINUTE_MS
from tests.cases import cases
from tests.contract.autumn_setup import KEY, NOW_MS, WINDOW, Stub, made, no, one, push, said, stubbed
from tests.emulators.autumn import SECRET_KEY

HOUR_MS = 60 * MINUTE_MS
BALANCE = {"feature_id": "compute", "granted": 100, "remaining": 93, "usage": 7}


def charged(*deductions: object, value: object = 7, balance: object = BALANCE, feature: str = "compute") -> Answer:
    told = [
        {"balance_id": "b", "feature_id": feature, "plan_id": "p", "reset": None, "value": one} for one in deductions
    ]
    return said(200, {"customer_id": "cus_1", "value": value, "balance": balance, "deductions": told})


# What is sent


def test_charge_resent_has_same_body_and_keys() -> None:
    http = Stub(charged(7))
    provider = made(http, url="https://autumn.example/")
    for attempt in (1, 2):
        assert one(provider, push(attempt=attempt)) == Accepted()
    first, second = [call for call in http.sent if call.url.endswith("/track")]
    assert (first.method, first.url) == ("POST", "https://autumn.example/v1/track")
    assert first.body == second.body
    assert first.headers["x-api-version"] == "2.3.0"
    assert first.headers["authorization"] == f"Bearer {SECRET_KEY}"
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] != ""
    assert http.bodies[0] == {
        "customer_id": "cus_1",
        "feature_id": "compute",
        "value": 7,
        "timestamp": WINDOW,
        "overage_behavior": "overflow",
        "idempotency_key": KEY,
        "properties": {"drawdown_key": KEY},
    }


def test_quantity_at_maximum_is_sent_as_integer() -> None:
    http = Stub(charged(MAX_QUANTITY))
    assert one(made(http), push(MAX_QUANTITY)) == Accepted()
    assert b'"value":9007199254740991,' in http.sent[0].body


@cases(
    ("request_", "word"),
    [
        (push(customer_id="org 1"), "customer id 'org 1'"),
        (push(customer_id="org/1"), "customer id"),
        (push(customer_id="örg"), "customer id"),
        (push(customer_id=""), "customer id"),
        (push(customer_id="a\n"), "customer id"),
        (push(feature="gpu.seconds"), "feature id"),
        (push(2**53), "above 2^53"),
        (push(-(2**53)), "above 2^53"),
    ],
)
def test_push_autumn_would_refuse_or_round_is_rejected_unsent(request_: PushRequest, word: str) -> None:
    http = Stub(charged(7))
    outcome = one(made(http), request_)
    assert isinstance(outcome, Rejected) and word in outcome.reason
    assert http.sent == []


# What an answer proves

ANSWERS: list[tuple[str, HttpResult, type[Outcome], str]] = [
    ("charged", charged(7), Accepted, ""),
    ("charged from two balances", charged(4, 3), Accepted, ""),
    ("charged in binary fractions", charged(0.1, 6.9), Accepted, ""),
    ("credits of a credit system that pays for something else", charged(70, feature="credits"), Queued, ""),
    ("no balance", charged(balance=None), Rejected, "does not have a balance of compute"),
    ("a balance, and nothing charged", charged(), Rejected, "charged nothing"),
    ("capped", charged(5), Queued, ""),
    ("charged more", charged(8), Queued, ""),
    ("charged a fraction", charged(6.5), Queued, ""),
    ("credits for another value", charged(70, feature="credits", value=6), Queued, ""),
    ("the shape of API 2.0", said(200, {"customer_id": "cus_1", "value": 7, "balance": BALANCE}), Unknown, "deducted"),
    ("of another customer", said(200, {"customer_id": "cus_2", "value": 7, "deductions": []}), Unknown, "not Autumn's"),
    ("a deduction without a number", charged("7"), Unknown, "deducted"),
    ("a deduction of true", charged(True), Unknown, "deducted"),
    ("deductions that are no list", said(200, {"customer_id": "cus_1", "deductions": {"a": 1}}), Unknown, "deducted"),
    ("HTML", said(200, "<html>hello</html>"), Unknown, "not Autumn's"),
    ("empty", said(200, b""), Unknown, "not Autumn's"),
    ("cut off", said(200, charged(7).body[:-20]), Unknown, "not Autumn's"),
    ("nested without end", said(200, b"[" * 100_000), Unknown, "not Autumn's"),
    ("not a number", said(200, b'{"customer_id":"cus_1","deductions":[{"value":NaN}]}'), Unknown, "not Autumn's"),
    ("an absurd number", said(200, b'{"customer_id":"cus_1","deductions":[{"value":1e999999}]}'), Unknown, "deducted"),
    ("queued", said(202, {"customer_id": "cus_1", "value": 7, "balance": None}), Queued, ""),
    ("a duplicate", no(409, "duplicate_idempotency_key"), Duplicate, ""),
    ("a lock", no(409, "lock_already_exists"), Unknown, "lock_already_exists"),
    ("a conflict of no one's", said(409, "conflict"), Unknown, "409"),
    ("bad input", no(400, "invalid_inputs", "value: must be a number"), Rejected, "value: must be a number"),
    ("too small a balance", no(400, "insufficient_balance"), Rejected, "insufficient_balance"),
    (
        "a clock behind ours",
        no(400, "invalid_inputs", "timestamp: timestamp cannot be in the future"),
        RetryAt,
        "clock",
    ),
    ("no such version", no(400, "invalid_api_version"), RetryAt, "API version 2.3.0"),
    ("a 400 of no one's", said(400, "<html>"), Unknown, "HTTP 400"),
    ("no such customer", no(404, "customer_not_found"), Rejected, "Create the customer"),
    ("no such feature", no(404, "feature_not_found"), Rejected, "Create compute"),
    ("a proxy's 404", said(404, "<html>nginx</html>"), Unknown, "HTTP 404"),
    ("a bad key", no(401, "invalid_secret_key", "Invalid secret key: am_sk_test_wron***"), RetryAt, "key is refused"),
    ("no key", no(401, "no_secret_key"), RetryAt, "key is refused"),
    ("a publishable key", no(401, "endpoint_not_public"), RetryAt, "key is refused"),
    ("an unknown route", no(401, "no_auth_header"), RetryAt, "does not have this route"),
    ("a proxy's 401", said(401, "who are you"), Unknown, "HTTP 401"),
    ("forbidden", no(403, "insufficient_scope"), RetryAt, "key is refused"),
    ("too many", said(429, "Too many requests, please try again later.", retry_after="1"), RetryAt, "429"),
    ("server error", no(500, "internal_error"), Unknown, "500 internal_error"),
    ("unavailable", no(503, "service_unavailable"), Unknown, "503"),
    ("a gateway", said(502, "<html>"), Unknown, "502"),
    ("a redirect", said(302, b"", location="https://elsewhere"), Unknown, "302"),
    ("created", said(201, charged(7).body), Unknown, "201"),
    ("no content", said(204, b""), Unknown, "204"),
    ("too large", said(413, "no"), Unknown, "413"),
    ("no answer", NoAnswer("timed out"), Unknown, "timed out"),
    ("not sent", NotSent("connection refused"), RetryAt, "not sent: connection refused"),
]


@cases(("answer", "kind", "word"), [row[1:] for row in ANSWERS])
def test_charge_answers_map_to_outcome_they_prove(answer: HttpResult, kind: type[Outcome], word: str) -> None:
    outcome = one(stubbed(answer))
    assert type(outcome) is kind
    assert word in getattr(outcome, "reason", "")
    assert "am_sk" not in repr(outcome)


@cases(
    ("answer", "kind", "word"),
    [
        (charged(-7, value=-7), Accepted, ""),
        (charged(-3, value=-7), Queued, ""),
        (charged(value=-7), Rejected, "did not refund"),
        (charged(value=-7, balance=None), Rejected, "no longer has a balance of compute"),
        (charged(7, value=-7), Queued, ""),
        (charged(-70, value=-7, feature="credits"), Queued, ""),
    ],
)
def test_refund_answer_in_full_or_part_maps_to_outcome(answer: Answer, kind: type[Outcome], word: str) -> None:
    outcome = one(stubbed(answer), push(-7))
    assert type(outcome) is kind and word in getattr(outcome, "reason", "")


def test_zero_quantity_charge_with_zero_value_is_accepted() -> None:
    assert one(stubbed(charged(value=0)), push(0)) == Accepted()


def test_queued_charge_202_is_due_for_confirmation_after_45_s() -> None:
    assert one(stubbed(said(202, {}))) == Queued(NOW_MS + 45_000)


@cases(
    ("given", "wait_ms"),
    [
        ("1", 1_000), ("7", 7_000), ("2.5", 2_500), ("0", 1_000), ("0.001", 1_000), ("99999999999999", 900_000),
        ("86400", 900_000), ("-5", 5_000), ("soon", 5_000), ("", 5_000), ("\uff11", 5_000), ("1e9", 5_000),
        ("Fri, 20 Nov 2026 06:42:30 GMT", 30_000), ("Fri, 31 Dec 1999 23:59:59 GMT", 1_000),
        ("Fri, 31 Dec 2999 23:59:59 GMT", 900_000), ("Wed, 32 Foo 2026", 5_000),
    ],
)  # fmt: skip
def test_retry_after_header_is_clamped_to_bounds(given: str, wait_ms: int) -> None:
    outcome = one(stubbed(said(429, "slow down", retry_after=given)))
    assert outcome == RetryAt(NOW_MS + wait_ms, "HTTP 429: too many calls", too_many=True)


def test_retry_wait_without_header_grows_with_attempts_to_maximum() -> None:
    waits = [one(stubbed(NotSent("refused")), push(attempt=attempt)) for attempt in (1, 2, 3, 30)]
    assert [getattr(wait, "at_ms", 0) - NOW_MS for wait in waits] == [5_000, 10_000, 20_000, 900_000]


@given(st.sampled_from([200, 202, 302, 400, 401, 404, 409, 418, 429, 500]), st.binary(max_size=200))
@settings(max_examples=300)
def test_arbitrary_answer_body_is_unknown_queued_or_retried(status: int, body: bytes) -> None:
    assume(b'"code"' not in body)  # a code and a message are Autumn's words, whatever they say
    outcome = one(stubbed(said(status, body)))
    assert type(outcome) in {202: (Queued,), 429: (RetryAt,)}.get(status, (Unknown,))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["customer_id", "deductions", "value", "feature_id", "code"]), inner)
        ),
        max_leaves=12,
    ),
    st.sampled_from([200, 400, 401, 404, 409]),
)
@settings(max_examples=300)
def test_json_answer_of_wrong_shape_is_not_accepted(body: object, status: int) -> None:
    outcome = one(stubbed(said(status, json.dumps(body))))
    assert not isinstance(outcome, Accepted | Duplicate)


def test_autumn_entry_point_loads_with_key_retention() -> None:
    given_ = {"autumn_secret_key": SECRET_KEY, "autumn_key_retention_h": "1"}
    registry = load(given_, FixedClock(NOW_MS), Stub(charged(7)), sa.create_engine("sqlite://"))
    assert "autumn" not in registry.broken
    assert registry.capabilities["autumn"].key_retention_ms == HOUR_MS
