"""Stripe as a payment service: what each answer means, against an emulator of it and against answers made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import sqlalchemy as sa

from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer
from drawdown.providers.http import NotSent as NeverLeft
from drawdown.providers.http.client import HttpClient
from drawdown.providers.payments.protocol import (
    Charge,
    ChargeResult,
    Declined,
    InDoubt,
    Link,
    NeedsCustomer,
    NoLink,
    NotFound,
    NotSent,
    OtherContent,
    Payment,
    PaymentService,
)
from drawdown.providers.stripe.payments import LOOKUP_LAG_MS, MAX_PAGES, PAGE, build
from drawdown.providers.stripe.settings import DEFAULT_VERSION
from drawdown.schema.clock import FixedClock
from drawdown.schema.units import DAY_MS, MINUTE_MS
from tests.cases import cases
from tests.contract import sockets
from tests.contract.stripe_payments_setup import (
    CHARGE_ID,
    PaymentWorld,
    card_error,
    charge,
    intent,
    stubbed_payments,
)
from tests.contract.stripe_setup import NOW_MS, SECRET, done, error, said, setup
from tests.emulators.serve import serving
from tests.emulators.stripe_payments import CHARGE_FAULTS, LIST_FAULTS, MAX_LAG_MS, MAX_SLOW_MS

BACK = "https://app.test/credits"


def answered(answer: HttpResult, request: Charge | None = None) -> ChargeResult:
    return done(stubbed_payments(answer)[0].charge(request or charge()))


def listed(*items: object, has_more: object = False, **changes: object) -> Answer:
    return said(200, {"object": "list", "data": list(items), "has_more": has_more, **changes})


def found(answer: HttpResult | Callable[[Call], HttpResult]) -> ChargeResult:
    return done(stubbed_payments(answer)[0].look_up(charge()))


def reason_of(result: ChargeResult) -> str:
    assert not isinstance(result, Payment | NotFound), result
    return result.reason


# What is declared, and what is sent.


def test_stripe_payment_service_declares_limits_beyond_emulator_lag() -> None:
    service = PaymentWorld().service
    assert isinstance(service, PaymentService)
    assert (service.name, service.dormant) == ("stripe", None)
    can = service.capabilities
    assert (can.key_retention_ms, can.lookup_lag_ms, can.applied_within_ms) == (DAY_MS, LOOKUP_LAG_MS, DAY_MS)
    assert (can.least["usd"], can.most) == (50, 99_999_999)
    assert can.lookup_lag_ms > max(MAX_LAG_MS, MAX_SLOW_MS), "else the emulator breaks what is declared"


def test_dormant_stripe_payment_service_does_not_send() -> None:
    service, stub = stubbed_payments(said(200, {}), secret_key="")
    assert service.dormant == "DRAWDOWN_STRIPE_SECRET_KEY is not set"
    assert isinstance(done(service.charge(charge())), NotSent)
    assert isinstance(done(service.look_up(charge())), InDoubt)
    assert isinstance(done(service.card_link("cus_1", BACK)), NoLink)
    assert isinstance(done(service.portal_link("cus_1", BACK)), NoLink)
    assert stub.calls == []


def test_charge_request_has_all_fields_and_idempotency_key() -> None:
    service, stub = stubbed_payments(said(200, intent()))
    assert done(service.charge(charge())) == Payment("pi_1", 2000, "usd")
    read, paid = stub.calls
    assert (read.method, read.url) == ("GET", "https://stripe.test/v1/customers/cus_1")
    assert (paid.method, paid.url) == ("POST", "https://stripe.test/v1/payment_intents")
    assert dict(parse_qsl(paid.body.decode())) == {
        "amount": "2000",
        "currency": "usd",
        "customer": "cus_1",
        "payment_method": "pm_1",
        "off_session": "true",
        "confirm": "true",
        "automatic_payment_methods[enabled]": "true",
        "automatic_payment_methods[allow_redirects]": "never",
        "description": "20 credits",
        "metadata[drawdown_charge]": CHARGE_ID,
    }
    assert paid.headers["Idempotency-Key"] == CHARGE_ID
    assert paid.headers["Stripe-Version"] == DEFAULT_VERSION
    assert SECRET not in repr(paid)


def test_charge_repeated_sends_identical_bytes_and_headers() -> None:
    service, stub = stubbed_payments(NoAnswer("timed out"))
    for _ in range(2):
        done(service.charge(charge()))
    first, second = (call for call in stub.calls if call.method == "POST")
    assert (first.body, first.headers) == (second.body, second.headers)


@cases("charge_id", ["topup:" + "w" * 300 + ":1", "topup:Zürich 1:1", "topup:a%2:1"])
def test_charge_id_of_any_form_is_sent_as_stable_ascii_key(charge_id: str) -> None:
    world = PaymentWorld()
    request = charge(charge_id=charge_id)
    assert isinstance(done(world.service.charge(request)), Payment)
    assert done(world.service.charge(request)) == done(world.service.look_up(request))
    assert len(world.books.taken) == 1
    key = world.books.taken[0].charge_id
    assert key.isascii() and len(key) <= 255
    assert isinstance(done(world.service.look_up(charge(charge_id=charge_id + "1"))), NotFound)


@cases(
    "changes",
    [
        {"charge_id": ""},
        {"charge_id": "x" * 1001},
        {"charge_id": "a\nb"},
        {"charge_id": "\ud800"},
        {"customer_id": ""},
        {"customer_id": ".."},
        {"customer_id": "c" * 256},
        {"customer_id": "\ud800"},
        {"currency": "USD"},
        {"currency": "us"},
        {"amount": 49},
        {"amount": 0},
        {"amount": -2000},
        {"amount": 100_000_000},
        {"amount": 20.5},
        {"amount": True},
    ],
)
def test_charge_stripe_cannot_accept_is_not_sent(changes: dict[str, Any]) -> None:
    service, stub = stubbed_payments(said(200, intent()))
    result = done(service.charge(charge(**changes)))
    assert isinstance(result, NotSent) and result.retry_at_ms is None
    assert isinstance(done(service.look_up(charge(**changes))), InDoubt)
    assert stub.calls == []


def test_charge_in_currency_of_unknown_minimum_is_sent() -> None:
    result = answered(said(200, intent(currency="xof", amount=1, amount_received=1)), charge(1, currency="xof"))
    assert result == Payment("pi_1", 1, "xof")


# What becomes of a charge, by the card.


def test_charge_with_good_card_repeated_is_paid_once() -> None:
    world = PaymentWorld()
    results = [done(world.service.charge(charge())) for _ in range(3)]
    assert results == [Payment(world.books.taken[0].payment_id, 2000, "usd")] * 3
    assert done(world.service.look_up(charge())) == results[0]
    assert world.books.charged(CHARGE_ID) == 2000


@cases(
    ("manner", "code", "retry"),
    [
        ("declined", "generic_decline", True),
        ("insufficient", "insufficient_funds", True),
        ("honor", "do_not_honor", False),  # for its advice: do_not_try_again
        ("stolen", "stolen_card", False),
        ("lost", "lost_card", False),
        ("expired", "expired_card", False),
    ],
)
def test_declined_card_is_reported_by_charge_and_lookup(manner: str, code: str, retry: bool) -> None:
    world = PaymentWorld()
    world.books.put_in("cus_1", manner)
    wanted = Declined(code, "Your card was declined.", retry)
    assert done(world.service.charge(charge())) == wanted
    assert done(world.service.look_up(charge())) == wanted
    assert world.books.taken == []


def test_declined_charge_with_new_card_stays_declined() -> None:
    world = PaymentWorld()
    world.books.put_in("cus_1", "declined")
    first = done(world.service.charge(charge()))
    world.books.put_in("cus_1", "good")
    assert done(world.service.charge(charge())) == first, "the same id gives the same answer"
    assert world.books.taken == []
    assert isinstance(done(world.service.charge(charge(charge_id="topup:acme:8"))), Payment)


@cases("manner", ["authenticate", "action"])
def test_charge_that_needs_authentication_returns_needs_customer(manner: str) -> None:
    world = PaymentWorld()
    world.books.put_in("cus_1", manner)
    assert isinstance(done(world.service.charge(charge())), NeedsCustomer)
    assert isinstance(done(world.service.look_up(charge())), NeedsCustomer)
    assert world.books.taken == []


def test_processing_payment_is_in_doubt_until_settled() -> None:
    world = PaymentWorld()
    world.books.put_in("cus_1", "processing")
    assert isinstance(done(world.service.charge(charge())), InDoubt)
    assert isinstance(done(world.service.look_up(charge())), InDoubt)
    world.wait(world.books.settles_after_ms)
    assert isinstance(done(world.service.look_up(charge())), Payment)


@cases(("reason", "retry"), [("requested_by_customer", False), ("abandoned", True), (None, True)])
def test_cancelled_payment_is_declined_with_retry_by_reason(reason: str | None, retry: bool) -> None:
    world = PaymentWorld()
    world.books.put_in("cus_1", "processing")
    done(world.service.charge(charge()))
    world.books.cancel(world.books.intents[0].id, reason)
    result = done(world.service.look_up(charge()))
    assert isinstance(result, Declined) and (result.code, result.retry) == ("canceled", retry)


# The card.


def test_customer_without_card_is_not_charged() -> None:
    world = PaymentWorld()
    result = done(world.service.charge(charge(customer_id="cus_2")))
    assert result == NotSent("the customer does not have a card on file", None)
    assert world.books.intents == []


def test_card_saved_on_checkout_page_is_charged() -> None:
    world = PaymentWorld()
    link = done(world.service.card_link("cus_2", BACK))
    assert isinstance(link, Link) and link.expires_ms == 1_900_000_000_000
    assert isinstance(done(world.service.charge(charge(customer_id="cus_2"))), NotSent), "nothing was put in yet"
    world.books.complete(link.url)
    assert isinstance(done(world.service.charge(charge(customer_id="cus_2"))), Payment)


def test_card_of_foreign_checkout_page_is_not_charged() -> None:
    """A page that another program of the account made may be for something else."""
    world = PaymentWorld()
    link = done(world.service.card_link("cus_2", BACK))
    assert isinstance(link, Link)
    world.books.complete(link.url)
    world.books.pages[0].metadata = {"job": "9"}
    assert isinstance(done(world.service.charge(charge(customer_id="cus_2"))), NotSent)


def test_portal_card_overrides_checkout_page_card() -> None:
    world = PaymentWorld()
    link = done(world.service.card_link("cus_2", BACK))
    assert isinstance(link, Link)
    world.books.complete(link.url, "stolen")
    world.books.put_in("cus_2", "good")
    assert isinstance(done(world.service.charge(charge(customer_id="cus_2"))), Payment)


@cases(
    ("customer", "fix"),
    [
        ({"id": "cus_1", "object": "customer", "deleted": True}, True),
        ({"id": "cus_2", "invoice_settings": {"default_payment_method": "pm_1"}}, False),
        ([1], False),
        (b"<html>", False),
        (b"[" * 100_000, False),
    ],
)
def test_unreadable_customer_is_not_charged(customer: object, fix: bool) -> None:
    service, stub = stubbed_payments(said(200, intent()), customer)
    result = done(service.charge(charge()))
    assert isinstance(result, NotSent) and (result.retry_at_ms is None) == fix
    assert [call.method for call in stub.calls] == ["GET"]


@cases("card", ["", "pm 1", "pm/../x", 7, {"id": "p" * 300}, ["pm_1"]])
def test_invalid_card_reference_is_not_charged(card: object) -> None:
    customer = {"id": "cus_1", "object": "customer", "invoice_settings": {"default_payment_method": card}}
    service, stub = stubbed_payments(listed(), customer)
    assert done(service.charge(charge())) == NotSent("the customer does not have a card on file", None)
    assert {call.method for call in stub.calls} == {"GET"}


def test_checkout_pages_are_searched_in_newest_20_only() -> None:
    service, stub = stubbed_payments(listed(has_more=True), {"id": "cus_1", "invoice_settings": None})
    done(service.charge(charge()))
    assert [dict(parse_qsl(urlsplit(call.url).query)).get("limit") for call in stub.calls] == [None, "20"]


def test_expanded_card_object_is_charged_by_its_id() -> None:
    customer = {"id": "cus_1", "invoice_settings": {"default_payment_method": {"id": "pm_9", "card": {}}}}
    service, stub = stubbed_payments(said(200, intent(customer={"id": "cus_1"})), customer)
    assert isinstance(done(service.charge(charge())), Payment)
    assert b"payment_method=pm_9" in stub.calls[1].body


def test_charge_of_unknown_customer_is_not_retried() -> None:
    result = done(PaymentWorld().service.charge(charge(customer_id="cus_none")))
    assert isinstance(result, NotSent) and result.retry_at_ms is None and "No such customer" in result.reason


# Faults.


@cases("kind", ["connection_refused", "throttled", "throttled_nonsense"])
def test_charge_proven_unsent_is_retried_and_charged_once(kind: str) -> None:
    world = PaymentWorld()
    world.books.script.append(kind)
    result = done(world.service.charge(charge()))
    assert isinstance(result, NotSent) and result.retry_at_ms is not None
    assert 1_000 <= result.retry_at_ms - NOW_MS <= 900_000
    assert done(world.service.look_up(charge())) == NotFound()
    assert isinstance(done(world.service.charge(charge())), Payment)
    assert world.books.charged(CHARGE_ID) == 2000


@cases("kind", ["answer_lost", "error_500_after", "late_listing", "slow"])
def test_charge_taken_without_answer_is_found_by_lookup(kind: str) -> None:
    world = PaymentWorld()
    world.books.script.append(kind)
    assert isinstance(done(world.service.charge(charge())), InDoubt)
    world.wait(LOOKUP_LAG_MS)
    assert isinstance(done(world.service.look_up(charge())), Payment)
    assert world.books.charged(CHARGE_ID) == 2000


@cases("kind", ["request_lost", "error_500_before", "cached_500", "lock_timeout"])
def test_charge_not_taken_without_answer_is_absent_after_lag(kind: str) -> None:
    world = PaymentWorld()
    world.books.script.append(kind)
    assert isinstance(done(world.service.charge(charge())), InDoubt)
    world.wait(LOOKUP_LAG_MS)
    assert done(world.service.look_up(charge())) == NotFound()
    assert world.books.taken == []


def test_saved_500_repeats_for_24_h_and_lookup_reports_absent() -> None:
    world = PaymentWorld()
    world.books.script.append("cached_500")
    done(world.service.charge(charge()))
    world.wait(DAY_MS - 1)
    assert isinstance(done(world.service.charge(charge())), InDoubt)
    assert done(world.service.look_up(charge())) == NotFound()
    world.wait(1)
    assert isinstance(done(world.service.charge(charge())), Payment)


def test_charge_during_same_call_in_progress_is_in_doubt() -> None:
    world = PaymentWorld()
    world.books.script.append("slow")
    assert isinstance(done(world.service.charge(charge())), InDoubt)
    result = done(world.service.charge(charge()))
    assert isinstance(result, InDoubt) and "in-progress" in result.reason
    world.wait(MAX_SLOW_MS)
    assert isinstance(done(world.service.charge(charge())), Payment)
    assert len(world.books.taken) == 1


def test_lookup_in_late_listing_is_absent_until_lag_ends() -> None:
    """Why absence proves nothing before the lag is over."""
    world = PaymentWorld()
    world.books.lag_ms = LOOKUP_LAG_MS - 1
    done(world.service.charge(charge()))
    assert done(world.service.look_up(charge())) == NotFound()
    world.wait(LOOKUP_LAG_MS)
    assert isinstance(done(world.service.look_up(charge())), Payment)


@cases("seed", range(12))
def test_garbage_answer_is_in_doubt(seed: int) -> None:
    world = PaymentWorld(seed=seed)
    world.books.script.append("garbage")
    assert isinstance(done(world.service.charge(charge())), InDoubt)
    world.books.script.append("list_garbage")
    assert isinstance(done(world.service.look_up(charge())), InDoubt)
    wanted = Payment if world.books.taken else NotFound
    assert isinstance(done(world.service.look_up(charge())), wanted)


@cases("kind", ["connection_refused", "reads_fail"])
def test_failed_lookup_is_in_doubt(kind: str) -> None:
    world = PaymentWorld()
    done(world.service.charge(charge()))
    world.books.script.append(kind)
    assert isinstance(done(world.service.look_up(charge())), InDoubt)


def test_payment_listed_twice_is_found_as_paid() -> None:
    world = PaymentWorld()
    done(world.service.charge(charge()))
    world.books.script.append("list_twice")
    assert isinstance(done(world.service.look_up(charge())), Payment)


def test_charge_faults_are_not_declined_and_not_doubled() -> None:
    world = PaymentWorld()
    for kind in (*CHARGE_FAULTS, *LIST_FAULTS):
        on_list = kind in LIST_FAULTS and kind not in CHARGE_FAULTS
        world.books.script.append(kind)
        request = charge(charge_id=f"topup:acme:{kind}")
        result = done(world.service.look_up(request) if on_list else world.service.charge(request))
        assert not isinstance(result, Declined), (kind, result)
        world.wait(2 * LOOKUP_LAG_MS)
    assert set(world.books.struck) == {*CHARGE_FAULTS, *LIST_FAULTS}
    assert world.books.doubles() == []


# Other content.


def test_charge_of_another_amount_is_other_content() -> None:
    world = PaymentWorld()
    world.books.script.append("other_amount")
    assert isinstance(done(world.service.charge(charge())), OtherContent)
    assert isinstance(done(world.service.look_up(charge())), OtherContent)


@cases(
    ("changes", "words"),
    [
        ({"amount": 2001}, "amount 2000"),
        ({"amount": "2000"}, "amount 2000"),
        ({"amount": True}, "amount 2000"),
        ({"currency": "eur"}, "currency usd"),
        ({"customer": "cus_2"}, "customer"),
        ({"customer": None}, "customer"),
        ({"amount_received": 1999}, "received another amount"),
    ],
)
def test_payment_field_mismatch_is_named_by_charge_and_lookup(changes: dict[str, Any], words: str) -> None:
    for result in (answered(said(200, intent(**changes))), found(listed(intent(**changes)))):
        assert isinstance(result, OtherContent) and words in result.reason and "pi_1" in result.reason


def test_declined_payment_of_another_amount_is_other_content() -> None:
    refused = card_error(payment_intent=intent(status="requires_payment_method", amount=1))
    assert isinstance(answered(said(402, {"error": refused})), OtherContent)


def test_reused_charge_key_with_other_content_is_reported() -> None:
    world = PaymentWorld()
    done(world.service.charge(charge()))
    result = done(world.service.charge(charge(3000)))
    assert isinstance(result, OtherContent) and "not the amount 3000" in result.reason
    world.books.put_in("cus_2")
    result = done(world.service.charge(charge(customer_id="cus_2")))
    assert isinstance(result, OtherContent) and "sent before" in result.reason
    assert len(world.books.taken) == 1


def test_card_changed_between_attempts_does_not_charge_twice() -> None:
    """The card is part of the call: the second attempt is refused, and the first is looked up."""
    world = PaymentWorld()
    world.books.script.append("error_500_after")
    assert isinstance(done(world.service.charge(charge())), InDoubt)
    world.books.put_in("cus_1", "good")
    assert isinstance(done(world.service.charge(charge())), Payment)
    assert len(world.books.taken) == 1


def test_charge_with_changed_card_and_unreadable_list_is_in_doubt() -> None:
    world = PaymentWorld()
    world.books.script.append("error_500_after")
    done(world.service.charge(charge()))
    world.books.put_in("cus_1", "good")
    world.books.script.extend([None, "list_garbage"])
    assert isinstance(done(world.service.charge(charge())), InDoubt)


def test_two_payments_under_same_charge_id_are_other_content() -> None:
    result = found(listed(intent(), intent(id="pi_2", status="canceled")))
    assert isinstance(result, OtherContent) and "pi_1" in result.reason and "pi_2" in result.reason


# Answers of the call that charges, by hand.


@cases(
    ("status", "body"),
    [
        (200, b"<html>"),
        (200, b""),
        (200, [1]),
        (200, b"[" * 100_000),
        (200, b'{"object": "payment_intent", "amount": ' + b"9" * 20_000),
        (200, {"object": "payment_intent"}),
        (200, intent(object="charge")),
        (200, intent(metadata=None)),
        (200, intent(metadata={"drawdown_charge": "topup:other:1"})),
        (200, intent(metadata={"drawdown_charge": [CHARGE_ID]})),
        (200, intent(id=None)),
        (200, intent(id="pi_1_secret_abc")),
        (200, intent(amount_received=None)),
        (200, intent(amount_received="2000")),
        (200, intent(status=None)),
        (200, intent(status=["succeeded"])),
        (200, intent(status={"a": 1})),
        (200, intent(status="requires_capture")),
        (200, intent(status="requires_confirmation")),
        (200, intent(status="requires_payment_method")),
        (200, intent(status="requires_payment_method", last_payment_error="no")),
        (200, intent(status="a new one")),
        (201, intent()),
        (204, b""),
        (302, b""),
        (400, b"<h1>Bad request</h1>"),
        (400, error("odd", "api_error")),
        (400, {"error": {**card_error(), "payment_intent": intent()}}),
        (400, {"error": {"type": "invalid_request_error", "message": "state", "payment_intent": intent()}}),
        (401, b"<h1>Sign in</h1>"),
        (403, b"<h1>Forbidden</h1>"),
        (403, {"error": {"code": 403, "message": "Forbidden", "status": "PERMISSION_DENIED"}}),
        (403, {"error": {"code": "Forbidden", "message": "no"}}),
        (402, b"<h1>Pay here</h1>"),
        (402, error("odd", "api_error")),
        (402, {"error": card_error(payment_intent=intent(status="processing"))}),
        (402, {"error": card_error(payment_intent=intent(status=[]))}),
        (402, {"error": card_error(payment_intent=intent(metadata={}))}),
        (409, b""),
        (409, error("in use", "idempotency_error", "idempotency_key_in_use")),
        (400, error("in use", "idempotency_error", "idempotency_key_in_use")),
        (409, error("in use", "idempotency_error")),
        (429, error("locked", code="lock_timeout")),
        (500, error("broken", "api_error")),
        (500, {"error": card_error()}),
        (503, b""),
        (599, error("No such customer", code="resource_missing")),
    ],
)
def test_inconclusive_charge_answer_is_in_doubt(status: int, body: object) -> None:
    assert isinstance(answered(said(status, body)), InDoubt)


def test_error_402_with_succeeded_payment_is_paid() -> None:
    assert isinstance(answered(said(402, {"error": card_error(payment_intent=intent())})), Payment)


def test_error_402_with_action_required_needs_customer() -> None:
    refused = card_error("payment_intent_action_required", payment_intent=intent(status="requires_action"))
    assert isinstance(answered(said(402, {"error": refused})), NeedsCustomer)


def test_card_error_without_payment_is_declined() -> None:
    assert answered(said(402, {"error": card_error(decline="lost_card")})) == Declined(
        "lost_card", "Your card was declined.", False
    )


@cases(
    ("parts", "code", "retry"),
    [
        ({"code": "card_declined", "decline_code": "do_not_honor"}, "do_not_honor", True),
        ({"code": "card_declined", "decline_code": "a_new_one"}, "a_new_one", True),
        ({"code": "card_declined", "decline_code": "pickup_card"}, "pickup_card", False),
        ({"code": "card_declined", "decline_code": "restricted_card"}, "restricted_card", False),
        ({"code": "card_declined", "decline_code": "fraudulent"}, "fraudulent", False),
        ({"code": "card_declined", "advice_code": "do_not_try_again"}, "card_declined", False),
        ({"code": "card_declined", "advice_code": "confirm_card_data"}, "card_declined", False),
        ({"code": "expired_card"}, "expired_card", False),
        ({"code": 7, "decline_code": [], "message": None}, "unknown", True),
    ],
)
def test_decline_reports_code_and_whether_retry_is_allowed(parts: dict[str, Any], code: str, retry: bool) -> None:
    refused = {"type": "card_error", "message": "No.", **parts}
    result = answered(said(402, {"error": refused}))
    assert isinstance(result, Declined) and (result.code, result.retry) == (code, retry)
    waiting = intent(status="requires_payment_method", last_payment_error=refused, amount_received=0)
    assert found(listed(waiting)) == result


@cases("status", [401, 403])
def test_refused_api_key_does_not_charge_and_is_retried_in_5_minutes(status: int) -> None:
    result = answered(said(status, error(f"Invalid API Key provided: {SECRET}")))
    assert isinstance(result, NotSent) and result.retry_at_ms == NOW_MS + 5 * MINUTE_MS
    assert SECRET not in result.reason


@cases(("headers", "wait_ms"), [({"retry_after": "7"}, 7000), ({"retry_after": "9" * 15}, 900_000), ({}, 2000)])
def test_throttled_charge_is_retried_after_requested_wait(headers: dict[str, str], wait_ms: int) -> None:
    assert answered(said(429, b"Slow down", **headers)) == NotSent("HTTP 429", NOW_MS + wait_ms)


@cases("status", [400, 404])
def test_stripe_error_about_charge_is_not_retried(status: int) -> None:
    result = answered(said(status, error("No such PaymentMethod: 'pm_1'", code="resource_missing")))
    assert result == NotSent(f"HTTP {status}: resource_missing: No such PaymentMethod: 'pm_1'", None)


def test_charge_without_answer_is_in_doubt_and_without_connection_unsent() -> None:
    assert isinstance(answered(NoAnswer("timed out")), InDoubt)
    result = answered(NeverLeft("refused"))
    assert isinstance(result, NotSent) and result.retry_at_ms is not None and result.retry_at_ms > NOW_MS


# The lookup, by hand.


def test_lookup_reads_customer_payments_since_charge_was_decided() -> None:
    service, stub = stubbed_payments(listed())
    assert done(service.look_up(charge())) == NotFound()
    (call,) = stub.calls
    assert call.method == "GET" and urlsplit(call.url).path == "/v1/payment_intents"
    since = str((NOW_MS - 60 * MINUTE_MS) // 1000)
    assert dict(parse_qsl(urlsplit(call.url).query)) == {"customer": "cus_1", "created[gte]": since, "limit": "100"}


@cases(
    "answer",
    [
        NoAnswer("timed out"),
        NeverLeft("refused"),
        said(200, b"<html>"),
        said(200, b"[" * 100_000),
        said(200, {"data": [], "has_more": False}),
        listed(has_more=None),
        listed(has_more="false"),
        listed(has_more=True),
        listed(data={}),
        listed(data=None),
        listed(None),
        listed([intent()]),
        listed({"object": "payment_intent", "customer": "cus_1"}),
        listed(intent(id=7)),
        listed(intent(id="\ud800", metadata={})),
        listed(intent(id="pi_" + "x" * 100_000, metadata={})),
        listed(intent(customer="cus_2", metadata={})),
        listed(intent(customer=None, metadata={})),
        listed(intent(customer={"id": ["cus_1"]}, metadata={})),
        said(400, error("No such customer", code="resource_missing")),
        said(401, error("Invalid API Key")),
        said(404, b"not found"),
        said(429, b""),
        said(500, b""),
    ],
)
def test_truncated_payment_list_is_in_doubt(answer: HttpResult) -> None:
    assert isinstance(found(answer), InDoubt)


def test_charge_in_many_pages_is_found() -> None:
    world = PaymentWorld()
    for number in range(3 * PAGE + 50):
        assert isinstance(done(world.service.charge(charge(charge_id=f"topup:acme:n{number}"))), Payment)
    assert done(world.service.look_up(charge())) == NotFound()
    first = done(world.service.look_up(charge(charge_id="topup:acme:n0")))
    assert isinstance(first, Payment) and first.payment_id == world.books.taken[0].payment_id


def test_endless_payment_list_is_in_doubt_after_maximum_pages() -> None:
    numbers = iter(range(10_000))
    service, stub = stubbed_payments(lambda call: listed(intent(id=f"pi_{next(numbers)}", metadata={}), has_more=True))
    result = done(service.look_up(charge()))
    assert isinstance(result, InDoubt) and str(MAX_PAGES * PAGE) in result.reason
    assert len(stub.calls) == MAX_PAGES


def test_payment_in_endless_list_is_found() -> None:
    numbers = iter(range(10_000))

    def answer(call: Call) -> HttpResult:
        number = next(numbers)
        return listed(intent(id=f"pi_{number}", metadata=intent()["metadata"] if number == 3 else {}), has_more=True)

    assert found(answer) == Payment("pi_3", 2000, "usd")


def test_payments_before_charge_was_decided_are_not_found() -> None:
    world = PaymentWorld()
    assert isinstance(done(world.service.charge(charge())), Payment)
    world.wait(DAY_MS)
    assert done(world.service.look_up(charge(begun_ms=world.clock.at_ms))) == NotFound()
    assert isinstance(done(world.service.look_up(charge(begun_ms=NOW_MS + 59 * MINUTE_MS))), Payment), (
        "clocks may differ"
    )


# Links.


def test_links_point_to_stripe_and_are_hidden_in_repr() -> None:
    world = PaymentWorld()
    card, portal = done(world.service.card_link("cus_1", BACK)), done(world.service.portal_link("cus_1", BACK))
    assert isinstance(card, Link) and card.url.startswith("https://checkout.stripe.test/")
    assert isinstance(portal, Link) and portal.url.startswith("https://billing.stripe.test/")
    assert portal.expires_ms is None
    assert "stripe.test" not in repr(card) + repr(portal)
    assert world.books.intents == [] and world.books.taken == []


def test_card_link_is_setup_mode_for_cards_only() -> None:
    service, stub = stubbed_payments(said(200, {"url": "https://x.test/1", "customer": "cus_1", "expires_at": 5}))
    assert done(service.card_link("cus_1", BACK)) == Link("https://x.test/1", 5000)
    form = dict(parse_qsl(stub.calls[0].body.decode()))
    assert (form["mode"], form["payment_method_types[0]"]) == ("setup", "card")
    assert (form["success_url"], form["cancel_url"]) == (BACK, BACK)


@cases(
    "back",
    ["", "app.test", "javascript:alert(1)", "file:///etc/passwd", "https://", "https://a b", "https://x\n", "http://[",
     "https://user@x.test", "https://x.test/" + "x" * 5000],
)  # fmt: skip
def test_invalid_return_url_is_refused_unsent(back: str) -> None:
    service, stub = stubbed_payments(said(200, {}))
    assert isinstance(done(service.card_link("cus_1", back)), NoLink)
    assert isinstance(done(service.portal_link("cus_1", back)), NoLink)
    assert stub.calls == []


@cases(
    "answer",
    [
        NoAnswer("timed out"),
        said(200, b"<html>"),
        said(200, {"customer": "cus_1"}),
        said(200, {"customer": "cus_1", "url": 7}),
        said(200, {"customer": "cus_1", "url": "http://stripe.test/1"}),
        said(200, {"customer": "cus_1", "url": "javascript:alert(1)"}),
        said(200, {"customer": "cus_1", "url": "https://x.test/" + "x" * 5000}),
        said(200, {"customer": "cus_2", "url": "https://x.test/"}),
        said(400, error("No configuration provided and your test mode default configuration has not been created.")),
        said(401, error("Invalid API Key")),
        said(500, b""),
    ],
)
def test_malformed_link_is_refused(answer: HttpResult) -> None:
    service, _ = stubbed_payments(answer)
    assert isinstance(done(service.card_link("cus_1", BACK)), NoLink)
    assert isinstance(done(service.portal_link("cus_1", BACK)), NoLink)


@cases("expires", [None, True, -1, 0, 10**30, "5", 1.5])
def test_invalid_link_expiry_is_omitted(expires: object) -> None:
    service, _ = stubbed_payments(said(200, {"customer": "cus_1", "url": "https://x.test/", "expires_at": expires}))
    assert done(service.card_link("cus_1", BACK)) == Link("https://x.test/", None)


# Secrets and text from outside.


def test_payment_result_texts_are_short_without_secret() -> None:
    shown = f"{SECRET} whsec_abcdef\n\x1b[31m" + "x" * 10_000
    refused = {"type": "card_error", "code": shown, "decline_code": shown, "message": shown, "advice_code": shown}
    results = [
        answered(said(402, {"error": refused})),
        answered(said(400, error(shown))),
        answered(said(500, error(shown, code=shown))),
        answered(said(401, error(shown))),
        answered(said(200, intent(status=shown))),
        answered(said(200, intent(status="canceled", cancellation_reason=shown))),
        answered(said(429, error(shown), request_id="req_1" + shown.replace("\n", ""))),
        answered(NoAnswer(shown)),
        found(listed(intent(status="requires_payment_method", last_payment_error=refused))),
        found(said(400, error(shown))),
    ]
    for result in results:
        text = reason_of(result)
        assert SECRET not in repr(result) and "abcdef" not in repr(result)
        assert len(text) < 400 and text.isprintable()
        assert not isinstance(result, Declined) or len(result.code) <= 60


def test_charges_under_faults_do_not_print_or_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    world = PaymentWorld(dict.fromkeys(CHARGE_FAULTS, 0.07))
    for number in range(60):
        done(world.service.charge(charge(charge_id=f"topup:acme:{number}")))
    assert capfd.readouterr() == ("", "") and caplog.text == ""


# Over real sockets.


def over_sockets(
    world: PaymentWorld, server: AbstractAsyncContextManager[object], work: Callable[[Any], Any], url: str = ""
) -> Any:
    """Work with a service over the project's own client."""

    async def run() -> Any:
        http = HttpClient()
        try:
            async with server as served:
                at = url or (served if isinstance(served, str) else "")
                given = setup(http, world.clock, sa.create_engine("sqlite://"), url=at)
                return await work(build(given))
        finally:
            await http.close()

    return done(run())


