"""Stripe's meter event adjustments: one event is cancelled by its identifier.

Guarantee: "cancelled" is said only for an answer of Stripe's that names our identifier, or that says that the event was
cancelled before. Stripe works an adjustment off after its answer, as it does an event (status `pending`), and offers no
way to read it again: reconcile compares the totals afterwards. Sources: docs.stripe.com (api/billing/
meter-event-adjustment, billing/usage-based/meters/configure). Stripe documents 24 hours from the receipt, and leaves
invoices that are final as they are. What a second adjustment of the same event gets is documented nowhere.
"""

from __future__ import annotations

import re
from typing import Final

from drawdown.providers.http import Answer, Call, HttpResult
from drawdown.providers.protocol import Cancelled, PushRequest, ReadFailed
from drawdown.providers.stripe.settings import StripeSettings
from drawdown.providers.stripe.wire import clean, described, error_of, json_object, post, request_id

ADJUSTMENTS: Final = "/v1/billing/meter_event_adjustments"
_BEFORE: Final = re.compile(r"\balready (been )?cancell?ed\b")


def adjustment(settings: StripeSettings, push: PushRequest) -> Call:
    """The call that cancels. It has no Idempotency-Key, under which Stripe would keep a 500: the identifier does it."""
    form = {
        "type": "cancel",
        "event_name": settings.meter_of(push.feature).event_name,
        "cancel[identifier]": push.key,
    }
    return post(settings, ADJUSTMENTS, form)


def cancelled(result: HttpResult, push: PushRequest) -> Cancelled | ReadFailed:
    """What an answer proves of the event."""
    if not isinstance(result, Answer):
        return ReadFailed(clean(result.reason))
    if result.status != 200:
        error = error_of(result)
        if error is not None and error.type == "invalid_request_error" and _BEFORE.search(error.message):
            return Cancelled(f"Stripe had cancelled it before: {described(result)}")
        return ReadFailed(described(result), too_many=result.status == 429)
    body = json_object(result.body) or {}
    cancel, status = body.get("cancel"), body.get("status")
    ours = isinstance(cancel, dict) and cancel.get("identifier") == push.key
    if body.get("object") != "billing.meter_event_adjustment" or not ours or status not in ("pending", "complete"):
        return ReadFailed("HTTP 200, but not for this push")
    request = request_id(result)
    return Cancelled(f"Stripe took the meter event adjustment, {status}" + (f" ({request})" if request else ""))
