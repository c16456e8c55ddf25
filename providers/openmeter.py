"""OpenMeter as a billing provider.

A push is one CloudEvent, and the balance is that of an entitlement.

Guarantee: the push's key is the event's `id` under the source `drawdown`. A 204 proves only that the event is in
OpenMeter's queue, so each push is Queued and settled by its lookup. Sources: openmeter.io/docs, its OpenAPI description
and the source of openmeterio/openmeter. This module was not tried against OpenMeter itself.

OpenMeter's responses prove:

- 204: the event is in the queue. A new event and a repeat get the same response. If the sink worker stops, events wait
  for an unlimited time, so absence is never final.
- OpenMeter drops repeats by source and id only if deduplication is on. It is off on a self-hosted server. Set DEDUPE_H
  to the hours for which your server remembers an event. Without this setting, the provider is dormant.
- An event that no meter can read is stored with `validationErrors` and not counted. Drawdown reads the meter and the
  customer before the push.
- A meter's sum is sent in floating point. OpenMeter does not document negative sums, so Drawdown carries them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from drawdown.providers.http import Answer
from drawdown.providers.kit import webhooks
from drawdown.providers.kit.answers import PROBE, iso, json_object, number, whole
from drawdown.providers.kit.rest import Rest
from drawdown.providers.kit.settings import read_settings
from drawdown.providers.protocol import (
    HOUR_MS,
    Absent,
    CannotTell,
    Capabilities,
    CustomerChanged,
    CustomerRead,
    CustomerState,
    Drawn,
    FoundPush,
    LookupResult,
    NoCustomer,
    Notice,
    Outcome,
    PushRequest,
    Queued,
    ReadFailed,
    Rejected,
    Setup,
    Totals,
    Unknown,
)
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import MICRO, MINUTE_MS

URL: Final = "https://openmeter.cloud"
NAMES: Final = frozenset({"api_key", "url", "dedupe_h", "balance_feature", "webhook_secrets"})
SOURCE: Final = "drawdown"
MAX_QUANTITY: Final = 2**53 - 1
"""Largest quantity of one event at OpenMeter."""
MAX_DEDUPE_H: Final = 10_000
"""Largest value of `DRAWDOWN_OPENMETER_DEDUPE_H`, in hours."""
PAGE: Final = 100
MAX_PAGES: Final = 100
"""Most pages of meters to read for totals."""
CONFIRM_MS: Final = MINUTE_MS
"""Milliseconds from a 204 until Drawdown looks up the event.

