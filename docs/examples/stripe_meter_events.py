"""An adapter, as an example: Stripe's meter events, v1 (`POST /v1/billing/meter_events`) and v2, as usage events.

Facts of Stripe's reference: all of `payload` is text, `value` and `stripe_customer_id` unless a meter names others;
`timestamp` counts seconds in v1 and is ISO 8601 in v2; an `identifier` that is missing is made up by Stripe, so that
the same event sent twice is billed twice. Here it is required.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from drawdown.events.envelope import Unfit, UsageEvent

SOURCE = "stripe-meters"
MOST_DIGITS = 12
CUSTOMER_KEY, VALUE_KEY = "stripe_customer_id", "value"
ORGS: Mapping[str, str] = {"cus_NciAYcXfLnqBoz": "acme"}
"""By customer: which organisation it is."""


def usage_event(sent: Mapping[str, object]) -> UsageEvent:
    """The usage event of one meter event. Errors: Unfit."""
    payload = sent.get("payload")
    if not isinstance(payload, Mapping):
        raise Unfit("wrong_type", "invalid payload: expected an object", "payload")
    customer = str(payload.get(CUSTOMER_KEY))
    if customer not in ORGS:
        text = f"missing or unknown {CUSTOMER_KEY}: expected a key of ORGS"
        raise Unfit("unknown_customer", text, f"payload.{CUSTOMER_KEY}")
    identifier = sent.get("identifier")
    if not isinstance(identifier, str) or not identifier:
        raise Unfit(
            "missing", "missing identifier: without it, Drawdown would bill a repeated event twice", "identifier"
        )
    return UsageEvent(
        source=SOURCE,
        event_id=identifier,
        event_type=str(sent.get("event_name", "")),
        org_id=ORGS[customer],
        quantity=_whole(payload.get(VALUE_KEY)),
        occurred_ms=_moment(sent.get("timestamp")),
        properties={key: value for key, value in payload.items() if key not in (CUSTOMER_KEY, VALUE_KEY)},
    )


def _whole(value: object) -> int:
    """Whole numbers, as texts: what a meter counts in parts is scaled here before it is sent."""
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > MOST_DIGITS:
        raise Unfit("bad_quantity", f"invalid value: expected 1 to {MOST_DIGITS} digits", f"payload.{VALUE_KEY}")
    return int(text)


def _moment(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value * 1_000
    try:
        moment = datetime.fromisoformat(str(value))
        if moment.tzinfo is None:
            raise ValueError("whose clock?")
        return round(moment.timestamp() * 1_000)
    except (ValueError, OverflowError):
        text = "invalid timestamp: expected whole seconds since 1970, or ISO 8601 with its offset"
        raise Unfit("bad_time", text, "timestamp") from None
