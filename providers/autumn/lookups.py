"""Pushes and totals read from Autumn's list of events.

Guarantee: a part of a list is never taken for the whole, and absence rests on the whole list alone. Credits that match
no known cost are judged only after the costs were read again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from drawdown.providers.autumn import events as autumn_events
from drawdown.providers.autumn.account import AutumnAccount
from drawdown.providers.autumn.errors import TooMany, Unreadable
from drawdown.providers.autumn.events import Event
from drawdown.providers.protocol import CannotTell, LookupResult, PushRequest, ReadFailed, Totals

Events = Mapping[str | None, Sequence[Event]]


class EventReader:
    """Asks one account for events."""

    def __init__(
        self, ask: Callable[[str, Mapping[str, object]], Awaitable[Mapping[str, object]]], account: AutumnAccount
    ) -> None:
        self._ask = ask
        self._account = account

    async def find(self, requests: Sequence[PushRequest]) -> Sequence[LookupResult]:
        """Pushes of one customer. One push: by its key, in one call. Several: by one list of events; where that is too
        long, or holds an event that cannot be read, by halves of it."""
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
            said = CannotTell(f"Autumn will not list this customer's events: {trouble}")
            return [said if _is_refused(trouble) else failed(trouble)] * len(requests)
        try:
            events = autumn_events.by_key(items)
        except Unreadable as trouble:
            if len(dates) > 1:
                return await self._in_halves(requests)
            return [CannotTell(str(trouble))] * len(requests)
        return await self._judge(requests, events)

    async def _by_key(self, request: PushRequest) -> LookupResult | None:
        """One push by a filter on its key. None: the filter does not find it, which proves nothing: a filter matched a
        text and not a number (recorded), and how the hosted service matches was not tried."""
        try:
            items = await self._read(request.customer_id, request.ts, request.ts + 1, request.key)
        except Unreadable as trouble:
            return None if isinstance(trouble, TooMany) or _is_refused(trouble) else failed(trouble)
        try:
            events = autumn_events.by_key(items)
        except Unreadable:
            return None  # the whole list says the same, or that the event is another push's
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
            unread if unread is not None and request.key in doubtful else autumn_events.find(request, events, costs)
            for request in requests
        ]

    async def _read_costs(self) -> ReadFailed | None:
        """Read the costs after the events, since costs change while pushes are under way. The push is asked about again
        where they cannot be read, or where those of before were not handed in yet: a charge at an older cost would be
        taken for a part of one."""
        try:
            await self._account.read()
        except Unreadable as trouble:
            return failed(trouble)
        return None if self._account.has_history else ReadFailed("the costs that were known before are not loaded yet")

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
            events = autumn_events.within(customer_id, items, from_ms, to_ms)
            if any(event.is_unmatched(self._account.costs) for event in events):
                unread = await self._read_costs()
                if unread is not None:
                    return unread
            return autumn_events.totals(events, self._account.costs)
        except Unreadable as trouble:
            return failed(trouble)

    async def _read(self, customer_id: str, from_ms: int, to_ms: int, key: str | None = None) -> list[object]:
        """All events of a range, page by page. Errors: Unreadable; a part of them is never given for the whole."""
        asked = autumn_events.question(customer_id, from_ms, to_ms, key)
        items: list[object] = []
        rest: Mapping[str, object] | None = {}
        for _page in range(autumn_events.MAX_PAGES):
            before = rest
            page = autumn_events.read_page(await self._ask("events.list", {**asked, **(rest or {})}), len(items))
            items.extend(page.items)
            rest = page.rest
            if rest is None:
                return items
            if rest == before:
                raise Unreadable("Autumn's list of events does not move on")
        raise TooMany(f"more than {autumn_events.MAX_PAGES * autumn_events.PAGE} events: ask for a shorter range")


def _is_refused(trouble: Unreadable) -> bool:
    return trouble.status in (400, 404) and trouble.their_code is not None


def failed(trouble: Unreadable) -> ReadFailed:
    """A read that failed, as the protocol has it."""
    return ReadFailed(str(trouble), too_many=trouble.status == 429)
