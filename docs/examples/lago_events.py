"""An adapter, as an example: usage events in Lago's shape, as its `POST /api/v1/events` takes them.

Facts of Lago's reference: `transaction_id` is unique within a subscription; `timestamp` counts seconds, may have
decimals and may be missing (then it is the time of reception); what is summed is a property that each metric names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from drawdown.events.envelope import Unfit, UsageEvent

SOURCE = "lago"
PLAIN, MOST_CHARS = re.compile(r"-?[0-9]+(\.[0-9]+)?"), 20
SUMS: Mapping[str, tuple[str, int]] = {"storage": ("gb", 1_000), "api_calls": ("", 1)}
"""By metric: the property that is summed (empty: each event counts one), and how many base units one of it has."""
ORGS: Mapping[str, str] = {"sub_1234567890": "acme"}
"""Organisations, by their subscription."""


def usage_event(sent: Mapping[str, object]) -> UsageEvent:
    """Return the usage event of one of Lago's.

    The receiver puts its own time in if the event has none. Errors: Unfit.
    """
    code, subscription = str(sent.get("code")), str(sent.get("external_subscription_id"))
    if code not in SUMS:
        raise Unfit("unknown_metric", f"unknown metric {code!r}: expected one of {', '.join(SUMS)}", "code")
    if subscription not in ORGS:
        raise Unfit("unknown_subscription", "unknown subscription. Add it to ORGS", "external_subscription_id")
    transaction = sent.get("transaction_id")
    if not isinstance(transaction, str) or not transaction:
        raise Unfit(
            "missing", "missing transaction_id: it distinguishes the events of a subscription", "transaction_id"
        )
    name, units = SUMS[code]
    properties = sent.get("properties") or {}
    if not isinstance(properties, Mapping):
        raise Unfit("wrong_type", "invalid properties: expected an object", "properties")
    return UsageEvent(
        source=SOURCE,
        event_id=f"{subscription}/{transaction}",
        event_type=code,
        org_id=ORGS[subscription],
        quantity=_whole(properties.get(name), units, f"properties.{name}") if name else 1,
        occurred_ms=_moment(sent.get("timestamp")),
        properties={key: value for key, value in properties.items() if key != name},
    )


def _whole(value: object, units: int, at: str) -> int:
    """Base units, exactly: what is finer than one is refused, and never rounded."""
    scaled = _number(value, at, "bad_quantity") * units
    if scaled != scaled.to_integral_value():
        raise Unfit("bad_quantity", f"invalid quantity: expected a number in steps of 1/{units:,}", at)
    return int(scaled)


def _moment(value: object) -> int:
    if not isinstance(value, str) or "T" not in value:
        return int(_number(value, "timestamp", "bad_time") * 1_000)
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("whose clock?")
        return round(moment.timestamp() * 1_000)
    except (ValueError, OverflowError):
        text = "invalid timestamp: expected seconds since 1970, or ISO 8601 with its offset"
        raise Unfit("bad_time", text, "timestamp") from None


def _number(value: object, at: str, code: str) -> Decimal:
    """Return a number of few digits, so that no product of it is rounded and `1e999999` fills no memory."""
    is_short = type(value) is float or (type(value) is int and abs(value) < 10**MOST_CHARS)
    text = value if isinstance(value, str) else repr(value) if is_short else ""
    if not PLAIN.fullmatch(text[:MOST_CHARS]) or len(text) > MOST_CHARS:
        raise Unfit(code, f"invalid {at}: expected a plain number of up to {MOST_CHARS} characters, such as 1.5", at)
    return Decimal(text)
