"""Stripe's meters.

The module lists them, sums a customer's usage, and cancels an event by its identifier.

Guarantee: a figure is returned only if it is complete and exact. If a meter was archived and made again under the same
event name, the usage of both is counted. So charged usage never counts as absent. "Cancelled" is returned only if
Stripe's response names our identifier, or states that the event was cancelled before.

Stripe applies an adjustment after its response, like an event (status `pending`). A later read of the adjustment is
impossible. Reconcile compares the totals afterwards. Sources: docs.stripe.com (api/billing/meter-event-adjustment,
billing/usage-based/meters/configure). Stripe documents a limit of 24 hours from the receipt, and does not change final
invoices. It does not document the response to a second adjustment of the same event.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias

from drawdown.providers.http import Answer, Call, Http, HttpResult
from drawdown.providers.protocol import Cancelled, CannotTell, PushRequest, ReadFailed
from drawdown.providers.stripe.settings import StripeSettings
from drawdown.providers.stripe.wire import (
    clean,
    described,
    error_of,
    get,
    json_object,
    path_of,
    post,
    read_object,
    request_id,
)
from drawdown.schema.clock import Clock
from drawdown.schema.units import MINUTE_MS

PAGE: Final = 100
MAX_PAGES: Final = 50
"""Pages of one list of Stripe's meters, or of a meter's summaries."""
REMEMBERED_MS: Final = 10 * MINUTE_MS
"""Milliseconds for which Drawdown caches the list of meters.

