"""The emulated Autumn's events: stored by customer and time, and listed page by page.

Guarantee: an event is listed only a while after it was applied, as at the real service; pages neither repeat nor leave
out an event.
"""

from __future__ import annotations

import base64
import json
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.emulators.autumn_numbers import Json, Number


@dataclass(frozen=True, order=True)
class Event:
    """`value` as it was asked, `deductions` as they were applied; where nothing was, the list has null for them."""

    ts: int
    name: str
    customer: str = field(compare=False)
    feature: str = field(compare=False)
    value: Number = field(compare=False)
    properties: Json = field(compare=False)
    deductions: list[Json] = field(compare=False)
    visible_at: int = field(compare=False)

    def shown(self) -> Json:
        return {
            "id": self.name, "timestamp": self.ts, "feature_id": self.feature, "customer_id": self.customer,
            "value": self.value, "properties": self.properties, "deductions": self.deductions or None,
        }  # fmt: skip


class Events:
    """All events of an account."""

    def __init__(self) -> None:
        self._by_customer: dict[str, list[Event]] = defaultdict(list)
        self._count = 0

    def __iter__(self) -> Iterator[Event]:
        for events in self._by_customer.values():
            yield from events

    def add(
        self, customer: str, feature: str, ts: int, value: Number, properties: Json, deductions: list[Json], seen: int
    ) -> Event:
        self._count += 1
        event = Event(ts, f"evt_{self._count:027d}", customer, feature, value, properties, deductions, seen)
        insort(self._by_customer[customer], event)
        return event

    def remove(self, event: Event) -> None:
        self._by_customer[event.customer].remove(event)

    def find(self, asked: Json, seen_at: int) -> list[Event]:
        """The newest first."""
        name = asked.get("customer_id")
        events = self._by_customer.get(str(name), []) if name is not None else sorted(self)
        span = asked.get("custom_range")
        if isinstance(span, dict):
            low = bisect_left(events, span.get("start", 0), key=lambda one: one.ts)
            high = bisect_right(events, span.get("end", 1 << 62), key=lambda one: one.ts)
            events = events[low:high]
        feature = asked.get("feature_id")
        wanted = feature if isinstance(feature, list) else None if feature is None else [feature]
        filters = asked.get("filter_by")
        properties = filters.items() if isinstance(filters, dict) else ()
        return [
            one
            for one in reversed(events)
            if one.visible_at <= seen_at
            and (wanted is None or one.feature in wanted)
            and all(one.properties.get(key) == text for key, text in properties)
        ]

    def page(self, asked: Json, version: str, seen_at: int) -> Json:
        """`start_cursor` and `next_cursor` from 2.3 on, `offset` and `has_more` before."""
        found = self.find(asked, seen_at)
        limit, offset = asked.get("limit", 100), asked.get("offset", 0)
        assert isinstance(limit, int) and isinstance(offset, int)
        if version < "2.3":
            part = found[offset : offset + limit]
            told: Json = {"list": [one.shown() for one in part], "has_more": len(found) > offset + limit}
            return told | {"total": len(part), "offset": offset, "limit": limit}
        cursor = asked.get("start_cursor")
        if isinstance(cursor, str) and cursor:
            last = json.loads(base64.urlsafe_b64decode(cursor + "=="))
            found = [one for one in found if (one.ts * 1000, one.name) < (last["t"], last["id"])]
        part = found[:limit]
        more = len(found) > limit
        return {"list": [one.shown() for one in part], "next_cursor": _cursor(part[-1]) if more else None}


def _cursor(last: Event) -> str:
    text = json.dumps({"v": 0, "id": last.name, "t": last.ts * 1000}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
