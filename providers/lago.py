"""Lago as a billing provider.

A push is one event, and the balance is the sum of the customer's wallets.

Guarantee: the push's key is the event's `transaction_id`, and Lago stores a `transaction_id` only once. Drawdown's
customer is the subscription's `external_id`, so the same key always goes to the same subscription. Sources:
docs.getlago.com and the source of lago-api. This module was not tried against a Lago server.

Lago's responses prove:

- 200 with our `transaction_id`: the event is stored. Lago bills it only if the metric and an active subscription exist,
  so Drawdown reads both before the push.
- 422 `value_already_exist`: the event was stored before. Lago does not delete it, so a duplicate proves delivery.
- With Lago's ClickHouse store, Lago returns 200 for a repeat, and counts the event once by `transaction_id` and time.
- Lago stores an event of a period with a final invoice, and does not bill it. A plan upgrade ends the period. Set a
  grace period at Lago.
- Lago does not document negative sums, so Drawdown carries them. Lago's HMAC signature lacks a time, so Drawdown
  rejects all webhooks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from drawdown.providers.http import Answer
from drawdown.providers.kit.answers import PROBE, iso, json_object, moment_ms, number, whole
from drawdown.providers.kit.rest import ReadResult, Rest
from drawdown.providers.kit.settings import read_settings
from drawdown.providers.protocol import (
    Absent,
    Accepted,
    CannotTell,
    Capabilities,
    CustomerRead,
    CustomerState,
    Drawn,
    Duplicate,
    FoundPush,
    LookupResult,
    NoCustomer,
    Notice,
    Outcome,
    PushRequest,
    ReadFailed,
    Rejected,
    Setup,
    Totals,
    Unknown,
    WebhookRefused,
)
from drawdown.schema.units import MICRO, MINUTE_MS, SECOND_MS

URL: Final = "https://api.getlago.com"
OURS: Final = "usage:"  # each key of a push begins with it
NAMES: Final = frozenset({"api_key", "url"})
MAX_QUANTITY: Final = 10**15
"""Largest quantity of one event at Lago."""
LOOKUP_LAG_MS: Final = MINUTE_MS
"""Milliseconds after a send until a lookup finds the event. With the ClickHouse store, events pass through a queue."""
BALANCE_LAG_MS: Final = 5 * MINUTE_MS
"""Milliseconds between two updates of a wallet's ongoing balance at Lago."""
PAGE: Final = 100
MAX_PAGES: Final = 100
"""Most pages of one subscription's events to read for totals."""
MAX_WALLETS: Final = PAGE
"""Number of a customer's wallets at which Drawdown stops reading the balance.

Drawdown reads only one page of wallets, and more may follow a full page.
"""


def error_of(status: int, body: Mapping[str, object]) -> str | None:
    """Return the text of Lago's error; None if the body is not Lago's.

    Example: `{"status": 404, "error": "Not Found", "code": "event_not_found"}`

    Web frameworks send the same shape without a code. Lago omits the code only with 400 and 401 (source of lago-api).
    """
    error = body.get("error")
    if body.get("status") != status or isinstance(body.get("status"), bool) or not isinstance(error, str):
        return None
    code, details = body.get("code"), body.get("error_details")
    if not isinstance(code, str) and status not in (400, 401):
        return None
    said = f"{error} {code}" if isinstance(code, str) else error
    return f"{said}: {details}" if isinstance(details, Mapping) else said


def names_absence(path: Sequence[str], body: Mapping[str, object]) -> bool:
    """Return True if Lago's 404 means that the object of a path does not exist.

    The code names the kind of object, such as `event_not_found`. For an unknown route, it is `resource_not_found`.
    """
    return body.get("code") == f"{path[-2].removesuffix('s')}_not_found"