By then, OpenMeter's sink worker has written the event.
"""
CHANGES: Final = frozenset({"entitlements.balance.threshold", "entitlements.reset"})


def error_of(status: int, body: Mapping[str, object]) -> str | None:
    """Return the text of OpenMeter's error, a problem of RFC 7807.

    Return None if the body is not OpenMeter's.

    Example: `{"type": "about:blank", "title": "Not Found", "status": 404, "detail": "…"}`
    """
    title, detail = body.get("title"), body.get("detail")
    own = type(body.get("status")) is int and body["status"] == status
    return f"{title}: {detail}" if own and isinstance(title, str) and isinstance(detail, str) else None


class OpenMeter:
    """A provider that bills one namespace at OpenMeter.

    Drawdown's customer is the customer's key at OpenMeter, which must be one of its subjects.
    """

    def __init__(self, setup: Setup) -> None:
        """Read the settings. Errors: UsageError."""
        settings = read_settings(setup, NAMES)
        key, hours = settings.key("api_key"), whole(settings.text("dedupe_h"))
        if settings.text("dedupe_h") and (hours is None or not 1 <= hours <= MAX_DEDUPE_H):
            raise settings.wrong("dedupe_h", f"must be a whole number of hours from 1 to {MAX_DEDUPE_H:,}")
        unset = [name for name, value in (("api_key", key), ("dedupe_h", hours)) if value is None]
        self.name, self._clock = setup.name, setup.clock
        self.dormant = f"{settings.variable(unset[0])} is not set" if unset else None
        self.capabilities = Capabilities(
            key_retention_ms=(hours or 1) * HOUR_MS,
            duplicate_proves_delivery=False,
            success_proves_charge=False,
            in_flight=16,
            negatives=False,
            max_quantity=MAX_QUANTITY,
            lookup_lag_ms=CONFIRM_MS,
            applied_within_ms=None,  # OpenMeter does not limit the time that an event waits in its queue
            totals_lag_ms=CONFIRM_MS,
            balance_lag_ms=CONFIRM_MS,
            webhook_headers=webhooks.SIGNATURE_HEADERS,
        )
        self._balance, self._variable = settings.text("balance_feature") or None, settings.variable("balance_feature")
        self._secrets = settings.list("webhook_secrets")
        if not all(webhooks.is_secret(secret) for secret in self._secrets):
            raise settings.wrong("webhook_secrets", "must be signing secrets (whsec_…), separated by commas")
        self._api = Rest(setup.http, setup.clock, settings.origin(URL), key, error_of)

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        return [await self._push(push) for push in batch]

    async def _push(self, push: PushRequest) -> Outcome:
        if self.dormant:
            return self._api.not_sent(self.dormant)
        meter = await self._meter(push.feature)
        if isinstance(meter, ReadFailed):
            return self._api.retry_later(meter, push.attempt, f"the meter {push.feature}")
        if isinstance(meter, CannotTell):
            return Rejected(f"not sent: {meter.reason}")
        customer = await self._customer(push.customer_id, kept=True)
        if isinstance(customer, ReadFailed):
            return self._api.retry_later(customer, push.attempt, f"the customer {push.customer_id}")
        if isinstance(customer, NoCustomer):
            return Rejected(
                f"not sent: OpenMeter does not have a customer with the subject key {push.customer_id}. Create it"
            )
        kind, field = meter
        event = {
            "specversion": "1.0",
            "id": push.key,
            "source": SOURCE,
            "type": kind,
            "subject": push.customer_id,
            "time": iso(push.ts),
            "data": {field: str(push.quantity)},
        }
        answer = await self._api.post("/api/v1/events", event, push.attempt)
        if not isinstance(answer, Answer):
            return answer
        if answer.status == 204:
            return Queued(self._clock.now_ms() + CONFIRM_MS)
        said = self._api.read_error(answer)
        if answer.status == 400 and said is not None:
            return Rejected(f"OpenMeter refused the event: {said}")
        return Unknown(said or f"HTTP {answer.status}: the outcome is unknown")

    async def _meter(self, feature: str) -> tuple[str, str] | ReadFailed | CannotTell:
        """Return the event type and property of a meter.

        CannotTell: the reason why Drawdown must not use the meter.
        """
        found = await self._api.get_cached("api", "v1", "meters", feature)
        if isinstance(found, ReadFailed):
            return found
        if isinstance(found, Absent):
            return CannotTell(f"OpenMeter does not have a meter {feature}. Create it with the aggregation SUM")
        if found.get("slug") != feature:
            return ReadFailed("HTTP 200 with another meter")
        return _summed(found) or CannotTell(
            f"the meter {feature} does not sum one property ($.name). Create a meter that does"
        )

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        return {customer_id: await self._state(customer_id) for customer_id in customer_ids}

    async def _state(self, customer_id: str) -> CustomerRead:
        """Read a customer.

        Without BALANCE_FEATURE, or with a soft limit, customers pay by invoice, and are never halted.
        """
        if self.dormant:
            return ReadFailed(self.dormant)
        known = await self._customer(customer_id)
        if self._balance is None or not isinstance(known, CustomerState):
            return known
        entitlements = ("customers", customer_id, "entitlements", self._balance)
        value = await self._api.get("api", "v1", *entitlements, "value")
        if isinstance(value, ReadFailed):
            return value
        if isinstance(value, Absent) or (value.get("hasAccess") is False and value.get("balance") is None):
            return await self._without_entitlement(self._balance)
        access, balance, overage = value.get("hasAccess"), number(value.get("balance")), number(value.get("overage", 0))
        if not isinstance(access, bool) or balance is None or overage is None:
            return ReadFailed("HTTP 200 without the value of a metered entitlement")
        if access:
            entitlement = await self._api.get_cached("api", "v2", *entitlements)
            if isinstance(entitlement, ReadFailed):
                return entitlement
            if isinstance(entitlement, Mapping) and entitlement.get("isSoftLimit") is True:
                return CustomerState(None, None, None)  # OpenMeter allows overage
        micro = int((balance - overage) * MICRO)
        return CustomerState(micro if access else min(micro, 0), None, None)

    async def _without_entitlement(self, key: str) -> CustomerRead:
        """Return the state of a customer without an active entitlement.

        OpenMeter returns `hasAccess: false` even if the feature does not exist, so this method reads the feature.
        """
        feature = await self._api.get_cached("api", "v1", "features", key)
        if isinstance(feature, Absent):
            why = f"{self._variable} names {key}, but OpenMeter does not have a feature with this key"
            return ReadFailed(f"{NEEDS_YOU}{why}. Set it to a feature's key")
        return feature if isinstance(feature, ReadFailed) else CustomerState(0, None, None)  # nothing to spend

    async def _customer(self, customer_id: str, *, kept: bool = False) -> CustomerRead:
        """Return the customer of a subject, without the balance."""
        read = self._api.get_cached if kept else self._api.get
        found = await read("api", "v1", "customers", customer_id)
        if not isinstance(found, Mapping):
            return NoCustomer() if isinstance(found, Absent) else found
        attribution = found.get("usageAttribution")
        subjects = attribution.get("subjectKeys") if isinstance(attribution, Mapping) else None
        if not isinstance(found.get("key"), str | None) or not isinstance(subjects, list):
            return ReadFailed("HTTP 200 without the customer")
        return CustomerState(None, None, None) if customer_id in subjects else NoCustomer()

    async def lookup(self, request: PushRequest) -> LookupResult:
        if self.dormant:
            return ReadFailed(self.dormant)
        meter = await self._meter(request.feature)
        if not isinstance(meter, tuple):
            return meter
        found = await self._api.get("api", "v2", "events", filter=json.dumps(_filter(request)))
        items = found.get("items") if isinstance(found, Mapping) else None
        if not isinstance(items, list):
            return found if isinstance(found, ReadFailed) else ReadFailed("OpenMeter did not return a list of events")
        if not items:
            return Absent()
        if len(items) > 1:
            return CannotTell(
                f"OpenMeter has {len(items)} events with this id. Check that deduplication is on", may_have=True
            )
        return _judge_event(items[0], request, *meter)

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        """Return the totals of every meter that sums one property.

        The events are dated in [from_ms, to_ms), in whole minutes.
        """
        if self.dormant:
            return ReadFailed(self.dormant)
        if from_ms % MINUTE_MS or to_ms % MINUTE_MS:
            return ReadFailed("OpenMeter sums up whole minutes only")
        totals: dict[str, int] = {}
        for page in range(1, MAX_PAGES + 1):
            meters = await self._api.array("api", "v1", "meters", page=str(page), pageSize=str(PAGE))
            if isinstance(meters, ReadFailed):
                return meters
            if page == 1 and not meters:
                return ReadFailed("OpenMeter returned an empty list of meters, although a meter billed usage")
            for slug in [str(meter.get("slug")) for meter in meters if _summed(meter) is not None]:
                asked = {"subject": customer_id, "from": iso(from_ms), "to": iso(to_ms)}
                total = _total(await self._api.get("api", "v1", "meters", slug, "query", **asked))
                if isinstance(total, ReadFailed):
                    return ReadFailed(f"{slug}: {total.reason}", too_many=total.too_many)
                totals |= {slug: total} if total else {}
            if len(meters) < PAGE:
                return totals
        return ReadFailed(f"more than {PAGE * MAX_PAGES} meters")

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn] | ReadFailed:
        return {}

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice]:
        told = json_object(webhooks.verify(headers, body, self._secrets, now_ms).encode()) or {}
        match told:
            case {"type": str(kind), "data": {"subject": {"key": str(who)}}} if kind in CHANGES and who:
                return [CustomerChanged(who)]
        return []

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        if self.dormant:
            return [f"{self.dormant}, so Drawdown does not send to OpenMeter"]
        if isinstance(probe := await self._state(PROBE), ReadFailed):
            return [f"{probe.reason}. Check the key and the address"]
        meters = {feature: await self._meter(feature) for feature in features}
        lines = [f"{feature}: {meter.reason}" for feature, meter in meters.items() if not isinstance(meter, tuple)]
        for customer_id in customer_ids:
            if isinstance(found := await self._state(customer_id), NoCustomer):
                lines.append(f"{customer_id}: OpenMeter does not have a customer with this subject key")
            elif isinstance(found, ReadFailed):
                lines.append(f"{customer_id}: {found.reason.removeprefix(NEEDS_YOU)}")
        return lines


def _summed(meter: Mapping[str, object]) -> tuple[str, str] | None:
    """Return the event type and property of a meter that sums one property, or None."""
    match meter:
        case {"slug": str(), "eventType": str(kind), "aggregation": "SUM", "valueProperty": str(path)}:
            field = path.removeprefix("$.")
            return (kind, field) if field.replace("_", "").isalnum() and not meter.get("deletedAt") else None
    return None


def _filter(request: PushRequest) -> Mapping[str, object]:
    return {"id": {"$eq": request.key}, "source": {"$eq": SOURCE}}


def _judge_event(item: object, request: PushRequest, kind: str, field: str) -> LookupResult:
    """Return the result of a lookup, by the event of the push."""
    if not isinstance(item, Mapping) or not isinstance(event := item.get("event"), Mapping):
        return ReadFailed("OpenMeter returned an item that is not an event")
    if (event.get("id"), event.get("source")) != (request.key, SOURCE):
        return ReadFailed("OpenMeter returned another event than requested")
    if (event.get("type"), event.get("subject")) != (kind, request.customer_id):
        return CannotTell("OpenMeter has an event with this id for another meter or customer", may_have=True)
    if item.get("validationError") or item.get("validationErrors"):
        return CannotTell("OpenMeter stored the event, but cannot count it. See its validation errors", may_have=True)
    data = event.get("data")
    quantity = whole(data.get(field)) if isinstance(data, Mapping) else None
    return ReadFailed("the event does not have a whole quantity") if quantity is None else FoundPush(quantity)


def _total(found: Mapping[str, object] | Absent | ReadFailed) -> int | ReadFailed:
    """Return the sum of a meter's query without windows.

    Without a row, the sum is zero. Events of other senders may have fractions, so the sum is rounded at the end.
    """
    rows = found.get("data") if isinstance(found, Mapping) else None
    if not isinstance(rows, list):
        return found if isinstance(found, ReadFailed) else ReadFailed("HTTP 200 without a sum")
    total = Decimal(0)
    for row in rows:
        value = number(row.get("value")) if isinstance(row, Mapping) else None
        if value is None:
            return ReadFailed("OpenMeter returned a sum that is not a number")
        total += value
    return int(total.to_integral_value())


def build(setup: Setup) -> OpenMeter:
    """Build the provider. The package's entry point names this function.

    Errors: UsageError.
    """
    return OpenMeter(setup)