def test_charge_over_sockets_is_made_once_and_found() -> None:
    world = PaymentWorld()
    world.books.script.extend(["answer_lost", None])

    async def work(service: PaymentService) -> list[ChargeResult]:
        return [await service.charge(charge()), await service.look_up(charge()), await service.charge(charge())]

    first, second, third = over_sockets(world, serving(world.stripe, world.clock), work)
    assert isinstance(first, InDoubt) and isinstance(second, Payment) and second == third
    assert world.books.charged(CHARGE_ID) == 2000


def test_charge_to_closed_port_is_not_sent() -> None:
    world = PaymentWorld()
    url = f"http://127.0.0.1:{sockets.free_port()}"
    result = over_sockets(world, serving(world.stripe, world.clock), lambda service: service.charge(charge()), url)
    assert isinstance(result, NotSent) and result.retry_at_ms is not None and "ECONNREFUSED" in result.reason


CUSTOMER = json.dumps({"id": "cus_1", "invoice_settings": {"default_payment_method": "pm_1"}}).encode()


class Read:
    """A peer whose request was read already."""

    def __init__(self, peer: sockets.Peer) -> None:
        self._peer = peer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peer, name)

    async def request(self) -> bytes:
        return b""


@cases(
    ("manner", "words"),
    [
        (sockets.endless, "the response has more than 65536 bytes"),
        (sockets.answering(sockets.BOMB), "the response has more than 65536 bytes"),
        (sockets.reset_after_reading, "the connection broke"),
    ],
)
def test_endless_charge_answer_is_cut_off_and_in_doubt(manner: Callable[[Any], Any], words: str) -> None:
    """The customer is read as it should be, and the call that charges is not answered."""

    async def served(peer: sockets.Peer) -> None:
        if (await peer.request()).startswith(b"GET"):
            await peer.say(sockets.body_of(CUSTOMER, b"connection: close\r\n"))
        else:
            await manner(Read(peer))

    async def run() -> ChargeResult:
        http = HttpClient()
        async with sockets.serving(served) as seen:
            url = "{0.scheme}://{0.netloc}".format(urlsplit(seen.url))
            try:
                return await build(setup(http, FixedClock(NOW_MS), url=url)).charge(charge())
            finally:
                await http.close()

    assert done(run()) == InDoubt(f"no response: {words}")
