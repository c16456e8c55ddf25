"""Autumn's settings, and its webhooks as Svix's own package signs them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from drawdown.providers.http import NoAnswer
from drawdown.providers.kit import webhooks
from drawdown.providers.protocol import HOUR_MS, CustomerChanged, Notice, ReadFailed, RetryAt, WebhookRefused
from drawdown.schema.errors import UsageError
from tests.cases import cases
from tests.contract.autumn_setup import NOW_MS, Stub, built, done, one, push, stubbed
from tests.emulators.autumn import SECRET_KEY
from tests.official import Webhook

SECRETS = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_plJ3nmyCDGBKInavdOK15jsl7p0C1Zg5")
FOREIGN = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
CHANGED = {"type": "billing.updated", "data": {"object": "billing.updated", "customer_id": "cus_1", "plan_changes": []}}


def signed(body: bytes, secret: str = SECRETS[0], at_ms: int = NOW_MS) -> dict[str, str]:
    signature = Webhook(secret).sign("msg_1", datetime.fromtimestamp(at_ms // 1000, UTC), body.decode())
    return {"svix-id": "msg_1", "svix-timestamp": str(at_ms // 1000), "svix-signature": signature}


def noticed(headers: dict[str, str], body: bytes, now_ms: int = NOW_MS) -> list[Notice]:
    provider = stubbed(NoAnswer("must not be asked"), webhook_secrets=",".join(SECRETS))
    found = done(provider.notices(headers, body, now_ms))
    assert not isinstance(found, ReadFailed)
    return list(found)


BODY = json.dumps(CHANGED).encode()


@cases("secret", SECRETS)
def test_webhook_signed_with_any_configured_secret_reports_customer(secret: str) -> None:
    assert noticed(signed(BODY, secret), BODY) == [CustomerChanged("cus_1")]


def test_webhook_with_single_valid_signature_of_several_is_accepted() -> None:
    headers = signed(BODY)
    headers["svix-signature"] = f"v1a,xyz v1,AAAA {signed(BODY, FOREIGN)['svix-signature']} {headers['svix-signature']}"
    assert noticed(headers, BODY) == [CustomerChanged("cus_1")]


def test_webhook_with_unbranded_header_names_is_accepted() -> None:
    headers = {name.replace("svix", "webhook"): text for name, text in signed(BODY).items()}
    assert noticed(headers, BODY) == [CustomerChanged("cus_1")]


@cases(
    ("told", "customers"),
    [
        *[
            ({"type": kind, "data": {"customer_id": "cus_1"}}, ["cus_1"])
            for kind in (
                "billing.updated", "billing.auto_topup_succeeded", "billing.auto_topup_failed",
                "balances.limit_reached", "balances.usage_alert_triggered", "customer.threshold_reached",
            )
        ],
        ({"type": "customer.products.updated", "data": {"scenario": "new", "customer": {"id": "cus_2"}}}, ["cus_2"]),
        ({"type": "vercel.resources.deleted", "data": {}}, []),
        ({"type": "invoice.finalized", "data": {"customer_id": "cus_1"}}, []),
    ],
)  # fmt: skip
def test_webhook_of_each_event_type_reports_its_customers(told: object, customers: list[str]) -> None:
    body = json.dumps(told).encode()
    assert noticed(signed(body), body) == [CustomerChanged(one) for one in customers]


@cases("kind", ["included", "usage_limit", "spend_limit", "max_purchase", "filter", "unheard_of", None])
def test_webhook_of_each_limit_type_reports_its_customer(kind: str | None) -> None:
    told = {"type": "balances.limit_reached", "data": {"customer_id": "c-1", "feature_id": "f", "limit_type": kind}}
    body = json.dumps(told).encode()
    assert noticed(signed(body), body) == [CustomerChanged("c-1")]


def refused(headers: dict[str, str], body: bytes, now_ms: int = NOW_MS) -> str:
    with pytest.raises(WebhookRefused) as caught:
        noticed(headers, body, now_ms)
    assert not any(secret in str(caught.value) for secret in SECRETS)
    return str(caught.value)


def test_forged_webhook_is_refused() -> None:
    assert "signature" in refused(signed(BODY, FOREIGN), BODY)
    assert "signature" in refused(signed(BODY), BODY + b" ")
    assert "signature" in refused(signed(BODY) | {"svix-id": "msg_2"}, BODY)
    assert "signature" in refused(signed(BODY) | {"svix-timestamp": str(NOW_MS // 1000 + 1)}, BODY)
    for nonsense in ("v1", "v1,", "v1,%%%", "v2,abc", ",", "v1," + "A" * 100_000):
        assert "signature" in refused(signed(BODY) | {"svix-signature": nonsense}, BODY)


def test_webhook_with_many_signatures_is_hashed_once_per_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has no secret sends a megabyte and as many signatures as fit: the event loop hashes meanwhile."""
    hashed: list[str] = []
    expected = webhooks._expected

    def counted(secret: str, message_id: str, sent_at: datetime, text: str) -> bytes:
        hashed.append(secret)
        return expected(secret, message_id, sent_at, text)

    monkeypatch.setattr(webhooks, "_expected", counted)
    forged = [signed(BODY, FOREIGN)["svix-signature"]] * (webhooks.MAX_SIGNATURES - 1)
    genuine = signed(BODY, SECRETS[1])
    last = {"svix-signature": " ".join([*forged, genuine["svix-signature"]])}
    assert noticed(genuine | last, BODY) == [CustomerChanged("cus_1")]
    assert hashed == list(SECRETS)
    refused(genuine | {"svix-signature": " ".join(forged)}, BODY)
    assert hashed == [*SECRETS, *SECRETS]
    refused(genuine | {"svix-signature": "v1,%%% v2,AAAA"}, BODY)
    assert hashed == [*SECRETS, *SECRETS]