A lookup starts an hour after its event was sent, so a meter that the cached list lacks is newer than that event. A
meter never changes its time window. Drawdown can mistake a meter for an old meter only if it was archived and created
again within this time.
"""
MAX_VALUE: Final = Decimal(10**30)
CUSTOMER_KEY: Final = "stripe_customer_id"
VALUE_KEY: Final = "value"


Summed: TypeAlias = Decimal | ReadFailed | CannotTell


@dataclass(frozen=True)
class Meter:
    """A meter as Stripe lists it. A missing field is "".

    `formula`: how it aggregates, such as `sum`. `customer_key`, `value_key`: the keys of an event's payload with the
    customer and the value.
    """

    id: str
    event_name: str
    active: bool
    formula: str
    customer_key: str
    value_key: str
    window: str
    """The time window of the meter.

    With `hour` or `day`, Stripe keeps only the newest event of each such period. Empty: all events count.
    """


class Meters:
    """A reader of meters and their summaries, with a cache of the list of meters."""

    def __init__(self, settings: StripeSettings, http: Http, clock: Clock) -> None:
        self._settings = settings
        self._http = http
        self._clock = clock
        self._meters: Sequence[Meter] = ()
        self._read_ms: int | None = None
        self._turn = asyncio.Lock()
        self._newest: Sequence[Meter] | ReadFailed = ()
        self._reads = 0

    async def all(self, *, afresh: bool = False) -> Sequence[Meter] | ReadFailed:
        """Return every meter of the account, including archived meters.

        `afresh` False: the list may be REMEMBERED_MS old. Concurrent callers share one read and its failure, because
        each push calls this, and up to 64 are in flight.
        """
        now_ms = self._clock.now_ms()
        if not afresh and self._read_ms is not None and abs(now_ms - self._read_ms) <= REMEMBERED_MS:
            return self._meters
        if not self._turn.locked():
            self._turn = asyncio.Lock()  # a lock that had waiters stays bound to their event loop
        reads = self._reads
        async with self._turn:
            if self._reads == reads:
                self._newest = await self._read()
                self._reads += 1
            return self._newest

    async def _read(self) -> Sequence[Meter] | ReadFailed:
        now_ms = self._clock.now_ms()
        found = await self._list("/v1/billing/meters", {})
        if not isinstance(found, list):
            return found if isinstance(found, ReadFailed) else ReadFailed(found.reason)
        self._meters = [_meter(item) for item in found]
        self._read_ms = now_ms
        return self._meters

    async def named(self, event_name: str) -> Sequence[Meter] | ReadFailed:
        """Return the meters with this event name.

        If the cached list lacks them, read the list again.
        """
        for afresh in (False, True):
            found = await self.all(afresh=afresh)
            if isinstance(found, ReadFailed):
                return found
            named = [meter for meter in found if meter.event_name == event_name]
            if named:
                return named
        return []

    async def active(self, event_name: str) -> Sequence[Meter] | ReadFailed:
        """Return the active meters with this event name.

        If the cached list lacks them, read the list again.
        """
        for afresh in (False, True):
            found = await self.all(afresh=afresh)
            if isinstance(found, ReadFailed):
                return found
            active = [meter for meter in found if meter.event_name == event_name and meter.active]
            if active:
                return active
        return []

    async def summed(self, meters: Sequence[Meter], customer_id: str, from_ms: int, to_ms: int) -> Summed:
        """Return the units that these meters charged the customer for.

        The events are dated in [from_ms, to_ms), in whole minutes. Return CannotTell if a meter does not sum, or if
        Stripe refuses the query, such as for an unknown customer.
        """
        total = Decimal(0)
        for meter in meters:
            if meter.formula != "sum":
                return CannotTell(
                    f"the meter {meter.id} uses the formula {meter.formula}, not sum, so its figures are not proof"
                )
            asked = {"customer": customer_id, "start_time": str(from_ms // 1000), "end_time": str(to_ms // 1000)}
            found = await self._list(path_of("v1", "billing", "meters", meter.id, "event_summaries"), asked)
            if not isinstance(found, list):
                return found
            for summary in found:
                value = _value(summary)
                if value is None:
                    return ReadFailed(f"the meter {meter.id} returns an aggregated_value that is not a number")
                total += value
        return total

    async def _list(self, path: str, asked: Mapping[str, str]) -> list[Mapping[str, object]] | ReadFailed | CannotTell:
        """Return all pages of a list.

        Return CannotTell if Stripe refuses the request itself, such as for an unknown customer.
        """
        found: list[Mapping[str, object]] = []
        params = {**asked, "limit": str(PAGE)}
        for _ in range(MAX_PAGES):
            result = await self._http.send(get(self._settings, path, params))
            if isinstance(result, Answer) and result.status in (400, 404) and error_of(result):
                return CannotTell(described(result))
            page = read_object(result)
            if isinstance(page, ReadFailed):
                return page
            data = page.get("data")
            if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
                return ReadFailed("HTTP 200 without a list")
            found += data
            if page.get("has_more") is not True:
                return found
            if not data or not isinstance(data[-1].get("id"), str):
                return ReadFailed("the list continues, but Stripe did not send the next position")
            params["starting_after"] = str(data[-1]["id"])
        return ReadFailed(f"the list has more than {MAX_PAGES * PAGE} items")


def _meter(found: Mapping[str, object]) -> Meter:
    return Meter(
        id=_text(found, "id"),
        event_name=_text(found, "event_name"),
        active=found.get("status") == "active",
        formula=_text(_part(found, "default_aggregation"), "formula"),
        customer_key=_text(_part(found, "customer_mapping"), "event_payload_key"),
        value_key=_text(_part(found, "value_settings"), "event_payload_key"),
        window=_text(found, "event_time_window"),
    )


def _part(found: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = found.get(name)
    return part if isinstance(part, dict) else {}


def _text(found: Mapping[str, object], name: str) -> str:
    text = found.get(name)
    return text if isinstance(text, str) else ""


def _value(summary: Mapping[str, object]) -> Decimal | None:
    """Return the exact value of a summary; None without a number.

    `json_object` reads Stripe's float as a Decimal.
    """
    value = summary.get("aggregated_value")
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    exact = Decimal(value)
    return exact if abs(exact) < MAX_VALUE else None


ADJUSTMENTS: Final = "/v1/billing/meter_event_adjustments"
_BEFORE: Final = re.compile(r"\balready (been )?cancell?ed\b")


def adjustment(settings: StripeSettings, push: PushRequest) -> Call:
    """Return the call that cancels a push at Stripe.

    `cancel[identifier]` is the push's key, so a repeated call cancels only once. The call does not have an
    Idempotency-Key, because Stripe would repeat a stored 500 for the same Idempotency-Key.
    """
    form = {
        "type": "cancel",
        "event_name": settings.meter_of(push.feature).event_name,
        "cancel[identifier]": push.key,
    }
    return post(settings, ADJUSTMENTS, form)


def cancelled(result: HttpResult, push: PushRequest) -> Cancelled | ReadFailed:
    """Return Cancelled if the response proves that the event was cancelled.

    Otherwise return ReadFailed.
    """
    if not isinstance(result, Answer):
        return ReadFailed(clean(result.reason))
    if result.status != 200:
        error = error_of(result)
        if error is not None and error.type == "invalid_request_error" and _BEFORE.search(error.message):
            return Cancelled(f"Stripe had already cancelled the event: {described(result)}")
        return ReadFailed(described(result), too_many=result.status == 429)
    body = json_object(result.body) or {}
    cancel, status = body.get("cancel"), body.get("status")
    ours = isinstance(cancel, dict) and cancel.get("identifier") == push.key
    if body.get("object") != "billing.meter_event_adjustment" or not ours or status not in ("pending", "complete"):
        return ReadFailed("HTTP 200, but for another push")
    request = request_id(result)
    return Cancelled(f"Stripe accepted the meter event adjustment, {status}" + (f" ({request})" if request else ""))
