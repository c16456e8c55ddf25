"""Autumn's list of events, for lookups of pushes by key and totals of charges.

Guarantee: a quantity is the deducted quantity, never the requested quantity (the list has both). If an event cannot be
read, the result is "cannot tell", never "absent". A part of a list never counts as the whole, and only the whole list
proves absence. If credits do not match a known cost, Drawdown reads the costs again before it judges them. Drawdown
reads two recorded shapes of pages: `next_cursor` (2.3) and `has_more` (2.1).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from drawdown.providers.autumn.credits import (
    NOTHING,
    AutumnAccount,
    Deduction,
    KnownCosts,
    TooMany,
    Units,
    Unreadable,
    Untold,
    charged,
    deducted,
    number,
    whole,
)
from drawdown.providers.autumn.wire import KEY_PROPERTY
from drawdown.providers.protocol import (
    Absent,
    CannotTell,
    FoundPush,
    LookupResult,
    PushRequest,
    ReadFailed,
    Totals,
    UnitCost,
)
from drawdown.schema.units import SECOND_MS

PAGE: Final = 1_000
"""Events for each call: the largest limit in Autumn's published source."""
MAX_PAGES: Final = 20
"""Pages of one list of Autumn's events.

Autumn allows five calls a second for a customer's list, and answers 429 to more.
"""
MARGIN_MS: Final = 10 * SECOND_MS
"""Margin on both sides of a requested range, in case Autumn rounds its bounds.

Drawdown drops events within the margin.
"""


@dataclass(frozen=True)
class Event:
    """One event of Autumn's list.

    `ts`: the time in milliseconds. `key`: the key of the push (None: another program sent it). `requested_quantity`
    None: unreadable. `applied` None: the list does not show the deduction.
    """

    event_id: str
    customer_id: str
    feature: str
    ts: int
    key: str | None
    requested_quantity: Decimal | None
    applied: Deduction | None

    def units(self, costs: KnownCosts) -> Units | Untold:
        """Return the charge in units of the feature."""
        if self.applied is None:
            return Untold("Autumn's list lacks the deducted quantity")
        return charged(self.applied, self.requested_quantity, costs.of(self.feature))

    def is_unmatched(self, costs: KnownCosts) -> bool:
        """Return True if no known cost converts the credits to the requested quantity."""
        if self.applied is None or not self.applied.credits:
            return False
        found = self.units(costs)
        return isinstance(found, Untold) or not found.exact


@dataclass(frozen=True)
class EventPage:
    """One page of events.

    `rest`: the fields that the next call adds to its query; None on the last page.
    """

    items: Sequence[object]
    rest: Mapping[str, object] | None


def question(customer_id: str, from_ms: int, to_ms: int, key: str | None = None) -> dict[str, object]:
    """Return the query for the first page of a customer's events.

    The events are dated in [from_ms, to_ms), with a margin. `key`: only the events of this push. The query does not
    name a feature, because the recorded calls do not show how the list maps a feature to names of events. A push that
    the list omits would count as absent, and would be billed again.
    """
    asked: dict[str, object] = {
        "customer_id": customer_id,
        "custom_range": {"start": max(0, from_ms - MARGIN_MS), "end": to_ms + MARGIN_MS},
        "limit": PAGE,
    }
    return asked if key is None else asked | {"filter_by": {KEY_PROPERTY: key}}


def read_page(body: Mapping[str, object], seen: int) -> EventPage:
    """Read a page of events.

    `seen`: the number of items on the pages before. Errors: Unreadable.
    """
    items = body.get("list")
    if not isinstance(items, list):
        raise Unreadable("Autumn's response lacks the list of events")
    cursor, has_more = body.get("next_cursor"), body.get("has_more")
    if not (cursor is None or isinstance(cursor, str)) or not (has_more is None or isinstance(has_more, bool)):
        raise Unreadable("Autumn's list of events has an invalid next_cursor or has_more")
    if cursor:
        return EventPage(items, {"start_cursor": cursor})
    if has_more:
        if not items:
            raise Unreadable("Autumn reports more events, but its list is empty")
        return EventPage(items, {"offset": seen + len(items)})
    if "next_cursor" not in body and "has_more" not in body:
        raise Unreadable("Autumn's list of events does not show whether it is complete")
    return EventPage(items, None)