class Lago:
    """A provider that bills one organisation at Lago."""

    def __init__(self, setup: Setup) -> None:
        """Read the settings. Errors: UsageError."""
        settings = read_settings(setup, NAMES)
        key = settings.key("api_key")
        self.name, self._clock = setup.name, setup.clock
        self.dormant = None if key else f"{settings.variable('api_key')} is not set"
        self.capabilities = Capabilities(
            key_retention_ms=None,
            duplicate_proves_delivery=True,
            in_flight=16,
            negatives=False,
            max_quantity=MAX_QUANTITY,
            lookup_lag_ms=LOOKUP_LAG_MS,
            totals_lag_ms=LOOKUP_LAG_MS,
            balance_lag_ms=BALANCE_LAG_MS,
            own_customer_ids=True,
        )
        self._api = Rest(setup.http, setup.clock, settings.origin(URL), key, error_of, names_absence)

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        return [await self._push(push) for push in batch]

    async def _push(self, push: PushRequest) -> Outcome:
        if self.dormant:
            return self._api.not_sent(self.dormant)
        field = await self._field(push.feature)
        if isinstance(field, ReadFailed):
            return self._api.retry_later(field, push.attempt, f"the metric {push.feature}")
        if isinstance(field, CannotTell):
            return Rejected(f"not sent: {field.reason}")
        why = await self._unbilled(push)
        if why is not None:
            return why
        event = {
            "transaction_id": push.key,
            "external_subscription_id": push.customer_id,
            "code": push.feature,
            "timestamp": f"{push.ts // SECOND_MS}.{push.ts % SECOND_MS:03}",
            "properties": {field: str(push.quantity)},
        }
        answer = await self._api.post("/api/v1/events", {"event": event}, push.attempt)
        return self._judge_answer(answer, push) if isinstance(answer, Answer) else answer

    def _judge_answer(self, answer: Answer, push: PushRequest) -> Outcome:
        body = json_object(answer.body) or {}
        event = body.get("event")
        if answer.status == 200 and isinstance(event, Mapping) and event.get("transaction_id") == push.key:
            return Accepted()
        said = self._api.read_error(answer)
        if answer.status == 422 and said is not None:
            details = body.get("error_details")
            if isinstance(details, Mapping) and details.get("transaction_id") == ["value_already_exist"]:
                return Duplicate()
            return Rejected(f"Lago refused the event: {said}")
        return Unknown(said or f"HTTP {answer.status}: the outcome is unknown")

    async def _unbilled(self, push: PushRequest) -> Outcome | None:
        """Return the outcome of a push that Lago would store and never bill.

        Return None if the push's subscription is active, and began before the push.
        """
        subscription = await self._subscription(push.customer_id, kept=True)
        if isinstance(subscription, Absent):
            return Rejected(
                f"not sent: Lago does not have an active subscription {push.customer_id}. Create it at Lago"
            )
        if isinstance(subscription, ReadFailed):
            return self._api.retry_later(subscription, push.attempt, f"the subscription {push.customer_id}")
        started_ms = _start_ms(subscription)
        if subscription.get("status") != "active" or started_ms is None:
            return Rejected(f"not sent: the subscription {push.customer_id} is not active at Lago. Activate it")
        if push.ts < started_ms:
            return Rejected(
                f"not sent: Lago skips usage before the start of the subscription {push.customer_id}. Start the "
                "subscription earlier"
            )
        return None

    async def _subscription(self, external_id: str, *, kept: bool = False) -> ReadResult:
        """Read an active subscription.

        In Lago's path, an id with a dot or a slash may name another subscription. For such an id, Drawdown reads the
        list, which recent versions of Lago filter by the id.
        """
        read = self._api.get_cached if kept else self._api.get
        if not _ends_path(external_id):
            found = await read("api", "v1", "subscriptions", external_id)
            return _part(found, "subscription", external_id) if isinstance(found, Mapping) else found
        found = await read("api", "v1", "subscriptions", external_id=external_id, per_page=str(PAGE))
        listed = found.get("subscriptions") if isinstance(found, Mapping) else None
        if not isinstance(listed, list):
            return found if isinstance(found, ReadFailed) else ReadFailed("HTTP 200 without subscriptions")
        if not listed:
            return Absent()
        for one in listed:
            if isinstance(one, Mapping) and one.get("external_id") == external_id:
                return one
        why = f"Lago does not filter subscriptions by external_id, and {external_id} has a dot or a slash"
        return ReadFailed(f"{why}. Update Lago")

    async def _field(self, feature: str) -> str | ReadFailed | CannotTell:
        """Return the property that a metric sums.

        CannotTell: the reason why Drawdown must not use the metric.
        """
        found = await self._api.get_cached("api", "v1", "billable_metrics", feature)
        if isinstance(found, ReadFailed):
            return found
        if isinstance(found, Absent):
            return CannotTell(f"Lago does not have the billable metric {feature}. Create it with the aggregation sum")
        metric = found.get("billable_metric")
        if not isinstance(metric, Mapping) or metric.get("code") != feature:
            return ReadFailed("HTTP 200 with another metric")
        field = metric.get("field_name")
        if metric.get("aggregation_type") != "sum_agg" or not isinstance(field, str) or not field:
            return CannotTell(f"the billable metric {feature} does not sum a property. Use the aggregation sum")
        if metric.get("expression") or metric.get("rounding_function"):
            return CannotTell(f"the billable metric {feature} has an expression or a rounding function. Remove it")
        return field

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        return {customer_id: await self._customer(customer_id) for customer_id in customer_ids}

    async def _customer(self, customer_id: str) -> CustomerRead:
        """Read a customer.

        A customer without a wallet pays by invoice, and is never halted.
        """
        if self.dormant:
            return ReadFailed(self.dormant)
        subscription = await self._subscription(customer_id)
        if not isinstance(subscription, Mapping):
            return NoCustomer() if isinstance(subscription, Absent) else subscription
        owner, plan = subscription.get("external_customer_id"), subscription.get("plan_code")
        if not isinstance(owner, str) or not isinstance(plan, str | None):
            return ReadFailed("the subscription does not name its customer")
        told = await self._api.get("api", "v1", "wallets", external_customer_id=owner, per_page=str(PAGE))
        wallets = told.get("wallets") if isinstance(told, Mapping) else None
        if not isinstance(wallets, list):
            return told if isinstance(told, ReadFailed) else ReadFailed("HTTP 200 without wallets")
        if len(wallets) >= MAX_WALLETS:
            return ReadFailed(f"the customer has too many wallets: {len(wallets)} or more")
        balances: list[Decimal] = []
        for wallet in wallets:
            if not isinstance(wallet, Mapping) or wallet.get("status") not in ("active", "terminated"):
                return ReadFailed("Lago returned a wallet without a status")
            credits = number(wallet.get("credits_ongoing_balance"))
            if credits is None:
                return ReadFailed("Lago returned a wallet without credits_ongoing_balance")
            balances += [credits] if wallet["status"] == "active" else []
        return CustomerState(int(sum(balances) * MICRO) if balances else None, plan, None)

    async def lookup(self, request: PushRequest) -> LookupResult:
        if self.dormant:
            return ReadFailed(self.dormant)
        found = await self._api.get("api", "v1", "events", request.key)
        if isinstance(found, Absent) and _ends_path(request.key):
            return CannotTell("Lago's path of an event cannot hold this key. Find it in Lago's events", may_have=True)
        if not isinstance(found, Mapping):
            return found
        event = found.get("event")
        if not isinstance(event, Mapping) or event.get("transaction_id") != request.key:
            return ReadFailed("HTTP 200 with another event")
        if (event.get("code"), event.get("external_subscription_id")) != (request.feature, request.customer_id):
            return CannotTell("Lago has an event of this key for another metric or subscription", may_have=True)
        field = await self._field(request.feature)
        if not isinstance(field, str):
            return field
        quantity = _quantity(event, field)
        return ReadFailed("the event does not have a whole quantity") if quantity is None else FoundPush(quantity)

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        """Return the totals of each metric that sums a property.

        The events are dated in [from_ms, to_ms). Lago's range includes both ends, so this method drops an event at
        `to_ms`. Events of other senders may have fractions, so each sum is rounded at the end.
        """
        if self.dormant:
            return ReadFailed(self.dormant)
        asked = {"external_subscription_id": customer_id, "timestamp_from": iso(from_ms), "timestamp_to": iso(to_ms)}
        sums: dict[str, Decimal] = {}
        for page in range(1, MAX_PAGES + 1):
            found = await self._api.get("api", "v1", "events", **asked, page=str(page), per_page=str(PAGE))
            if not isinstance(found, Mapping):
                return found if isinstance(found, ReadFailed) else ReadFailed("Lago did not return a list of events")
            events, meta = found.get("events"), found.get("meta")
            if not isinstance(events, list) or not isinstance(meta, Mapping) or "next_page" not in meta:
                return ReadFailed("HTTP 200 without a page of events")
            for event in events:
                why = await self._add(sums, event, from_ms, to_ms)
                if why is not None:
                    return why
            if meta["next_page"] is None:
                return {code: int(total.to_integral_value()) for code, total in sums.items()}
        return ReadFailed(f"more than {PAGE * MAX_PAGES} events in one range")

    async def _add(self, sums: dict[str, Decimal], event: object, from_ms: int, to_ms: int) -> ReadFailed | None:
        if not isinstance(event, Mapping):
            return ReadFailed("Lago returned an event that is not an object")
        code, at_ms = event.get("code"), moment_ms(event.get("timestamp"))
        if not isinstance(code, str) or at_ms is None:
            return ReadFailed("Lago returned an event without a code or a time")
        field = await self._field(code)
        if isinstance(field, ReadFailed):
            return field
        if isinstance(field, CannotTell) or not from_ms <= at_ms < to_ms:
            return None  # out of range, or not a metric that Drawdown could have used
        quantity = _counted(event, field)
        if quantity is None:
            return ReadFailed(f"{code}: Lago returned an event with an invalid quantity")
        sums[code] = sums.get(code, Decimal(0)) + quantity
        return None

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn] | ReadFailed:
        return {}

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice]:
        raise WebhookRefused(
            "Drawdown does not accept webhooks of Lago, because their signature lacks a time. "
            "Remove the webhook at Lago"
        )

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        if self.dormant:
            return [f"{self.dormant}, so Drawdown does not send to Lago"]
        if isinstance(probe := await self._customer(PROBE), ReadFailed):
            return [f"{probe.reason}. Check the key and the address"]
        fields = {feature: await self._field(feature) for feature in features}
        lines = [f"{feature}: {field.reason}" for feature, field in fields.items() if not isinstance(field, str)]
        for customer_id in customer_ids:
            if isinstance(found := await self._customer(customer_id), NoCustomer):
                lines.append(f"{customer_id}: Lago does not have an active subscription with this external_id")
            elif isinstance(found, ReadFailed):
                lines.append(f"{customer_id}: {found.reason}")
        return lines


