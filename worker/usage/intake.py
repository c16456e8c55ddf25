"""Return received usage events, and the pushes of an event.

This module returns events by source and type, by arrival, and by time of use. It also returns conflicts, numbers of
quarantined samples, and limits of event types that are nearly reached. Reads only.

Guarantee: a page by arrival reads a bounded number of the newest events, by the index of their arrival. The numbers by
source and type have the time since which they count. The next page begins where the last page ended, so pages do not
omit events.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Final

import sqlalchemy as sa

from drawdown.ledger.accounts import WALLET
from drawdown.schema import ids
from drawdown.schema.audit import require_org
from drawdown.schema.declare import ID, ORG, TIME, Column, Listing, Look, Page, Showing
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import Part, queries, read_together
from drawdown.schema.text import quote_value
from drawdown.schema.typed.parsing import require_range, show_time
from drawdown.schema.units import DAY_MS, MAX_EVENT_TYPES, MAX_KEY_TYPES, MAX_ORG_TYPES, MAX_SOURCE_TYPES, window_of
from drawdown.worker.sources.events.store import require_source, samples_of

SQL = queries(__file__)

MOST_SEEN: Final = 20_000
"""Usage events that one page reads. Drawdown also counts at most this number of quarantined samples of each kind."""
MOST_KINDS: Final = 200
"""Pairs of a source and an event type that one page lists."""
MOST_SAID_CHARS: Final = 200
"""Characters of each text of a conflict (content, source, sample id) that a page shows."""
MOST_OF_EVENT: Final = 50
"""Pushes of one event's window on a page. Ledger entries have the same limit."""
_LAST: Final = 2**62


@dataclass(frozen=True)
class EventFilter:
    """A filter of events by source, type and organisation.

    An empty field matches all events.
    """

    source: str = ""
    event_type: str = ""
    org_id: str = ""


@dataclass(frozen=True)
class Place:
    """The place of an event in the order of arrival, after which a page begins.

    The newest event comes first, so events after this place are older.
    """

    ingested_ms: int
    sample_id: str


_BEGIN: Final = Place(_LAST, "")


@dataclass(frozen=True)
class EventLine:
    """A received event.

    `quantity`: units of its type. `ts`: the time of use, in milliseconds. `ingested_ms`: the time of arrival.
    `withdrawn`: the event was withdrawn, so it no longer counts.
    """

    source: str
    event_id: str
    event_type: str
    org_id: str
    quantity: int
    ts: int
    ingested_ms: int
    sample_id: str
    withdrawn: bool


@dataclass(frozen=True)
class SourceRow:
    """The number of events of a source and a type, among the events read.

    `orgs`: the number of their organisations. `of_day`: events that arrived in the last 24 hours. `first_ms`,
    `last_ms`: the first and the last arrival.
    """

    source: str
    event_type: str
    events: int
    orgs: int
    of_day: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True)
class Sources:
    """Numbers of events by source and type, among the newest `seen` events.

    `since_ms`: the arrival of the oldest event that was read (None: without events). `whole`: all stored events were
    read.
    """

    rows: list[SourceRow]
    seen: int
    since_ms: int | None
    whole: bool


@dataclass(frozen=True)
class Arrivals:
    """A page of events. `next`: the start of the next page (None: the last page)."""

    events: list[EventLine]
    next: Place | None


@dataclass(frozen=True)
class ConflictRow:
    """An item that differs from the stored item with its id.

    `event_source`, `event_id`, `org_id`: the source, id and organisation of the stored event (None: the stored item is
    not an event). `closed`: a person dismissed the conflict or fixed it. Texts are cut to MOST_SAID_CHARS.
    """

    conflict_id: int
    sample_id: str
    source: str
    content: str
    seen_ms: int
    event_source: str | None
    event_id: str | None
    org_id: str | None
    closed: bool


@dataclass(frozen=True)
class ConflictsPage:
    """Conflicts, newest first.

    `next_before`: the argument `before` for the next page (None: this is the last page).
    """

    conflicts: list[ConflictRow]
    next_before: int | None


@dataclass(frozen=True)
class PushLine:
    """A push of an event's window and feature. `sealed_qty`: base units."""

    key: str
    window_ms: int
    feature: str
    revision: int
    provider: str
    sealed_qty: int
    state: str


@dataclass(frozen=True)
class EntryLine:
    """The entry of a push in a wallet.

    `moved_micro`: micro-credits, positive if the wallet gained. `ts`: the time of use. `at_ms`: the time of booking.
    Both times are in milliseconds.
    """

    key: str
    customer_id: str
    moved_micro: int
    ts: int
    at_ms: int


