"""Polar as a billing provider.

A push is one event, and the balance is that of a customer meter.

Guarantee: the push's key is the event's `external_id`, and Polar stores an `external_id` only once. Sources:
polar.sh/docs and the source of polarsource/polar. This module was not tried against Polar itself.

Polar's responses prove:

- 200 `{"inserted": 1, "duplicates": 0}`: the event is stored, in one transaction. Polar counts it only if a meter's
  filter matches and the customer exists, so Drawdown reads both before the push.
- 200 `{"inserted": 0, "duplicates": 1}`: an event of this `external_id` is stored. This response proves delivery.
- Polar does not promise `external_id` in its list of events, so the key is also in `metadata`, and lookups read it
  there.
- A job adds events to a customer meter later. Polar does not document negative sums, so Drawdown carries them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from drawdown.providers.http import Answer
from drawdown.providers.kit import rest, webhooks
from drawdown.providers.kit.answers import PROBE, iso, json_object, moment_ms, number, whole
from drawdown.providers.kit.settings import read_settings
from drawdown.providers.protocol import (
    Absent,
    Accepted,
    CannotTell,
    Capabilities,
    CustomerChanged,
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
    RetryAt,
    Setup,
    Totals,
    Unknown,
)
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import MICRO, MINUTE_MS

URL: Final = "https://api.polar.sh"
NAMES: Final = frozenset({"access_token", "url", "balance_meter", "webhook_secrets"})
MAX_QUANTITY: Final = 2**53 - 1
"""Largest quantity of one event at Polar, which sums in floating point."""
MAX_KEY_CHARS: Final = 500
"""Most characters of a key at Polar."""
KEY: Final = "drawdown_key"
LOOKUP_LAG_MS: Final = MINUTE_MS
"""Milliseconds after a send until a lookup finds the event."""
BALANCE_LAG_MS: Final = MINUTE_MS
"""Milliseconds after a charge until a balance shows it."""
PAGE: Final = 100
MAX_PAGES: Final = 100
"""Most pages of meters, or of one customer's events, to read for totals."""


TOKEN_ERRORS: Final = ((401, "invalid_token"), (403, "insufficient_scope"))
"""The errors that Polar sends with `error_description`, as OAuth does (source of polarsource/polar)."""


def error_of(status: int, body: Mapping[str, object]) -> str | None:
    """Return the text of Polar's error; None if the body is not Polar's.

    Example: `{"error": "ResourceNotFound", "detail": "Not found"}`
    """
    error = body.get("error")
    why = body.get("error_description" if (status, error) in TOKEN_ERRORS else "detail")
    return f"{error}: {why}" if isinstance(error, str) and why is not None else None


def names_absence(_path: Sequence[str], body: Mapping[str, object]) -> bool:
    """Return True if Polar's 404 means that an object does not exist."""
    return body.get("error") == "ResourceNotFound"