@cases("missing", ["svix-id", "svix-timestamp", "svix-signature"])
def test_webhook_with_missing_header_is_refused_with_its_name(missing: str) -> None:
    headers = signed(BODY)
    del headers[missing]
    assert missing in refused(headers, BODY)
    assert missing in refused(headers | {missing: "\udcff"}, BODY)


def test_webhook_older_or_newer_than_300_s_is_refused() -> None:
    headers, at = signed(BODY), NOW_MS - NOW_MS % 1000
    for now_ms in (at - 300_000, at + 300_000):
        assert noticed(headers, BODY, now_ms) == [CustomerChanged("cus_1")]
    for now_ms in (at - 300_001, at + 300_001, at + 86_400_000):
        assert "300 s" in refused(headers, BODY, now_ms)
    for nonsense in ("soon", "-1", "1e9", "1795156920.5", "9" * 40):
        assert "svix-timestamp" in refused(headers | {"svix-timestamp": nonsense}, BODY)


@cases(
    ("body", "word"),
    [
        (b"hello", "JSON"),
        (b"[]", "JSON"),
        (b'{"data": {}}', "type"),
        (b'{"type": 5}', "type"),
        (b"", "JSON"),
        (b'{"type": "billing.updated"}', "does not name a customer"),
        (b'{"type": "billing.updated", "data": {"customer_id": null}}', "does not name a customer"),
        (b'{"type": "billing.updated", "data": {"customer": "cus_1"}}', "does not name a customer"),
    ],
)
def test_signed_webhook_without_customer_is_refused_with_reason(body: bytes, word: str) -> None:
    assert word in refused(signed(body), body)


def test_webhook_body_not_utf8_is_refused() -> None:
    assert "UTF-8" in refused(signed(b"x"), b"\xff\xfe")


def test_webhook_without_configured_secret_is_refused() -> None:
    with pytest.raises(WebhookRefused, match="DRAWDOWN_AUTUMN_WEBHOOK_SECRETS is not set"):
        done(stubbed(NoAnswer("")).notices(signed(BODY), BODY, NOW_MS))