@dataclass(frozen=True)
class Became:
    """The result of an event: its window, the window's pushes, and their entries.

    `pushes`: the pushes of the event's feature. Each push bills the whole window, with all events and samples of the
    feature. `entries`: the ledger's entries of these pushes.
    """

    window_ms: int
    pushes: list[PushLine]
    entries: list[EntryLine]


def sources(connection: sa.Connection, now_ms: int, chosen: EventFilter = EventFilter()) -> Sources:
    """Return numbers of recent events by source and type, highest number first.

    Errors: UnknownId.
    """
    require_known(connection, chosen)
    values = {**vars(chosen), **_from(_BEGIN), "since_ms": now_ms - DAY_MS, "at_most": MOST_KINDS}
    rows = [
        SourceRow(row.source, row.event_type, row.events, row.orgs, int(row.of_day), row.first_ms, row.last_ms)
        for row in SQL.run(connection, "by_source", values)
    ]
    last = SQL.run(connection, "last_seen", values).one_or_none()
    if last is None:
        return Sources([], 0, None, True)
    return Sources(rows, int(last.events), int(last.ingested_ms), int(last.events) < MOST_SEEN)


def require_known(connection: sa.Connection, chosen: EventFilter) -> None:
    """Refuse a filter with an unknown source, type or organisation. Errors: UnknownId."""
    if chosen.source:
        require_source(connection, chosen.source)
    for kind, name in ((ids.EVENT_TYPE, chosen.event_type), (ids.CUSTOMER, chosen.org_id)):
        if name:
            ids.require(connection, kind, name)


def arrivals(
    connection: sa.Connection, chosen: EventFilter = EventFilter(), *, after: Place | None = None, most: int = 50
) -> Arrivals:
    """Return a page of events in the order of arrival, newest first.

    A page reads at most MOST_SEEN events. If few of them match the filter, the page may be short or empty, although a
    next page exists.
    """
    values = {**vars(chosen), **_from(after or _BEGIN), "at_most": most + 1}
    found = [
        EventLine(**{**row, "withdrawn": bool(row["withdrawn"])})
        for row in SQL.run(connection, "newest", values).mappings()
    ]
    if len(found) > most:
        return Arrivals(found[:most], Place(found[most - 1].ingested_ms, found[most - 1].sample_id))
    last = SQL.run(connection, "last_seen", values).one_or_none()
    goes_on = last is not None and int(last.events) == MOST_SEEN
    return Arrivals(found, Place(int(last.ingested_ms), last.sample_id) if goes_on and last is not None else None)


def conflicts(connection: sa.Connection, *, before: int = 0, most: int = 50) -> ConflictsPage:
    """Return conflicts, newest first.

    A conflict is an item that differs from the stored item with the same id.
    """
    values = {"before": before, "at_most": most + 1, "chars": MOST_SAID_CHARS}
    rows = SQL.run(connection, "conflicts", values).mappings()
    found = [ConflictRow(**{**row, "closed": bool(row["closed"])}) for row in rows]
    return ConflictsPage(found[:most], found[most - 1].conflict_id if len(found) > most else None)


def quarantined(connection: sa.Connection) -> dict[str, int]:
    """Return the number of quarantined samples, by reason.

    Invalid samples, late samples and conflicts are each counted up to MOST_SEEN. A count of MOST_SEEN means at least
    that number.
    """
    rows = SQL.run(connection, "quarantined", {"counted": MOST_SEEN})
    return {str(row.reason): int(row.samples) for row in rows}


def became(connection: sa.Connection, event: EventRow) -> Became:
    """Return the pushes and ledger entries of an event's window and feature."""
    window = window_of(event.ts)
    values = {"window_ms": window, "org_id": event.org_id, "feature": event.feature or "", "at_most": MOST_OF_EVENT}
    pushes = [PushLine(**row._mapping) for row in SQL.run(connection, "pushes", values)]
    asked = {"keys": [one.key for one in pushes], "at_most": MOST_OF_EVENT}
    return Became(window, pushes, [_entry(row) for row in SQL.run(connection, "entries", asked).mappings()])


def _entry(row: sa.RowMapping) -> EntryLine:
    leaves = str(row["from_account"]).startswith(WALLET)
    account = str(row["from_account" if leaves else "to_account"])
    moved = -int(row["amount_micro"]) if leaves else int(row["amount_micro"])
    return EntryLine(row["key"], account.removeprefix(WALLET), moved, int(row["ts"]), int(row["at_ms"]))