class Polar:
    """A provider that bills one organisation at Polar.

    Drawdown's customer is the customer's external id.
    """

    def __init__(self, setup: Setup) -> None:
        """Read the settings. Errors: UsageError."""
        settings = read_settings(setup, NAMES)
        token = settings.key("access_token")
        self.name, self._clock = setup.name, setup.clock
        self.dormant = None if token else f"{settings.variable('access_token')} is not set"
        self.capabilities = Capabilities(
            key_retention_ms=None,
            duplicate_proves_delivery=True,
            in_flight=8,
            negatives=False,
            max_quantity=MAX_QUANTITY,
            max_key_chars=MAX_KEY_CHARS,
            lookup_lag_ms=LOOKUP_LAG_MS,
            totals_lag_ms=LOOKUP_LAG_MS,
            balance_lag_ms=BALANCE_LAG_MS,
            webhook_headers=webhooks.SIGNATURE_HEADERS,
        )
        self._meter, self._variable = settings.text("balance_meter") or None, settings.variable("balance_meter")
        # Polar signs with the raw secret. Standard Webhooks keys are Base64, so encode the secret.
        self._secrets = [base64.b64encode(one.encode()).decode() for one in settings.list("webhook_secrets")]
        self._api = rest.Rest(setup.http, setup.clock, settings.origin(URL), token, error_of, names_absence)

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        return [await self._push(push) for push in batch]

    async def _push(self, push: PushRequest) -> Outcome:
        if self.dormant:
            return self._api.not_sent(self.dormant)
        if push.ts > self._clock.now_ms():
            return RetryAt(
                min(push.ts + MINUTE_MS, self._clock.now_ms() + 15 * MINUTE_MS), "Polar rejects times in the future"
            )
        field = await self._property(push.feature)
        if isinstance(field, ReadFailed):
            return self._api.retry_later(field, push.attempt, f"the meter of {push.feature}")
        if isinstance(field, CannotTell):
            return Rejected(f"not sent: {field.reason}")
        customer = await self._api.get_cached("v1", "customers", "external", push.customer_id)
        if isinstance(customer, ReadFailed):
            return self._api.retry_later(customer, push.attempt, f"the customer {push.customer_id}")
        if isinstance(customer, Absent):
            return Rejected(
                f"not sent: Polar does not have a customer with external id {push.customer_id}. Create it at Polar"
            )
        event = {
            "name": push.feature,
            "external_customer_id": push.customer_id,
            "external_id": push.key,
            "timestamp": iso(push.ts),
            "metadata": {field: push.quantity, KEY: push.key},
        }
        answer = await self._api.post("/v1/events/ingest", {"events": [event]}, push.attempt)
        return self._judge_answer(answer) if isinstance(answer, Answer) else answer

    def _judge_answer(self, answer: Answer) -> Outcome:
        body = json_object(answer.body) or {}
        counts = (body.get("inserted"), body.get("duplicates"))
        if answer.status == 200 and all(type(count) is int for count in counts):
            if counts == (1, 0):
                return Accepted()
            if counts == (0, 1):
                return Duplicate()
        said = self._api.read_error(answer)
        if answer.status == 422 and said is not None:
            return Rejected(f"Polar refused the event: {said}")
        return Unknown(said or f"HTTP {answer.status}: the outcome is unknown")

    async def _property(self, feature: str) -> str | ReadFailed | CannotTell:
        """Return the property of metadata that a feature's meter sums.

        CannotTell: the reason why Drawdown must not use the meter.
        """
        found = await self._meters()
        if isinstance(found, ReadFailed):
            return found
        fields = {field for name, field in found if name == feature}
        if len(fields) == 1:
            return fields.pop()
        how = "one meter that filters by this name and sums a property of metadata"
        return CannotTell(f"Polar has {len(fields)} meters of {feature}: expected {how}")

    async def _meters(self) -> list[tuple[str, str]] | ReadFailed:
        """Return the event name and the summed property of each meter.

        Only meters that filter by the event name alone are included.
        """
        found: list[tuple[str, str]] = []
        for page in range(1, MAX_PAGES + 1):
            told = await self._api.get_cached("v1", "meters", "", is_archived="false", page=str(page), limit=str(PAGE))
            items = _items(told)
            if isinstance(items, ReadFailed):
                return items
            found += [known for item in items if (known := _summed(item)) is not None]
            if len(items) < PAGE:
                return found
        return ReadFailed(f"more than {PAGE * MAX_PAGES} meters")

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        return {customer_id: await self._customer(customer_id) for customer_id in customer_ids}

    async def _customer(self, customer_id: str) -> CustomerRead:
        """Read a customer.

        Without BALANCE_METER, customers pay by invoice, and are never halted.
        """
        if self.dormant:
            return ReadFailed(self.dormant)
        found = await self._api.get("v1", "customers", "external", customer_id, "state")
        if not isinstance(found, Mapping):
            return NoCustomer() if isinstance(found, Absent) else found
        bought, meters = found.get("active_subscriptions"), found.get("active_meters")
        if found.get("external_id") != customer_id or not isinstance(bought, list) or not isinstance(meters, list):
            return ReadFailed("HTTP 200 without the customer's state")
        plans = [one.get("product_id") if isinstance(one, Mapping) else None for one in bought]
        named = frozenset(plan for plan in plans if isinstance(plan, str))
        if len(named) != len(set(map(str, plans))):
            return ReadFailed("Polar returned a subscription without a product")
        plan = min(named, default=None)
        if self._meter is None:
            return CustomerState(None, plan, None, plans=named)
        mine = [one for one in meters if isinstance(one, Mapping) and one.get("meter_id") == self._meter]
        balances = [number(one.get("balance")) for one in mine]
        if len(mine) > 1 or None in balances or any(not isinstance(one, Mapping) for one in meters):
            return ReadFailed("Polar returned the balance meter without a balance")
        if not mine and not isinstance(meter := await self._api.get_cached("v1", "meters", self._meter), Mapping):
            why = f"{self._variable} is {self._meter}, but Polar does not have a meter with this id. "
            why += "Set it to the id of a meter"
            return ReadFailed(f"{NEEDS_YOU}{why}") if isinstance(meter, Absent) else meter
        balance = balances[0] if balances else number(0)
        assert balance is not None
        return CustomerState(int(balance * MICRO), plan, None, plans=named)

    async def lookup(self, request: PushRequest) -> LookupResult:
        if self.dormant:
            return ReadFailed(self.dormant)
        field = await self._property(request.feature)
        if not isinstance(field, str):
            return field
        query = {"external_customer_id": request.customer_id, "name": request.feature, f"metadata[{KEY}]": request.key}
        items = _items(await self._api.get("v1", "events", "", **query, limit=str(PAGE)))
        if isinstance(items, ReadFailed):
            return items
        events = [(_key_of(item), _quantity(item, field)) for item in items]
        if any(key != request.key for key, _ in events):
            return ReadFailed("Polar returned another event than requested")
        if len(events) > 1:
            return CannotTell(f"Polar has {len(events)} events with this key, but must have at most one", may_have=True)
        if not events:
            return Absent()
        quantity = events[0][1]
        return ReadFailed("the event does not have a whole quantity") if quantity is None else FoundPush(quantity)

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        """Return the totals of each meter, for events dated in [from_ms, to_ms).

        This method adds up events, because Polar's own sums cover whole hours. Polar's range excludes both ends. Events
        of other senders may have fractions, so each sum is rounded at the end.
        """
        if self.dormant:
            return ReadFailed(self.dormant)
        meters = await self._meters()
        if isinstance(meters, ReadFailed):
            return meters
        fields = dict(meters)
        asked = {"external_customer_id": customer_id, "source": "user", "limit": str(PAGE)}
        asked |= {"start_timestamp": iso(from_ms - 1), "end_timestamp": iso(to_ms), "sorting": "timestamp"}
        sums: dict[str, Decimal] = {}
        for page in range(1, MAX_PAGES + 1):
            items = _items(await self._api.get("v1", "events", "", **asked, page=str(page)))
            if isinstance(items, ReadFailed):
                return items
            for item in items:
                name, at_ms = item.get("name"), moment_ms(item.get("timestamp"))
                if not isinstance(name, str) or at_ms is None:
                    return ReadFailed("Polar returned an event without a name or a time")
                if name in fields and from_ms <= at_ms < to_ms:
                    quantity = _counted(item, fields[name])
                    if quantity is None:
                        return ReadFailed(f"{name}: Polar returned an event with an invalid quantity")
                    sums[name] = sums.get(name, Decimal(0)) + quantity
            if len(items) < PAGE:
                return {name: int(total.to_integral_value()) for name, total in sums.items()}
        return ReadFailed(f"more than {PAGE * MAX_PAGES} events in one range")

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn] | ReadFailed:
        return {}

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice]:
        told = json_object(webhooks.verify(headers, body, self._secrets, now_ms).encode()) or {}
        data = told.get("data")
        who = data.get("external_id") if isinstance(data, Mapping) else None
        changed = told.get("type") == "customer.state_changed" and isinstance(who, str) and who
        return [CustomerChanged(str(who))] if changed else []

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        if self.dormant:
            return [f"{self.dormant}, so Drawdown does not send to Polar"]
        if isinstance(probe := await self._customer(PROBE), ReadFailed):
            return [f"{probe.reason}. Check the key and the address"]
        fields = {feature: await self._property(feature) for feature in features}
        lines = [f"{feature}: {field.reason}" for feature, field in fields.items() if not isinstance(field, str)]
        for customer_id in customer_ids:
            if isinstance(found := await self._customer(customer_id), NoCustomer):
                lines.append(f"{customer_id}: Polar does not have a customer with this external id")
            elif isinstance(found, ReadFailed):
                lines.append(f"{customer_id}: {found.reason.removeprefix(NEEDS_YOU)}")
        return lines


