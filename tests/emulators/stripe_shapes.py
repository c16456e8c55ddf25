"""The shapes of Stripe's answers, as its own Python client reads them.

Guarantee: field names are those of stripe-python 15.6 (billing.meter_event, billing.meter, billing.meter_event_summary,
customer, event, v2.core.event, error), and nothing here holds state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from drawdown.providers.http import Answer

Json = dict[str, object]
VERSION = "2026-08-26.dahlia"
DUPLICATE = "An event already exists with identifier {}."


class Refusal(Exception):
    """What Stripe refuses, as the error it answers with. `saved`: the endpoint had begun, so the Idempotency-Key keeps
    this answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        saved: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.saved = saved
        self.code = code or "invalid"
        self.headers = dict(headers or {})
        fields = {"code": code, "message": message, "param": param, "type": kind}
        self.body: Json = {"error": {name: text for name, text in fields.items() if text is not None}}

    def answer(self) -> Answer:
        return reply(self.body, self.status, self.headers)


@dataclass
class Meter:
    """One billing meter."""

    id: str
    event_name: str
    created_s: int
    active: bool = True
    formula: str = "sum"
    customer_key: str = "stripe_customer_id"
    value_key: str = "value"
    window: str | None = None
    """`hour` or `day`: a newer event of the same window, in UTC, overwrites the one before."""

    def shape(self) -> Json:
        return {
            "id": self.id,
            "object": "billing.meter",
            "created": self.created_s,
            "customer_mapping": {"event_payload_key": self.customer_key, "type": "by_id"},
            "default_aggregation": {"formula": self.formula},
            "display_name": self.event_name,
            "event_name": self.event_name,
            "event_time_window": self.window,
            "livemode": False,
            "status": "active" if self.active else "inactive",
            "status_transitions": {"deactivated_at": None if self.active else self.created_s},
            "updated": self.created_s,
            "value_settings": {"event_payload_key": self.value_key},
        }


def reply(body: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, {"content-type": "application/json", **(headers or {})}, json.dumps(body).encode())


def meter_event(event_name: str, identifier: str, payload: Mapping[str, str], timestamp_s: int, now_s: int) -> Json:
    return {
        "object": "billing.meter_event",
        "created": now_s,
        "event_name": event_name,
        "identifier": identifier,
        "livemode": False,
        "payload": dict(payload),
        "timestamp": timestamp_s,
    }


def summary(meter_id: str, customer: str, start_s: int, end_s: int, value: float) -> Json:
    return {
        "id": f"mtrusg_{meter_id}_{customer}_{start_s}_{end_s}",
        "object": "billing.meter_event_summary",
        "aggregated_value": value,
        "end_time": end_s,
        "livemode": False,
        "meter": meter_id,
        "start_time": start_s,
    }


def customer(customer_id: str, *, deleted: bool, created_s: int = 1_700_000_000, card: str | None = None) -> Json:
    if deleted:
        return {"id": customer_id, "object": "customer", "deleted": True}
    return {
        "id": customer_id,
        "object": "customer",
        "created": created_s,
        "invoice_settings": {"custom_fields": None, "default_payment_method": card, "footer": None},
        "livemode": False,
        "metadata": {},
    }


def page(found: Sequence[Json], url: str, query: Mapping[str, str]) -> Json:
    """A page of a list: `limit` 1 to 100 (10), `starting_after` an id of the list."""
    limit = query.get("limit", "10")
    if not limit.isdigit() or not 1 <= int(limit) <= 100:
        raise Refusal(400, "Invalid limit: must be between 1 and 100", param="limit", code="parameter_invalid_integer")
    after = query.get("starting_after")
    ids = [one["id"] for one in found]
    if after is not None and after not in ids:
        raise Refusal(400, f"No such object: '{after}'", param="starting_after", code="resource_missing")
    start = 0 if after is None else ids.index(after) + 1
    end = start + int(limit)
    return {"object": "list", "url": url, "has_more": end < len(found), "data": list(found[start:end])}


def event(event_id: str, kind: str, about: Json, now_s: int) -> Json:
    """A v1 event: a snapshot of an object."""
    return {
        "id": event_id,
        "object": "event",
        "api_version": VERSION,
        "created": now_s,
        "data": {"object": about},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }


def thin(event_id: str, meter_id: str | None, now_ms: int) -> Json:
    """A thin event as it is delivered: it names itself and the meter, no more."""
    kind = "no_meter_found" if meter_id is None else "error_report_triggered"
    found: Json = {
        "id": event_id,
        "object": "v2.core.event",
        "type": f"v1.billing.meter.{kind}",
        "created": iso(now_ms),
        "livemode": False,
        "context": None,
        "reason": None,
    }
    if meter_id is not None:
        url = f"/v1/billing/meters/{meter_id}"
        found["related_object"] = {"id": meter_id, "type": "billing.meter", "url": url}
    return found


@dataclass(frozen=True)
class Late:
    """An accepted event that turned out to be invalid. `request` is the Idempotency-Key it came with."""

    at_ms: int
    meter_id: str | None
    code: str
    message: str
    request: str


def report(lates: Sequence[Late], samples: int) -> Json:
    """The data of an error report: errors by code, the first few of each as samples."""
    by_code: dict[str, list[Late]] = {}
    for late in lates:
        by_code.setdefault(late.code, []).append(late)
    kinds = [
        {
            "code": code,
            "error_count": len(found),
            "sample_errors": [
                {"error_message": one.message, "request": {"identifier": one.request}} for one in found[:samples]
            ],
        }
        for code, found in by_code.items()
    ]
    return {
        "developer_message_summary": f"There are {len(lates)} invalid event(s)",
        "reason": {"error_count": len(lates), "error_types": kinds},
        "validation_start": iso(min(late.at_ms for late in lates)),
        "validation_end": iso(max(late.at_ms for late in lates)),
    }


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