def read_event(item: object) -> Event:
    """Read one event.

    Errors: Unreadable for an incomplete event. Properties of other programs are ignored.
    """
    if not isinstance(item, dict):
        raise Unreadable("an event in Autumn's list is not an object")
    names = [item.get(name) for name in ("id", "customer_id", "feature_id")]
    ts, properties = item.get("timestamp"), item.get("properties")
    if not all(isinstance(name, str) and name for name in names) or type(ts) is not int:
        raise Unreadable("an event in Autumn's list lacks an id, customer_id, feature_id or timestamp")
    if properties is not None and not isinstance(properties, dict):
        raise Unreadable("an event in Autumn's list has properties that are not an object")
    key = properties.get(KEY_PROPERTY) if properties else None
    event_id, customer_id, feature = (str(name) for name in names)
    our_key = key if isinstance(key, str) else None
    return Event(event_id, customer_id, feature, ts, our_key, number(item.get("value")), _applied(item, feature))


def _applied(item: Mapping[str, object], feature: str) -> Deduction | None:
    """Return the deduction of a listed event.

    Without a deduction, the list has null (observed; documented as []).
    """
    return NOTHING if item.get("deductions", ...) is None else deducted(item, feature)


def find(request: PushRequest, events: Mapping[str | None, Sequence[Event]], costs: KnownCosts) -> LookupResult:
    """Return the outcome of a push, from all events around its time, by key."""
    ours = events.get(request.key, ())
    if not ours:
        return Absent()
    total, told = Decimal(0), set[UnitCost | None]()
    for event in ours:
        found = event.units(costs)
        if isinstance(found, Untold):
            return CannotTell(f"Autumn has this push: {found.reason}", may_have=True)
        total += found.quantity
        told.add(found.cost)
    quantity = whole(total)
    if quantity is None:
        return CannotTell(f"Autumn deducted {total} for this push, which is not a whole number", may_have=True)
    return FoundPush(quantity, told.pop() if len(told) == 1 else None)


def by_key(items: Iterable[object]) -> Mapping[str | None, Sequence[Event]]:
    """Return events by push key; None: events without a key.

    Errors: Unreadable for an incomplete event, because it may be the push that is looked up. If that push counted as
    absent, it would be billed twice.
    """
    found: dict[str | None, list[Event]] = defaultdict(list)
    for event in {event.event_id: event for event in map(read_event, items)}.values():
        found[event.key].append(event)
    return found


def totals(events: Iterable[Event], costs: KnownCosts) -> dict[str, int]:
    """Return the deducted quantity by feature, in base units, from all senders.

    Events of other senders may have fractions, so each sum is rounded at the end. If the charge of an event is unknown,
    and Drawdown did not send any of these events for its feature, the totals omit the event.

    Errors: Unreadable if the charge is unknown, and Drawdown sent an event for the feature.
    """
    sums: dict[str, Decimal] = defaultdict(Decimal)
    listed = list(events)
    ours = {event.feature for event in listed if event.key is not None}
    for event in listed:
        found = event.units(costs)
        if isinstance(found, Untold):
            if event.feature not in ours:
                continue
            raise Unreadable(f"an event of {event.feature}: {found.reason}")
        sums[event.feature] += found.quantity
    return {feature: int(total.to_integral_value()) for feature, total in sums.items()}


def within(customer_id: str, items: Iterable[object], from_ms: int, to_ms: int) -> list[Event]:
    """Return a customer's events dated in [from_ms, to_ms), each once.

    Errors: Unreadable.
    """
    events = {event.event_id: event for event in map(read_event, items)}.values()
    return [event for event in events if event.customer_id == customer_id and from_ms <= event.ts < to_ms]


Events = Mapping[str | None, Sequence[Event]]


