"""Stripe's v2 stream: what each answer means, what never leaves, and how sessions end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
import stripe

from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.kit.emulator import Direct
from drawdown.providers.protocol import Accepted, Outcome, PushRefused, Rejected, RetryAt, Unknown
from drawdown.providers.stripe import StripeProvider, build
from drawdown.providers.stripe.settings import AHEAD_MS, MAX_STREAM_EVENTS
from drawdown.providers.stripe.stream import EVENTS, MAX_CALLS, RENEWED_MS, SESSIONS
from drawdown.providers.stripe.wire import KEY_WAIT_MS
from drawdown.schema.clock import FixedClock
from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS, WINDOW_MS
from tests.cases import cases
from tests.contract.stripe_setup import NOW_MS, WINDOW, World, done, error, one, push, said, setup
from tests.emulators.serve import serving_in_thread
from tests.emulators.stripe import StripeEmulator
from tests.emulators.stripe_stream import LASTS_MS

URL = "https://stream.test"
METERS = {"data": [{"id": "mtr_1", "event_name": "gb_seconds", "status": "active"}], "has_more": False}
SESSION = {
    "authentication_token": "a.token",
    "created": "2026-09-01T00:00:00.000Z",
    "expires_at": "2026-09-01T00:15:00.000Z",
}


REFUSED = said(400, error("payload: missing", code="invalid_fields"), request_id="req_1")


class Told:
    """A service that gives a session, and answers calls of the stream as it is told."""

    def __init__(self, answers: Callable[[Call], HttpResult] | HttpResult, session: HttpResult | None = None) -> None:
        self.answers, self.session = answers, session or said(200, SESSION)
        self.calls: list[Call] = []
        self.clock = FixedClock(NOW_MS)
        self.provider: StripeProvider = build(setup(self, self.clock, stream_url=URL))

    async def send(self, call: Call) -> HttpResult:
        self.calls.append(call)
        if "/v1/billing/meters" in call.url:
            return said(200, METERS)
        if call.url.endswith(SESSIONS):
            return self.session
        return self.answers(call) if callable(self.answers) else self.answers

    async def close(self) -> None:
        """There is nothing to close."""

    def sizes(self) -> list[int]:
        """Of the batches that were sent."""
        return [len(events(call)) for call in self.calls if call.url == URL + EVENTS]

    def outcomes(self, count: int) -> Sequence[Outcome]:
        return done(self.provider.push([push(key=f"k{number}") for number in range(count)]))


def events(call: Call) -> list[dict[str, object]]:
    return list(json.loads(call.body)["events"])


def world() -> World:
    return World(stream_url=URL)


def test_stream_batch_is_sent_in_single_call_under_shared_session() -> None:
    made = world()
    batch = [push(key=f"k{number}", ts=WINDOW + number * MINUTE_MS) for number in range(4)]
    assert done(made.provider.push(batch)) == [Accepted()] * 4
    assert done(made.provider.push([push(key="k9", ts=WINDOW - WINDOW_MS)])) == [Accepted()]
    assert made.stripe.calls[f"POST {SESSIONS}"] == 1 and made.stripe.calls[f"POST {EVENTS}"] == 2
    assert made.stripe.charged("cus_1", "gb_seconds") == 10


def test_stream_event_has_documented_fields() -> None:
    told = Told(said(200, {}, request_id="req_1"))
    assert one(told.provider, push()) == Accepted()
    (call,) = [call for call in told.calls if call.url == URL + EVENTS]
    assert call.headers["Authorization"] == "Bearer a.token" and "Idempotency-Key" not in call.headers
    (event,) = events(call)
    assert event["payload"] == {"stripe_customer_id": "cus_1", "value": "2"}
    assert (event["event_name"], event["identifier"]) == ("gb_seconds", push().key)
    assert str(event["timestamp"]).endswith("Z")


def test_stream_capabilities_are_documented_limits() -> None:
    can = world().provider.capabilities
    assert (can.batch_size, can.calls_per_s, can.one_at_a_time, can.way) == (MAX_STREAM_EVENTS, 95, False, "stream")


def test_stream_setting_not_url_is_refused() -> None:
    with pytest.raises(UsageError, match="DRAWDOWN_STRIPE_STREAM_URL is not valid: expected an http"):
        World(stream_url="on")


# Sessions.


def test_stream_session_is_renewed_before_expiry() -> None:
    made = world()
    for later_ms, sessions in ((0, 1), (LASTS_MS - RENEWED_MS - 1, 1), (1, 2)):
        made.clock.at_ms += later_ms
        assert one(made.provider, push(key=f"k{made.clock.at_ms}")) == Accepted()
        assert made.stripe.calls[f"POST {SESSIONS}"] == sessions


def test_stream_session_expired_in_batch_is_renewed_and_pushes_retried() -> None:
    made = world()
    assert one(made.provider, push()) == Accepted()
    made.stripe.streams.sessions = dict.fromkeys(made.stripe.streams.sessions, 0)
    outcomes = done(made.provider.push([push(key="a"), push(key="b")]))
    assert [one.at_ms - NOW_MS for one in outcomes if isinstance(one, RetryAt)] == [SECOND_MS] * 2
    assert done(made.provider.push([push(key="a", attempt=2), push(key="b", attempt=2)])) == [Accepted()] * 2
    assert made.stripe.charged("cus_1", "gb_seconds") == 6


@cases(
    ("session", "wait_ms"),
    [
        (NotSent("refused"), 2 * SECOND_MS),
        (NoAnswer("cut"), 2 * SECOND_MS),
        (said(200, {**SESSION, "authentication_token": "a\r\nb"}), 2 * SECOND_MS),
        (said(200, {**SESSION, "expires_at": "soon"}), 2 * SECOND_MS),
        (said(200, {**SESSION, "created": "2026-09-01T00:00:00"}), 2 * SECOND_MS),
        (said(200, b"<html>"), 2 * SECOND_MS),
        (said(429, b"", retry_after="40"), 40 * SECOND_MS),
        (said(500, error("broken", "api_error")), 2 * SECOND_MS),
        (said(401, error("Invalid API Key")), KEY_WAIT_MS),
        (said(403, error("not permitted")), KEY_WAIT_MS),
    ],
)
def test_stream_without_session_does_not_send_event(session: HttpResult, wait_ms: int) -> None:
    told = Told(said(200, {}, request_id="req_1"), session)
    outcome = one(told.provider, push())
    assert isinstance(outcome, RetryAt) and outcome.at_ms - NOW_MS == wait_ms and told.sizes() == []
    assert outcome.by_person == (wait_ms == KEY_WAIT_MS), "no later try helps if the key is refused"


# What an answer means.


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (said(200, {}, request_id="req_1"), Accepted),
        (said(200, {}), Unknown),
        (said(200, {"object": "billing.meter_event"}, request_id="req_1"), Unknown),
        (said(200, b"<html>", request_id="req_1"), Unknown),
        (said(204, b"", request_id="req_1"), Unknown),
        (said(500, error("broken", "api_error")), Unknown),
        (said(409, error("in use", "idempotency_error")), Unknown),
        (said(400, b"<h1>Bad request</h1>"), Unknown),
        (said(400, error("An event already exists with identifier k."), request_id="req_1"), Unknown),
        (said(400, error("payload: missing", code="invalid_fields"), request_id="req_1"), Rejected),
        (said(400, error("payload: missing", code="invalid_fields")), Unknown),
        (said(400, {"error": {"message": "upstream timed out"}}, request_id="req_1"), Unknown),
        (said(400, {"error": {"message": "payload: missing", "code": "invalid_fields"}}, request_id="req_1"), Rejected),
        (said(400, {"error": {"message": "no", "code": "bad_gateway"}}, request_id="req_1"), Unknown),
        (said(400, {"error": {"message": "no", "type": "proxy_error"}}, request_id="req_1"), Unknown),
        (said(401, error("expired", "temporary_session_expired")), RetryAt),
        (said(400, error("expired", code="billing_meter_event_session_expired")), RetryAt),
        (said(404, error("Unrecognized request URL")), RetryAt),
        (said(403, error("not permitted")), RetryAt),
        (said(401, b"<h1>Sign in</h1>"), Unknown),
        (said(403, b"<h1>Forbidden</h1>"), Unknown),
        (said(403, {"error": {"code": 403, "message": "Forbidden", "status": "PERMISSION_DENIED"}}), Unknown),
        (said(403, {"error": {"code": "Forbidden", "message": "no"}}), Unknown),
        (said(404, {"error": {"code": 404, "message": "no route", "status": "NOT_FOUND"}}), Unknown),
        (said(429, b""), RetryAt),
        (NotSent("refused"), RetryAt),
        (NoAnswer("cut"), Unknown),
    ],
)
def test_stream_answers_map_to_outcome_they_prove(answer: HttpResult, kind: type[Outcome]) -> None:
    assert isinstance(one(Told(answer).provider, push()), kind)


def test_stream_batch_with_invalid_event_rejects_only_that_event() -> None:
    def refuses_k5(call: Call) -> Answer:
        wrong = any(event["identifier"] == "k5" for event in events(call))
        return REFUSED if wrong else said(200, {}, request_id="req_1")

    told = Told(refuses_k5)
    outcomes = told.outcomes(16)
    assert [isinstance(outcome, Rejected) for outcome in outcomes] == [number == 5 for number in range(16)]
    assert outcomes.count(Accepted()) == 15
    assert told.sizes() == [16, 8, 4, 4, 2, 1, 1, 2, 8]


def test_stream_batch_of_invalid_events_is_rejected_in_part_and_retried() -> None:
    told = Told(REFUSED)
    kinds = Counter(type(outcome) for outcome in told.outcomes(MAX_STREAM_EVENTS))
    assert len(told.sizes()) == MAX_CALLS and kinds.keys() == {Rejected, RetryAt} and kinds[Rejected] > 10


@cases("written", ["a.token", "\\u0061.token"])
def test_stream_token_is_not_in_error_messages(written: str) -> None:
    body = json.dumps(error("Invalid token XX")).replace("XX", written).encode()
    outcome = one(Told(said(401, body)).provider, push())
    assert isinstance(outcome, RetryAt) and "a.token" not in outcome.reason and "Invalid" in outcome.reason
    assert "a.token" not in repr(done(Told(said(200, {})).provider._stream.session()))


# What never leaves, since Stripe would take it and refuse it later.


def test_stream_push_refused_later_is_rejected_or_delayed_unsent() -> None:
    made = world()
    ahead, old = push(key="a", ts=NOW_MS + AHEAD_MS + 7), push(key="b", ts=NOW_MS - 36 * DAY_MS)
    strange, good = push(key="c", feature="nosuch"), push(key="d")
    outcomes = done(made.provider.push([ahead, old, strange, good]))
    assert outcomes[0] == RetryAt(NOW_MS + 7, "the push is dated further ahead than Stripe accepts")
    assert [type(outcome) for outcome in outcomes[1:]] == [Rejected, Rejected, Accepted]
    assert made.stripe.charged("cus_1", "gb_seconds") == 2 and not made.stripe.webhooks(NOW_MS + DAY_MS)


def test_stream_meter_reactivated_is_accepted_at_once() -> None:
    made = world()
    (meter, *_) = made.stripe.meters.values()
    meter.active = False
    assert isinstance(one(made.provider, push()), Rejected)
    meter.active = True
    assert one(made.provider, push(key="again")) == Accepted()


def test_stream_push_refused_later_is_reported_by_identifier() -> None:
    made = world()
    assert one(made.provider, push(customer_id="cus_nobody")) == Accepted()
    ((headers, body),) = made.stripe.webhooks(NOW_MS + made.stripe.report_after_ms)
    (notice,) = done(made.provider.notices(headers, body, NOW_MS + made.stripe.report_after_ms))  # type: ignore[misc]
    assert isinstance(notice, PushRefused) and notice.key == push().key


def test_stream_check_creates_session_and_does_not_charge() -> None:
    made = world()
    assert done(made.provider.check(["compute"], ["cus_1"])) == []
    told = Told(said(200, {}), said(403, error("not permitted")))
    lines = done(told.provider.check([], []))
    assert any(line.startswith("DRAWDOWN_STRIPE_STREAM_URL: Stripe did not create a session") for line in lines)
    assert told.sizes() == []


# The official client is the measure of the emulator.


@pytest.fixture
def official() -> Iterator[tuple[StripeEmulator, str]]:
    emulator = StripeEmulator()
    emulator.add_customer("cus_1")
    emulator.add_meter("gb_seconds")
    with serving_in_thread(emulator) as url:
        yield emulator, url


def test_stripe_client_creates_session_and_streams_events(official: tuple[StripeEmulator, str]) -> None:
    emulator, url = official
    client = stripe.StripeClient(emulator.secret_key, base_addresses={"api": url}, max_network_retries=0)
    session = client.v2.billing.meter_event_session.create()
    assert session.authentication_token in emulator.streams.sessions
    streaming = stripe.StripeClient(
        session.authentication_token, base_addresses={"meter_events": url}, max_network_retries=0
    )
    payload = {"stripe_customer_id": "cus_1", "value": "3"}
    for _ in range(2):
        streaming.v2.billing.meter_event_stream.create(
            {
                "events": [
                    {"event_name": "gb_seconds", "identifier": f"k{number}", "payload": payload} for number in "ab"
                ]
            }
        )
    assert emulator.charged("cus_1", "gb_seconds") == 6 and emulator.doubles == []


def test_stripe_client_raises_for_expired_stream_session(official: tuple[StripeEmulator, str]) -> None:
    emulator, url = official
    emulator.faults.rates = {"session_expired": 1.0}
    client = stripe.StripeClient("token", base_addresses={"meter_events": url}, max_network_retries=0)
    with pytest.raises(stripe.TemporarySessionExpiredError):
        client.v2.billing.meter_event_stream.create({"events": [{"event_name": "gb_seconds", "payload": {}}]})


def test_push_sent_by_stream_and_by_event_is_charged_twice() -> None:
    """Pessimistic: the documentation does not say that they do. So the way is one of the terms, and cannot change
    while something that was sent is open."""
    made = world()
    old = build(setup(Direct(made.stripe, made.clock), made.clock))
    assert one(old, push()) == Accepted() and one(made.provider, push()) == Accepted()
    assert made.stripe.doubles == [push().key]
