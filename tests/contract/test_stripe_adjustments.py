"""Cancelling a push at Stripe by a meter event adjustment."""

from __future__ import annotations

from urllib.parse import parse_qsl

from drawdown.providers.http import HttpResult, NoAnswer, NotSent
from drawdown.providers.protocol import Absent, Cancelled, FoundPush, ReadFailed
from drawdown.schema.units import DAY_MS, MINUTE_MS
from tests.cases import cases
from tests.contract.stripe_setup import KEY, SECRET, World, done, error, one, push, said, stubbed
from tests.emulators.stripe_events import ADJUSTMENT_FAULTS

LATER = 60 * MINUTE_MS


def answer(status: str = "pending", identifier: str = KEY, kind: str = "billing.meter_event_adjustment") -> HttpResult:
    body = {"object": kind, "status": status, "type": "cancel", "cancel": {"identifier": identifier}}
    return said(200, body, request_id="req_1")


def charged(world: World) -> int:
    return world.stripe.charged("cus_1", "gb_seconds")


def test_cancel_is_sent_as_adjustment_without_idempotency_key() -> None:
    provider, stub = stubbed(answer())
    assert done(provider.cancel(push())) == Cancelled("Stripe accepted the meter event adjustment, pending (req_1)")
    (call,) = stub.calls
    assert (call.method, call.url) == ("POST", "https://stripe.test/v1/billing/meter_event_adjustments")
    assert dict(parse_qsl((call.body or b"").decode())) == {
        "type": "cancel",
        "event_name": "gb_seconds",
        "cancel[identifier]": KEY,
    }
    assert "Idempotency-Key" not in call.headers


def test_cancelled_push_is_not_charged_and_absent_in_lookup() -> None:
    world = World()
    one(world.provider, push(2048))
    one(world.provider, push(4096, revision=1))
    assert isinstance(done(world.provider.cancel(push(2048))), Cancelled)
    assert charged(world) == 4
    world.clock.at_ms += LATER
    assert done(world.provider.lookup(push(2048))) == Absent()
    assert done(world.provider.lookup(push(4096, revision=1))) == FoundPush(4096)


@cases("twice_is_refused", [False, True])
def test_cancel_repeated_is_confirmed(twice_is_refused: bool) -> None:
    world = World()
    world.stripe.events.twice_is_refused = twice_is_refused
    one(world.provider, push())
    assert isinstance(done(world.provider.cancel(push())), Cancelled)
    assert isinstance(done(world.provider.cancel(push())), Cancelled)
    assert charged(world) == 0


@cases(
    "found",
    [
        answer(status="failed"),
        answer(identifier="another"),
        answer(kind="billing.meter_event"),
        said(200, b"<html>"),
        said(200, {}),
        said(400, error("No meter event found with identifier k.")),
        said(400, error("It cannot be canceled: it has already been invoiced.")),
        said(400, error("has already been canceled", kind="api_error")),
        said(401, error(f"Invalid API Key provided: {SECRET}")),
        said(403, error("no permissions")),
        said(429, error("later", code="rate_limit")),
        said(500, error("Sorry!", kind="api_error")),
        NoAnswer("timed out"),
        NotSent("refused"),
    ],
)
def test_cancel_with_unconfirmed_answer_fails(found: HttpResult) -> None:
    result = done(stubbed(found)[0].cancel(push()))
    assert isinstance(result, ReadFailed) and SECRET not in result.reason
    assert result.too_many is ("rate_limit" in result.reason)


def test_cancel_of_unknown_or_old_event_fails() -> None:
    world = World()
    assert isinstance(done(world.provider.cancel(push())), ReadFailed)
    one(world.provider, push())
    world.clock.at_ms += DAY_MS
    assert isinstance(done(world.provider.cancel(push(key="another"))), ReadFailed)
    world.clock.at_ms += 1
    assert isinstance(done(world.provider.cancel(push())), ReadFailed)
    assert charged(world) == 2


@cases("kind", ADJUSTMENT_FAULTS)
def test_cancel_after_each_fault_is_confirmed_on_retry(kind: str) -> None:
    world = World()
    one(world.provider, push())
    world.stripe.faults.rates = {kind: 1.0}
    assert isinstance(done(world.provider.cancel(push())), ReadFailed), "no fault confirms"
    world.stripe.faults.rates = {}
    assert isinstance(done(world.provider.cancel(push())), Cancelled)
    assert charged(world) == 0


def test_cancel_without_key_or_with_stream_is_refused() -> None:
    provider, stub = stubbed(answer(), secret_key="")
    assert isinstance(done(provider.cancel(push())), ReadFailed) and not stub.calls
    assert World().provider.capabilities.cancel_within_ms == DAY_MS
    assert World(stream_url="https://stripe.test").provider.capabilities.cancel_within_ms is None