# Settings


@cases(
    ("setting", "text"),
    [
        ("secret_key", "am_pk_test_0123456789"),
        ("secret_key", "sk_live_0123456789"),
        ("secret_key", "am_sk_test_01234 56789"),
        ("secret_key", "am_sk_test_0123456789\n"),
        ("secret_key", "am_sk_test_01234\x0056789"),
        ("secret_key", "am_sk_"),
        ("url", "api.useautumn.com"),
        ("url", "ftp://api.useautumn.com"),
        ("url", "https://api.useautumn.com/v1"),
        ("url", "https://user:hunter2hunter2@api.useautumn.com"),
        ("url", "https://api.useautumn.com?x=hunter2hunter2"),
        ("url", "https://api.useautumn.com:99999"),
        ("url", "https://api .useautumn.com"),
        ("url", "https://"),
        ("webhook_secrets", "hunter2hunter2"),
        ("webhook_secrets", f"{SECRETS[0]},whsec_"),
        ("balance_feature", "gold coins"),
        ("balance_feature", "top secret"),
        ("plans", "top secret"),
        ("key_retention_h", "top secret"),
        ("calls_per_s", "top secret"),
        ("concurrency_feature", "a/b"),
        ("plans", "free"),
        ("plans", "free=two"),
        ("plans", "free=-1"),
        ("plans", "free=1,free=2"),
        ("key_retention_h", "0.5"),
        ("key_retention_h", "721"),
        ("key_retention_h", "a day"),
        ("calls_per_s", "0"),
        ("calls_per_s", "-5"),
        ("calls_per_s", "many"),
    ],
)
def test_invalid_autumn_setting_is_named_without_its_value(setting: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        built(Stub(NoAnswer("")), {"secret_key": SECRET_KEY, setting: text})
    message = str(caught.value)
    assert f"DRAWDOWN_AUTUMN_{setting.upper()} " in message
    assert not any(shown in message for shown in ("hunter2", "0123456789", "top secret", SECRETS[0]))


def test_valid_autumn_settings_set_capabilities() -> None:
    given = {
        "secret_key": SECRET_KEY, "url": "http://127.0.0.1:8080/", "key_retention_h": "720", "calls_per_s": "12.5",
        "plans": "", "webhook_secrets": f" {SECRETS[0]} , {SECRETS[1]},",
    }  # fmt: skip
    provider = built(Stub(NoAnswer("")), given)
    can = provider.capabilities
    assert provider.dormant is None and provider._settings.url == "http://127.0.0.1:8080"
    assert (can.key_retention_ms, can.applied_within_ms, can.calls_per_s) == (720 * HOUR_MS, 720 * HOUR_MS, 12.5)
    assert (can.batch_size, can.lookup, can.duplicate_proves_delivery, can.drawn) == (1, True, False, True)
    assert built(Stub(NoAnswer("")), {}).capabilities.key_retention_ms == 24 * HOUR_MS


def test_autumn_without_key_is_dormant_and_does_not_send() -> None:
    http = Stub(NoAnswer("must not be asked"))
    provider = built(http, {"secret_key": ""})
    assert provider.dormant == "DRAWDOWN_AUTUMN_SECRET_KEY is not set"
    assert isinstance(one(provider, push()), RetryAt)
    assert isinstance(done(provider.customers(["cus_1"]))["cus_1"], ReadFailed)
    assert done(provider.check([], [])) == [
        "DRAWDOWN_AUTUMN_SECRET_KEY is not set, so Drawdown does not send to Autumn"
    ]
    assert http.sent == []


def test_autumn_reprs_do_not_contain_secrets() -> None:
    http = Stub(NoAnswer("timed out"))
    provider = built(http, {"secret_key": SECRET_KEY, "webhook_secrets": SECRETS[0]})
    outcome = one(provider, push())
    told = repr((provider._settings, outcome, http.sent, vars(provider)))
    assert SECRET_KEY not in told and SECRETS[0] not in told