def _items(found: rest.ReadResult) -> list[Mapping[str, object]] | ReadFailed:
    """Return the items of one page; ReadFailed if it lacks the list."""
    items = found.get("items") if isinstance(found, Mapping) else None
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        return found if isinstance(found, ReadFailed) else ReadFailed("Polar did not return a list of items")
    return items


def _summed(meter: Mapping[str, object]) -> tuple[str, str] | None:
    """Return the event name and the summed property of a meter.

    Return None if the meter filters by more than the name.
    """
    match meter:
        case {
            "filter": {"clauses": [{"property": "name", "operator": "eq", "value": str(name)}]},
            "aggregation": {"func": "sum", "property": str(field)},
        } if not meter.get("archived_at"):
            return name, field
    return None


def _key_of(event: Mapping[str, object]) -> object:
    metadata = event.get("metadata")
    return metadata.get(KEY) if isinstance(metadata, Mapping) else None


def _quantity(event: Mapping[str, object], field: str) -> int | None:
    metadata = event.get("metadata")
    return whole(metadata.get(field)) if isinstance(metadata, Mapping) else None


def _counted(event: Mapping[str, object], field: str) -> Decimal | None:
    """Return the quantity that Polar counts for an event of any sender.

    Return 0 for an event without a number in the property, because Polar skips it. Return None if the event is
    unreadable, or its number is beyond all bounds. An event of ours always has a whole number.
    """
    metadata = event.get("metadata")
    if not isinstance(metadata, Mapping):
        return None
    value = metadata.get(field)
    if KEY in metadata and whole(value) is None:
        return None
    return number(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else Decimal(0)


def build(setup: Setup) -> Polar:
    """Build the provider. The package's entry point names this function.

    Errors: UsageError.
    """
    return Polar(setup)