def _ends_path(text: str) -> bool:
    """Return True if Lago's path may end inside a text, and name another object."""
    return "." in text or "/" in text


def _part(found: Mapping[str, object], name: str, wanted: str) -> Mapping[str, object] | ReadFailed:
    part = found.get(name)
    if isinstance(part, Mapping) and part.get("external_id") == wanted:
        return part
    return ReadFailed(f"HTTP 200 with another {name}")


def _start_ms(subscription: Mapping[str, object]) -> int | None:
    """Return the time from which Lago bills events of a subscription's external id.

    After a change of plan, `started_at` is the start of the new plan. Lago bills earlier events on the previous plan,
    back to `subscription_at`.
    """
    has_previous = isinstance(subscription.get("previous_plan_code"), str)
    return moment_ms(subscription.get("subscription_at" if has_previous else "started_at"))


def _quantity(event: Mapping[str, object], field: str) -> int | None:
    properties = event.get("properties")
    return whole(properties.get(field)) if isinstance(properties, Mapping) else None


_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")
"""A text that Lago counts as a number."""


def _counted(event: Mapping[str, object], field: str) -> Decimal | None:
    """Return the quantity that Lago counts for an event of any sender.

    Return 0 for an event without a number in the property, because Lago skips it. Return None if the event is
    unreadable, or its number is beyond all bounds. An event of ours always has a whole number.
    """
    properties = event.get("properties")
    if not isinstance(properties, Mapping):
        return None
    value = properties.get(field)
    if str(event.get("transaction_id")).startswith(OURS) and whole(value) is None:
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return Decimal(0)
    return number(value) if isinstance(value, int | Decimal | str) and not isinstance(value, bool) else Decimal(0)


def build(setup: Setup) -> Lago:
    """Build the provider. The package's entry point names this function.

    Errors: UsageError.
    """
    return Lago(setup)