def _from(place: Place) -> dict[str, object]:
    return {"before_ms": place.ingested_ms, "before_id": place.sample_id, "counted": MOST_SEEN}


MOST_LISTED: Final = 10_000
"""Most events on one page."""


@dataclass(frozen=True)
class EventRow:
    """One event.

    `quantity`: units of its type, as sent. `ts`: the time of use in milliseconds, as sent. `feature` None: the type
    lacked a feature at that time. `withdrawn`: the reason for the withdrawal (None: it was not withdrawn).
    `properties`: JSON. `subject`, `project`, `plan_key` None: the event does not have one.
    """

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
    """A page of events.

    `next_after`: the sample id after which the next page begins, with events used from `next_from_ms` on. Both are
    None on the last page.
    """

    events: list[EventRow]
    next_from_ms: int | None
    next_after: str | None


def list_events(
    connection: sa.Connection, org_id: str, from_ms: int, to_ms: int, *, after: str = "", most: int = 100
) -> EventPage:
    """Return an organisation's events dated in [from, to), the oldest first.

    The page includes withdrawn events. `after`: the sample id after which the page begins.

    Errors: UsageError for a page size outside 1 to MOST_LISTED, and if `after` is not a sample of the organisation.
    """
    if not 0 < most <= MOST_LISTED:
        raise UsageError(
            f"invalid page size {most}: expected 1 to {MOST_LISTED:,} events. For the next page, pass `--after`"
        )
    if after:
        place = SQL.run(connection, "place", {"org_id": org_id, "sample_id": after}).scalar()
        if place is None:
            raise UsageError(
                f"invalid --after {quote_value(after)}: it is not a sample of {org_id}. Use the `next_after` of a page"
            )
        from_ms = max(from_ms, int(place))
    values = {"org_id": org_id, "from_ms": from_ms, "to_ms": to_ms, "after_sample_id": after, "at_most": most + 1}
    found = [EventRow(**row._mapping) for row in SQL.run(connection, "list", values)]
    page = found[:most]
    last = page[-1] if len(found) > most else None
    return EventPage(page, None if last is None else last.ts, None if last is None else last.sample_id)


def show_event(connection: sa.Connection, source: str, event_id: str, org_id: str | None = None) -> EventRow:
    """Return one event by its source and id.

    `org_id`: return only an event of this organisation. Errors: as `samples_of`.
    """
    sample_id = samples_of(connection, source, [event_id], org_id)[event_id]
    return EventRow(**SQL.run(connection, "show", {"sample_id": sample_id}).one()._mapping)


NEAR_TYPES: Final = MAX_EVENT_TYPES * 9 // 10
"""Number of event types in use from which Drawdown notifies a person of the limit."""
MOST_NAMED: Final = 20
"""Owners of reached limits of event types that one query returns."""
NAME_ONE: Final = "drawdown key list shows who sends events; drawdown feature map-event TYPE FEATURE adds a type"
"""Advice for a person if a limit of event types is nearly reached."""


@dataclass(frozen=True)
class ShortOfTypes:
    """The owner of a reached limit of event types, or the database near its limit.

    `kind`: the kind of owner, which is `database`, `organisation`, `key` or `source`. `name`: the owner's name (empty:
    the database). `types`: the number of types in use that the owner added. For the database, the number of all types
    in use.
    """

    kind: str
    name: str
    types: int

    def __str__(self) -> str:
        if self.kind == "database":
            used = f"{self.types:,} of {MAX_EVENT_TYPES:,} event types are in use"
            return f"{used}. At the limit, Drawdown refuses events of new types"
        added = f"the {self.kind} {self.name} added {self.types:,} event types, its limit"
        return f"{added}. Drawdown refuses its events of new types"


def short_of_types_part() -> Part:
    """Return the query of `short_of_types`, to combine into one statement."""
    most = {"most_org": MAX_ORG_TYPES, "most_key": MAX_KEY_TYPES, "most_source": MAX_SOURCE_TYPES}
    return SQL.part("short_of_types", {"near": NEAR_TYPES, "at_most": MOST_NAMED, **most})


def short_of_types(connection: sa.Connection) -> list[ShortOfTypes]:
    """Return the owners of reached limits of event types.

    The database is included when it is near its limit.
    """
    return [ShortOfTypes(**vars(row)) for row in read_together(connection, found=short_of_types_part())["found"]]


