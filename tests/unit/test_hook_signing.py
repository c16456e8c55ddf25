"""Signatures of webhooks are those of Standard Webhooks, by implementations that are not ours; and the schedule."""

from __future__ import annotations

import base64
import hmac
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from drawdown.providers.http import Call
from drawdown.schema.messages import EVENTS, Message
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.hooks.deliver import WAITS, next_wait_ms
from drawdown.worker.hooks.hook_settings import HookSettings, endpoint_secret, headers_of, signature
from tests.emulators.product import ProductEmulator

ROOT = "root-secret-of-the-hooks"
BODY = b'{"type":"topup.credited","data":{"org_id":"\\u00fc"}}'


def test_webhook_signature_of_specification_example_is_reproduced() -> None:
    """Source: the libraries' own test of the scheme."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    found = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.text(min_size=1, max_size=80), st.integers(0, 4_102_444_800), st.text())
def test_webhook_signature_equals_hmac_of_scheme(message_id: str, timestamp_s: int, text: str) -> None:
    """Byte for byte what was signed by hand before: an endpoint notices no change."""
    secret, body = endpoint_secret(ROOT, "app", 1), text.encode("utf-8", "ignore")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp_s}.".encode("utf-8", "ignore") + body
    wanted = f"v1,{base64.b64encode(hmac.new(key, signed, 'sha256').digest()).decode()}"
    assert signature(secret, message_id, timestamp_s, body) == wanted


def test_webhook_signature_is_accepted_by_other_implementations() -> None:
    secret, now_s = endpoint_secret(ROOT, "app", 1), int(time.time())
    headers = headers_of([secret], "msg_1", now_s, BODY)
    assert Webhook(secret).verify(BODY, headers)["type"] == "topup.credited"
    product = ProductEmulator([secret])
    for sent in (headers, {**headers, "webhook-id": "msg_2"}, {**headers, "webhook-timestamp": str(now_s + 1)}):
        product.handle(Call("POST", "https://app.example/in", sent, BODY), now_s * 1000)
    assert (product.taken, product.refused) == ({"msg_1": BODY}, {401: 2})


def test_webhook_signature_during_rotation_is_valid_for_both_secrets() -> None:
    now_s = int(time.time())
    new, old, other = (endpoint_secret(ROOT, "app", number) for number in (3, 2, 1))
    headers = headers_of([new, old], "msg_1", now_s, BODY)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (new, old):
        Webhook(secret).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(BODY + b" ", headers)


def test_webhook_secret_differs_per_endpoint_and_rotation() -> None:
    made = [endpoint_secret(root, name, number)
            for root in (ROOT, f"{ROOT}2") for name in ("app", "app:1", "ap") for number in (1, 11)]  # fmt: skip
    assert len(set(made)) == len(made)
    assert all(len(base64.b64decode(one.removeprefix("whsec_"))) == 32 for one in made)


def test_webhook_secrets_are_hidden_in_repr() -> None:
    settings = HookSettings(frozenset({"https://app.example:443"}), (ROOT,))
    assert ROOT not in repr(settings) and ROOT not in str(settings)
    assert settings.origins == settings.allowed
    assert HookSettings(settings.allowed).origins == frozenset(), "nothing would sign"
    both = HookSettings(settings.allowed, ("new-root-of-hooks", ROOT))
    assert both.secrets_of("app", (2, 1)) == tuple(
        endpoint_secret(root, "app", number) for number in (2, 1) for root in ("new-root-of-hooks", ROOT)
    )


def test_webhook_retry_schedule_is_as_documented() -> None:
    assert [wait // 1000 for wait in WAITS] == [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000]
    assert [next_wait_ms(failures) for failures in range(1, 10)] == [*WAITS, None, None]
    assert sum(WAITS) < DAY_MS + 4 * 60 * MINUTE_MS


def test_webhook_message_id_depends_only_on_fact() -> None:
    one = Message("balance.low", "balance.low:ümlaut.org:1", 0, {}, "ümlaut.org")
    other = Message("balance.low", "balance.low:ümlaut.org:1", 5, {"balance": 1}, "ümlaut.org")
    assert one.message_id == other.message_id and one.message_id.isascii() and "." not in one.message_id
    assert one.body.isascii()
    assert len({Message(event, f"{event}:acme:1", 0, {}).message_id for event in EVENTS}) == len(EVENTS)
