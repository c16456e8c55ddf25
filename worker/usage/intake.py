"""What came in of usage events: by source and type, one by one, what is in conflict, what is quarantined; and what
became of one. Reads only.

Guarantee: however many events there are, so many of the newest are looked through, by the index of when they came in;
the page says since when. One that goes on begins where the last one ended, and leaves none out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.accounts import WALLET
from drawdown.schema import ids
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, window_of
from drawdown.worker.sources.events.find import require_source
from drawdown.worker.usage.events import EventRow

SQL = queries(__file__)

MOST_SEEN: Final = 20_000
"""Of events, and of each way into quarantine, that one look goes through."""
MOST_KINDS: Final = 200
"""Sources, by type, that are told of."""
MOST_SAID_CHARS: Final = 200
"""Of a conflict's content, source and sample that are shown."""
MOST_OF_EVENT: Final = 50
"""Pushes, or entries, of one event's window that are shown."""
_LAST: Final = 2**62


@dataclass(frozen=True)
class EventFilter:
    """Which events: from a source, of a type, of an organisation. Empty: any."""

    source: str = ""
    event_type: str = ""
    org_id: str = ""


@dataclass(frozen=True)
class Place:
    """A place in the order in which events came in, the newest first: what comes after it is older."""

    ingested_ms: int
    sample_id: str


_BEGIN: Final = Place(_LAST, "")


@dataclass(frozen=True)
class EventLine:
    """An event, as it came in. `quantity` in units of its type; `ts`: when it was used."""

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
    """What came in from a source of a type, of those that were looked through: `of_day` in the last 24 hours."""

    source: str
    event_type: str
    events: int
    orgs: int
    of_day: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True)
class Sources:
    """By source and type, of the newest `seen` events; `since_ms`: when the oldest of them came in (None: there is
    none); `whole`: these are all there are."""

    rows: list[SourceRow]
    seen: int
    since_ms: int | None
    whole: bool


@dataclass(frozen=True)
class Arrivals:
    """A page of events. `next`: where the next one begins; None where there is none."""

    events: list[EventLine]
    next: Place | None


@dataclass(frozen=True)
class ConflictRow:
    """Something that came in under an id that was taken, with other content. `event_source`, `event_id`, `org_id`: of
    the event that stays, where it is one. `closed`: a person dealt with it."""

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
    """The latest first; `next_before`: where the next page begins."""

    conflicts: list[ConflictRow]
    next_before: int | None


@dataclass(frozen=True)
class PushLine:
    """A push of an event's window and feature."""

    key: str
    window_ms: int
    feature: str
    revision: int
    provider: str
    sealed_qty: int
    state: str


@dataclass(frozen=True)
class EntryLine:
    """What a push came to in a wallet; `moved_micro`: up is more in it."""

    key: str
    customer_id: str
    moved_micro: int
    ts: int
    at_ms: int


@dataclass(frozen=True)
class Became:
    """What became of an event: the window that it is in, the pushes of that and its feature, and their entries in
    wallets here. Each is of the whole window: of all events and samples that make the feature."""

    window_ms: int
    pushes: list[PushLine]
    entries: list[EntryLine]


def sources(connection: sa.Connection, now_ms: int, chosen: EventFilter = EventFilter()) -> Sources:
    """What came in lately, by source and type; those with most events first. Errors: UnknownId."""
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
    """Errors: UnknownId for a source, a type or an organisation that there is not."""
    if chosen.source:
        require_source(connection, chosen.source)
    for kind, name in ((ids.EVENT_TYPE, chosen.event_type), (ids.CUSTOMER, chosen.org_id)):
        if name:
            ids.require(connection, kind, name)


def arrivals(
    connection: sa.Connection, chosen: EventFilter = EventFilter(), *, after: Place | None = None, most: int = 50
) -> Arrivals:
    """Events as they came in, the newest first. A page may have few, or none, and go on: of a filter that fits hardly
    any, so many are looked through at once."""
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
    """Whatever came in under an id that was taken, the latest first."""
    values = {"before": before, "at_most": most + 1, "chars": MOST_SAID_CHARS}
    rows = SQL.run(connection, "conflicts", values).mappings()
    found = [ConflictRow(**{**row, "closed": bool(row["closed"])}) for row in rows]
    return ConflictsPage(found[:most], found[most - 1].conflict_id if len(found) > most else None)


def quarantined(connection: sa.Connection) -> dict[str, int]:
    """How many samples are quarantined, by why; MOST_SEEN of a way into it is that, or more."""
    rows = SQL.run(connection, "quarantined", {"counted": MOST_SEEN})
    return {str(row.reason): int(row.samples) for row in rows}


def became(connection: sa.Connection, event: EventRow) -> Became:
    """What became of an event."""
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