EventSource = Annotated[str, ID, "Source of the events"]


@dataclass(frozen=True)
class ListedEvent:
    """A usage event.

    `quantity`: units of its type, as sent. `at_ms`: the time of use, as sent. `feature`: null if its type lacked a
    feature at that time. `withdrawn`: it no longer counts. `withdrawn_reason`: the reason (null: it was not withdrawn).
    `subject`, `project`, `plan`: null if the event does not have one.
    """

    source: str
    event_id: str
    event_type: str
    org_id: str
    quantity: int
    at_ms: int
    subject: str | None
    project: str | None
    plan: str | None
    properties: dict[str, Any]
    ingested_ms: int
    sample_id: str
    withdrawn: bool
    withdrawn_reason: str | None
    feature: str | None


def _listed_event(row: EventRow) -> ListedEvent:
    return ListedEvent(
        row.source, row.event_id, row.event_type, row.org_id, row.quantity, row.ts, row.subject, row.project,
        row.plan_key, json.loads(row.properties or "{}"), row.ingested_ms, row.sample_id,
        row.withdrawn is not None, row.withdrawn, row.feature,
    )  # fmt: skip


def _events(
    connection: sa.Connection,
    look: Look,
    *,
    org_id: Annotated[str, ORG, "Organisation of the events"],
    from_ms: Annotated[int, TIME, "Earliest time of use"],
    to_ms: Annotated[int | None, TIME, "Latest time of use, exclusive; now if omitted"] = None,
) -> Page[ListedEvent]:
    if from_ms > look.now_ms:
        raise UsageError(f"--from is in the future, at {show_time(from_ms)}. For two days ago, pass 2d", at="from_ms")
    until = look.now_ms if to_ms is None else to_ms
    require_range(from_ms, until)
    require_org(connection, org_id)
    page = list_events(connection, org_id, from_ms, until, after=look.after, most=look.most)
    return Page([_listed_event(row) for row in page.events], page.next_after)


def _event(
    connection: sa.Connection,
    _look: Look,
    event_source: EventSource,
    event: Annotated[str, ID, "Event's id"],
    *,
    org_id: Annotated[str | None, ORG, "Organisation of the event, if several organisations used the id"] = None,
) -> ListedEvent:
    if org_id is not None:
        require_org(connection, org_id)
    return _listed_event(show_event(connection, event_source, event, org_id))


@dataclass(frozen=True)
class ListedSource:
    """Recent events of one source and type.

    `of_day`: the events that arrived in the last 24 hours. `events`: the events among the newest that were read.
    `orgs`: the number of organisations with these events. `first_ms`, `last_ms`: the first and the last arrival.
    """

    source: str
    event_type: str
    of_day: int
    events: int
    orgs: int
    first_ms: int
    last_ms: int


def _sources(
    connection: sa.Connection,
    look: Look,
    *,
    source: Annotated[str, ID, "Source of the events"] = "",
    event_type: Annotated[str, ID, "Type of the events"] = "",
    org_id: Annotated[str | None, ORG, "Organisation of the events"] = None,
) -> Page[ListedSource]:
    found = sources(connection, look.now_ms, EventFilter(source, event_type, org_id or ""))
    return Page([
        ListedSource(one.source, one.event_type, one.of_day, one.events, one.orgs, one.first_ms, one.last_ms)
        for one in found.rows[: look.most]
    ])  # fmt: skip


def _whether(withdrawn: bool) -> str:
    return "withdrawn" if withdrawn else ""


LISTS: Final = (
    Listing(
        "event list",
        "Events",
        "List an organisation's usage events by time of use.",
        _events,
        ("source", Column("event_id", "event"), Column("at_ms", "at"), Column("event_type", "type"),
         Column("quantity", "#quantity"), "feature", "subject", "project", Column("withdrawn", "", _whether)),
        holds="events",
        path="/v1/events",
        scope="events:read",
        paged=True,
    ),
    Showing(
        "event show",
        "Event",
        "Show an event: its fields and its billing state.",
        _event,
        path="/v1/events/{event_source}/{event}",
        scope="events:read",
    ),
    Listing(
        "event sources",
        "Events by source and type",
        "Count the newest events by source and type.",
        _sources,
        ("source", Column("event_type", "type"), Column("of_day", "#in 24 hours"), Column("events", "#events"),
         Column("orgs", "#organisations"), Column("first_ms", "first received"), Column("last_ms", "last received")),
        holds="sources",
        path="/v1/event-sources",
        scope="events:read",
    ),
)  # fmt: skip
