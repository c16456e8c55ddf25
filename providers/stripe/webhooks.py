"""Stripe's webhooks, the check of their signatures, and the customers in them.

Guarantee: a webhook is accepted only if it is signed with one of our secrets, within five minutes. A figure in a
webhook is never used. A thin event has only an id, so Drawdown fetches its content from Stripe.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Final

from drawdown.providers.http import Http
from drawdown.providers.protocol import CustomerChanged, Notice, PushRefused, ReadFailed, WebhookRefused
from drawdown.providers.stripe.settings import StripeSettings
from drawdown.providers.stripe.wire import clean, get, json_object, key_of, path_of, read_object
from drawdown.schema.text import quote_value
from drawdown.schema.units import SECOND_MS

TOLERANCE_MS: Final = 300 * SECOND_MS
"""Largest difference between the timestamp of Stripe's signature and the machine's clock, in milliseconds."""
MAX_HEADER: Final = 8192
"""Characters of Stripe's signature header that Drawdown reads."""
ERROR_REPORTS: Final = frozenset({"v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"})
_CUSTOMER_EVENTS: Final = ("customer.", "invoice.", "checkout.", "billing.credit_", "billing.alert.")
_EVENT_ID: Final = re.compile(r"[A-Za-z0-9_]{1,255}")
_CONTEXT: Final = re.compile(r"[A-Za-z0-9_/]{1,255}")


async def notices(
    settings: StripeSettings, http: Http, headers: Mapping[str, str], body: bytes, now_ms: int
) -> Sequence[Notice] | ReadFailed:
    """Return the notices of a webhook.

    Return ReadFailed if the content of an error report cannot be fetched. Errors: WebhookRefused.
    """
    verify(settings.webhook_secrets, headers.get("stripe-signature", ""), body, now_ms)
    event = json_object(body) or {}
    _check_account(settings.account, event)
    kind = str(event.get("type"))
    if kind in ERROR_REPORTS:
        return await _refusals(settings, http, event)
    if kind.startswith(_CUSTOMER_EVENTS):
        customer = _customer(event)
        return [CustomerChanged(customer)] if customer else []
    return []


def verify(secrets: Sequence[str], header: str, body: bytes, now_ms: int) -> None:
    """Check the signature header `t=…,v1=…[,v1=…]` of a webhook.

    The signature is an HMAC-SHA256 over `{t}.{body}`, by any of the secrets. Its time differs by at most 300 s from
    the machine's clock. Errors: WebhookRefused.
    """
    if not secrets:
        raise WebhookRefused("DRAWDOWN_STRIPE_WEBHOOK_SECRETS is not set. Set it to accept webhooks")
    parts = [part.strip().partition("=") for part in header[:MAX_HEADER].split(",")]
    stamps = [text for name, _, text in parts if name == "t"]
    given = [text.encode() for name, _, text in parts if name == "v1"]
    if not given or len(stamps) != 1 or not re.fullmatch(r"[0-9]{1,12}", stamps[0]):
        raise WebhookRefused("the webhook lacks a header Stripe-Signature of the form t=…,v1=…")
    signed = stamps[0].encode() + b"." + body
    wanted = [hmac.new(secret.encode(), signed, sha256).hexdigest().encode() for secret in secrets]
    # Compare every pair, each in constant time, so that the time does not reveal a secret.
    if not sum([hmac.compare_digest(expected, offered) for expected in wanted for offered in given]):
        raise WebhookRefused(
            "the webhook is not signed with any of DRAWDOWN_STRIPE_WEBHOOK_SECRETS. Check the secret of the endpoint"
        )
    if abs(now_ms - int(stamps[0]) * 1000) > TOLERANCE_MS:
        raise WebhookRefused(
            "the webhook's timestamp differs by more than 300 s from the clock of this machine. Check the clock"
        )


def _check_account(account: str | None, event: Mapping[str, object]) -> None:
    """Refuse a webhook of another account.

    A webhook of our own account does not name an account. A webhook of a connected account names that account: in
    `account`, or in `context` of a thin event. Errors: WebhookRefused.
    """
    for name in ("account", "context"):
        said = event.get(name)
        if account is not None and isinstance(said, str) and said and account not in said.split("/"):
            raise WebhookRefused(
                f"the webhook is for the account {quote_value(said)}, and not for {account}. Correct "
                f"DRAWDOWN_STRIPE_ACCOUNT, or send only events of {account} to this endpoint"
            )


def _customer(event: Mapping[str, object]) -> str | None:
    """Return the customer of an event. Stripe sends an id, or the whole customer."""
    data = event.get("data")
    found = data.get("object") if isinstance(data, dict) else None
    if not isinstance(found, dict):
        return None
    if found.get("object") == "customer":
        return _id(found)
    grant = found.get("credit_grant")
    return _id(found.get("customer")) or (_id(grant.get("customer")) if isinstance(grant, dict) else None)


def _id(found: object) -> str | None:
    text = found.get("id") if isinstance(found, dict) else found
    return text if isinstance(text, str) and text else None


async def _refusals(
    settings: StripeSettings, http: Http, event: Mapping[str, object]
) -> Sequence[PushRefused] | ReadFailed:
    """Return the pushes that an error report samples.

    Stripe counts all errors of a period and shows some of them. Reconcile finds the others.
    """
    event_id, context = event.get("id"), event.get("context")
    if not settings.secret_key:
        return ReadFailed("DRAWDOWN_STRIPE_SECRET_KEY is not set")
    if not isinstance(event_id, str) or not _EVENT_ID.fullmatch(event_id):
        return ReadFailed("the thin event does not have an id")
    inside = context if isinstance(context, str) and _CONTEXT.fullmatch(context) else ""
    fetched = read_object(await http.send(get(settings, path_of("v2", "core", "events", event_id), context=inside)))
    if isinstance(fetched, ReadFailed):
        return fetched
    if fetched.get("id") != event_id or str(fetched.get("type")) not in ERROR_REPORTS:
        return ReadFailed(f"Stripe returned another event than {event_id}")
    return list({refused.key: refused for refused in _samples(fetched)}.values())


def _samples(fetched: Mapping[str, object]) -> Iterator[PushRefused]:
    """Yield the refused push of each sample, by the Idempotency-Key of its request.

    The key is at data.reason.error_types[].sample_errors[].request.identifier.
    """
    for kind in _dicts(_at(fetched, "data", "reason").get("error_types")):
        for sample in _dicts(kind.get("sample_errors")):
            request = _at(sample, "request")
            key = request.get("identifier") or request.get("idempotency_key")
            if isinstance(key, str) and key:
                yield PushRefused(key_of(key), clean(f"{kind.get('code')}: {sample.get('error_message')}"))


def _at(found: Mapping[str, object], *path: str) -> Mapping[str, object]:
    for name in path:
        part = found.get(name)
        found = part if isinstance(part, dict) else {}
    return found


def _dicts(found: object) -> list[Mapping[str, object]]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
