"""Stripe's webhooks: who may say what, and which pushes an error report names."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256

import pytest

from drawdown.providers.http import Answer, HttpResult, NoAnswer
from drawdown.providers.protocol import (
    Accepted,
    CustomerChanged,
    Notice,
    Outcome,
    PushRefused,
    ReadFailed,
    WebhookRefused,
)
from drawdown.providers.stripe import StripeProvider
from tests.cases import cases
from tests.contract.stripe_setup import KEY, NOW_MS, World, error, push, said, stubbed

SECRET = "whsec_emulator"
CHANGED = {"type": "customer.updated", "object": "event", "data": {"object": {"object": "customer", "id": "cus_1"}}}


def told(
    provider: StripeProvider, headers: Mapping[str, str], body: bytes, now_ms: int = NOW_MS
) -> Sequence[Notice] | ReadFailed:
    return asyncio.run(_told(provider, headers, body, now_ms))


async def _told(
    provider: StripeProvider, headers: Mapping[str, str], body: bytes, now_ms: int
) -> Sequence[Notice] | ReadFailed:
    return await provider.notices(headers, body, now_ms)


def signature(body: bytes, secret: str = SECRET, stamp: object = NOW_MS // 1000) -> str:
    return hmac.new(secret.encode(), f"{stamp}.".encode() + body, sha256).hexdigest()


def signed(event: object) -> tuple[dict[str, str], bytes]:
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return {"stripe-signature": f"t={NOW_MS // 1000},v1={signature(body)}"}, body


def test_signed_webhook_reports_changed_customer() -> None:
    assert told(World().provider, *signed(CHANGED)) == [CustomerChanged("cus_1")]


BODY = json.dumps(CHANGED).encode()
STAMP = NOW_MS // 1000
RIGHT = signature(BODY)


@cases(
    "header",
    [
        "",
        "nonsense",
        f"t={STAMP}",
        f"v1={RIGHT}",
        f"t={STAMP},v1=",
        f"t={STAMP},v0={RIGHT}",
        f"t={STAMP},v1={RIGHT[:-1]}",
        f"t={STAMP},v1={RIGHT[:-1]}0" if not RIGHT.endswith("0") else f"t={STAMP},v1={RIGHT[:-1]}1",
        f"t={STAMP},v1={RIGHT}é",
        f"t={STAMP + 1},v1={RIGHT}",
        f"t=,v1={RIGHT}",
        f"t=x,v1={RIGHT}",
        f"t=-1,v1={RIGHT}",
        f"t={'9' * 5000},v1={RIGHT}",
        f"t={STAMP},t={STAMP},v1={RIGHT}",
        f"t={STAMP},v1={signature(BODY, 'whsec_other')}",
        f"t={STAMP - 301},v1={signature(BODY, stamp=STAMP - 301)}",
        f"t={STAMP + 301},v1={signature(BODY, stamp=STAMP + 301)}",
    ],
)
def test_webhook_with_invalid_signature_is_refused(header: str) -> None:
    with pytest.raises(WebhookRefused) as refused:
        told(World().provider, {"stripe-signature": header}, BODY)
    assert SECRET not in str(refused.value) and RIGHT not in str(refused.value)


def test_webhook_with_changed_body_is_refused() -> None:
    with pytest.raises(WebhookRefused):
        told(World().provider, {"stripe-signature": f"t={STAMP},v1={RIGHT}"}, BODY + b" ")


def test_webhook_without_configured_secret_is_refused() -> None:
    with pytest.raises(WebhookRefused, match="DRAWDOWN_STRIPE_WEBHOOK_SECRETS"):
        told(World(webhook_secrets="").provider, *signed(CHANGED))


@cases(
    "header",
    [
        f"t={STAMP},v1={RIGHT}",
        f"v1={RIGHT},t={STAMP}",
        f"t={STAMP}, v1={'0' * 64}, v1={RIGHT}, v0=x",
        f"t={STAMP},v1={signature(BODY, 'whsec_new')}",
        f"t={STAMP - 300},v1={signature(BODY, stamp=STAMP - 300)}",
        f"t={STAMP + 300},v1={signature(BODY, stamp=STAMP + 300)}",
    ],
)
def test_webhook_with_any_configured_secret_or_signature_is_accepted(header: str) -> None:
    provider = World(webhook_secrets=f"whsec_new, {SECRET}").provider
    assert told(provider, {"stripe-signature": header}, BODY) == [CustomerChanged("cus_1")]


@cases("name", ["account", "context"])
def test_webhook_of_another_account_is_refused(name: str) -> None:
    ours, other = {**CHANGED, name: "acct_1"}, {**CHANGED, name: "acct_2"}
    provider = World(account="acct_1").provider
    assert told(provider, *signed(ours)) == [CustomerChanged("cus_1")]
    assert told(provider, *signed({**CHANGED, name: None})) == [CustomerChanged("cus_1")]
    assert told(World().provider, *signed(other)) == [CustomerChanged("cus_1")]
    with pytest.raises(WebhookRefused, match="and not for acct_1"):
        told(provider, *signed(other))


@cases(
    ("kind", "about", "customer"),
    [
        ("customer.deleted", {"object": "customer", "id": "cus_9"}, "cus_9"),
        ("customer.subscription.updated", {"object": "subscription", "id": "sub_1", "customer": "cus_9"}, "cus_9"),
        ("invoice.paid", {"object": "invoice", "customer": {"id": "cus_9", "object": "customer"}}, "cus_9"),
        ("checkout.session.completed", {"object": "checkout.session", "customer": "cus_9"}, "cus_9"),
        ("billing.credit_grant.created", {"object": "billing.credit_grant", "customer": "cus_9"}, "cus_9"),
        (
            "billing.credit_balance_transaction.created",
            {"object": "billing.credit_balance_transaction", "credit_grant": {"id": "cg", "customer": "cus_9"}},
            "cus_9",
        ),
        ("billing.alert.triggered", {"object": "billing.alert_triggered", "customer": "cus_9"}, "cus_9"),
        ("checkout.session.completed", {"object": "checkout.session", "customer": None}, None),
        ("invoice.paid", {"object": "invoice"}, None),
        ("invoice.paid", "cus_9", None),
        ("invoice.paid", {"customer": ["cus_9"]}, None),
        ("payout.paid", {"object": "payout", "customer": "cus_9"}, None),
        (7, {"object": "invoice", "customer": "cus_9"}, None),
    ],
)
def test_webhook_reports_customer_of_each_event_kind(kind: object, about: object, customer: str | None) -> None:
    event = {"object": "event", "type": kind, "data": {"object": about}}
    assert told(World().provider, *signed(event)) == ([CustomerChanged(customer)] if customer else [])


@cases("body", [b"", b"[]", b"{", b"{}", b"\xff", b'"x"', b"[" * 100_000, b'{"data": 7, "type": "invoice.x"}'])
def test_signed_webhook_of_unknown_content_is_ignored(body: bytes) -> None:
    assert told(World().provider, *signed(body)) == []


# Error reports.


def test_push_refused_later_is_reported_by_webhook_with_its_key() -> None:
    world = World({"late_rejection": 1.0})
    (outcome,) = asyncio.run(_pushed(world, attempt=3))
    assert outcome == Accepted()
    assert world.stripe.webhooks(NOW_MS) == []
    ((headers, body),) = world.stripe.webhooks(NOW_MS + 60_000)
    assert b"usage:" not in body
    found = told(world.provider, headers, body, NOW_MS + 60_000)
    assert found == [PushRefused(KEY, "archived_meter: The meter was archived while the event was processed.")]
    assert world.stripe.charged_by() == {}


async def _pushed(world: World, attempt: int = 1, customer_id: str = "cus_1", key: str = KEY) -> Sequence[Outcome]:
    return await world.provider.push([push(attempt=attempt, customer_id=customer_id, key=key)])


def test_pushes_of_unknown_customer_are_reported_refused_by_webhook() -> None:
    world = World()
    for number in range(3):
        asyncio.run(_pushed(world, customer_id="cus_nobody", key=f"k{number}"))
    ((headers, body),) = world.stripe.webhooks(NOW_MS + 60_000)
    found = told(world.provider, headers, body, NOW_MS + 60_000)
    assert isinstance(found, list)
    assert [one.key for one in found] == ["k0", "k1", "k2"]
    assert all("cus_nobody" in one.reason for one in found)


def test_error_report_identifier_without_attempt_is_push_key() -> None:
    assert _report([{"request": {"identifier": KEY}, "error_message": "m"}]) == [PushRefused(KEY, "no_meter: m")]


def test_error_report_with_several_samples_of_push_reports_push_once() -> None:
    samples = [{"request": {"identifier": f"{KEY}.{attempt}"}, "error_message": "m"} for attempt in (1, 2)]
    assert _report(samples) == [PushRefused(KEY, "no_meter: m")]


def test_error_report_with_older_field_name_is_read() -> None:
    samples = [{"request": {"idempotency_key": f"{KEY}.1"}, "error_message": "m"}]
    assert _report(samples) == [PushRefused(KEY, "no_meter: m")]


@cases("samples", [None, 7, [7], [{}], [{"request": 7}], [{"request": {"identifier": 7}}]])
def test_error_report_samples_without_identifier_are_ignored(samples: object) -> None:
    assert _report(samples) == []


THIN = {"id": "evt_1", "object": "v2.core.event", "type": "v1.billing.meter.no_meter_found"}


def _report(samples: object) -> Sequence[Notice] | ReadFailed:
    data = {"reason": {"error_types": [{"code": "no_meter", "error_count": 900, "sample_errors": samples}]}}
    return told(stubbed(said(200, {**THIN, "data": data}))[0], *signed(THIN))


def test_thin_event_is_fetched_in_its_account_context() -> None:
    provider, stub = stubbed(said(200, {**THIN, "data": {}}))
    assert told(provider, *signed({**THIN, "context": "acct_1"})) == []
    (call,) = stub.calls
    assert (call.method, call.url) == ("GET", "https://stripe.test/v2/core/events/evt_1")
    assert call.headers["Stripe-Context"] == "acct_1"


def test_thin_event_with_inline_payload_is_not_trusted() -> None:
    world = World()
    samples = [{"request": {"identifier": f"{KEY}.1"}, "error_message": "m"}]
    forged = {**THIN, "data": {"reason": {"error_types": [{"code": "no_meter", "sample_errors": samples}]}}}
    assert isinstance(told(world.provider, *signed(forged)), ReadFailed)


@cases(
    "answer",
    [
        said(404, error("No such event")),
        said(401, error("no")),
        said(500, b""),
        said(200, b"<html>"),
        said(200, {**THIN, "id": "evt_2"}),
        said(200, {**THIN, "type": "v2.core.account.closed"}),
        said(200, {}),
        NoAnswer("cut"),
    ],
)
def test_thin_event_that_cannot_be_fetched_fails_read(answer: HttpResult) -> None:
    assert isinstance(told(stubbed(answer)[0], *signed(THIN)), ReadFailed)


@cases("event_id", [None, 7, "", "../v1/customers", "evt_1?x", "e" * 300])
def test_thin_event_with_invalid_id_is_not_fetched(event_id: object) -> None:
    provider, stub = stubbed(Answer(200, {}, b"{}"))
    assert isinstance(told(provider, *signed({**THIN, "id": event_id})), ReadFailed)
    assert stub.calls == []


def test_thin_event_without_api_key_fails_read_and_does_not_send() -> None:
    provider, stub = stubbed(said(200, {}), secret_key="")
    assert isinstance(told(provider, *signed(THIN)), ReadFailed)
    assert stub.calls == []