class EventReader:
    """A reader of the events of one account."""

    def __init__(
        self, ask: Callable[[str, Mapping[str, object]], Awaitable[Mapping[str, object]]], account: AutumnAccount
    ) -> None:
        self._ask = ask
        self._account = account

    async def find(self, requests: Sequence[PushRequest]) -> Sequence[LookupResult]:
        """Return the outcomes of one customer's pushes, in the same order.

        One push is first looked up by its key. If the filter does not find it, the list of events around its time
        decides. Several pushes are looked up in one list of events. If the list is too long, or has an event that
        cannot be read, each half of the pushes is looked up separately.
        """
        if len(requests) == 1:
            found = await self._by_key(requests[0])
            if found is not None:
                return [found]
        dates = sorted({request.ts for request in requests})
        try:
            items = await self._read(requests[0].customer_id, dates[0], dates[-1] + 1)
        except Unreadable as trouble:
            if isinstance(trouble, TooMany) and len(dates) > 1:
                return await self._in_halves(requests)
            said = CannotTell(f"Autumn refused to list this customer's events: {trouble}")
            return [said if _is_refused(trouble) else failed(trouble)] * len(requests)
        try:
            events = by_key(items)
        except Unreadable as trouble:
            if len(dates) > 1:
                return await self._in_halves(requests)
            return [CannotTell(str(trouble), may_have=True)] * len(requests)
        return await self._judge(requests, events)

    async def _by_key(self, request: PushRequest) -> LookupResult | None:
        """Look up one push by a filter on its key; None if the filter does not find it.

        None does not prove that the push is absent. In recorded calls, a filter matched a text, but did not match a
        number. No call tried the hosted service.
        """
        try:
            items = await self._read(request.customer_id, request.ts, request.ts + 1, request.key)
        except Unreadable as trouble:
            return None if isinstance(trouble, TooMany) or _is_refused(trouble) else failed(trouble)
        try:
            events = by_key(items)
        except Unreadable:
            return None  # the caller then reads the whole list
        return (await self._judge([request], events))[0] if events.get(request.key) else None

    async def _judge(self, requests: Sequence[PushRequest], events: Events) -> Sequence[LookupResult]:
        costs = self._account.costs
        doubtful = {
            request.key
            for request in requests
            if any(event.is_unmatched(costs) for event in events.get(request.key, ()))
        }
        unread = await self._read_costs() if doubtful else None
        return [
            unread if unread is not None and request.key in doubtful else find(request, events, costs)
            for request in requests
        ]

    async def _read_costs(self) -> ReadFailed | None:
        """Read the costs again, after the events.

        Costs can change while pushes are in flight. Return ReadFailed if the costs cannot be read, or the earlier costs
        are not loaded yet. Drawdown then looks up the push again. Otherwise a charge at an earlier cost would count as
        a part of a charge.
        """
        try:
            await self._account.read()
        except Unreadable as trouble:
            return failed(trouble)
        return (
            None
            if self._account.has_history
            else ReadFailed("the earlier costs are not loaded yet. The next lookup retries")
        )

    async def _in_halves(self, requests: Sequence[PushRequest]) -> Sequence[LookupResult]:
        dates = sorted({request.ts for request in requests})
        middle = dates[len(dates) // 2]
        found: dict[str, LookupResult] = {}
        earlier = [request for request in requests if request.ts < middle]
        for part in (earlier, [request for request in requests if request.ts >= middle]):
            found.update(zip((request.key for request in part), await self.find(part), strict=True))
        return [found[request.key] for request in requests]

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        try:
            items = await self._read(customer_id, from_ms, to_ms)
            events = within(customer_id, items, from_ms, to_ms)
            if any(event.is_unmatched(self._account.costs) for event in events):
                unread = await self._read_costs()
                if unread is not None:
                    return unread
            return totals(events, self._account.costs)
        except Unreadable as trouble:
            return failed(trouble)

    async def _read(self, customer_id: str, from_ms: int, to_ms: int, key: str | None = None) -> list[object]:
        """Read all events of a range, page by page.

        Errors: Unreadable if the list is not complete.
        """
        asked = question(customer_id, from_ms, to_ms, key)
        items: list[object] = []
        rest: Mapping[str, object] | None = {}
        for _page in range(MAX_PAGES):
            before = rest
            page = read_page(await self._ask("events.list", {**asked, **(rest or {})}), len(items))
            items.extend(page.items)
            rest = page.rest
            if rest is None:
                return items
            if rest == before:
                raise Unreadable("Autumn's list of events repeats a page")
        raise TooMany(f"Autumn's list has more than {MAX_PAGES * PAGE:,} events. Choose a shorter range")


def _is_refused(trouble: Unreadable) -> bool:
    return trouble.status in (400, 404) and trouble.their_code is not None


def failed(trouble: Unreadable) -> ReadFailed:
    """Return a failed read as a ReadFailed."""
    return ReadFailed(str(trouble), too_many=trouble.status == 429)
