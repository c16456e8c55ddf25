"""Usage events as they are stored. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.worker.sources.events.find import samples_of

SQL = queries(__file__)

MOST_LISTED: Final = 10_000
"""Events of one page."""


@dataclass(frozen=True)
class EventRow:
    """One event. `quantity` in units of its type, `ts` when it was used, both as it said; `feature` None: nothing made
    one of it then. `withdrawn`: why. `properties` as JSON."""

    source: str
    event_id: str
    event_type: str
    org_id: str
    quantity: int
    ts: int
    subject: str | None
    project: str | None
    plan_key: str | None
    properties: str
    ingested_ms: int
    sample_id: str
    withdrawn: str | None
    feature: str | None


@dataclass(frozen=True)
class EventPage:
    """A page of events; `next_after`: the sample id after which the next one begins, of events used from `next_from_ms`
    on."""

    events: list[EventRow]
    next_from_ms: int | None
    next_after: str | None


def list_events(
    connection: sa.Connection, org_id: str, from_ms: int, to_ms: int, *, after: str = "", most: int = 100
) -> EventPage:
    """An organisation's events dated in [from, to), the oldest first, the withdrawn ones among them. `after`: only
    what comes after this sample.

    Errors: UsageError for a page of more than MOST_LISTED, and for an `after` that is no event's sample.
    """
    if not 0 < most <= MOST_LISTED:
        raise UsageError(f"a page has 1 to {MOST_LISTED:,} events")
    if after:
        place = SQL.run(connection, "place", {"org_id": org_id, "sample_id": after}).scalar()
        if place is None:
            raise UsageError(f"invalid --after {after!r}: it is no sample of {org_id}. Take a page's `next_after`")
        from_ms = max(from_ms, int(place))
    values = {"org_id": org_id, "from_ms": from_ms, "to_ms": to_ms, "after_sample_id": after, "at_most": most + 1}
    found = [EventRow(**row._mapping) for row in SQL.run(connection, "list", values)]
    page = found[:most]
    last = page[-1] if len(found) > most else None
    return EventPage(page, None if last is None else last.ts, None if last is None else last.sample_id)


def show_event(connection: sa.Connection, source: str, event_id: str, org_id: str | None = None) -> EventRow:
    """One event, by its key; that of an organisation, where it is named. Errors: those of `samples_of`."""
    sample_id = samples_of(connection, source, [event_id], org_id)[event_id]
    return EventRow(**SQL.run(connection, "show", {"sample_id": sample_id}).one()._mapping)
