"""Event types and their meters: samples of events have a meter in the place of the memory size.

Guarantee: a type has one meter, for good, and no other type has it. Transactions that meet types at once wait for one
another and fail no statement; the bounds hold among them all. If a sender brings types that nothing uses, it has their
room again the day after.

The quantity of an event that states none is declared once for its type, before its first event. So the same event
counts the same, whenever it is sent again.

If a metric that costs credit counts a type, and no mapping makes a feature of it, no usage of the type goes in: the
guard charges it at once, and no seal could ever bill it. A transaction that takes usage of a type, and one that sets a
price for it, wait for one another on the type's row: the second sees what the first did. This also holds for a type
with a feature at the time it is taken: the feature may end, and the price be set, before that is committed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.events.values import EventValue
from drawdown.schema import ids
from drawdown.schema.audit import By
from drawdown.schema.errors import DatabaseBusy, Refused
from drawdown.schema.sql import queries
from drawdown.schema.units import (
    DAY_MS,
    MAX_EVENT_TYPES,
    MAX_KEY_TYPES,
    MAX_MEMORY_MB,
    MAX_METER,
    MAX_ORG_TYPES,
    MAX_SOURCE_TYPES,
    window_of,
)

SQL = queries(__file__)


@dataclass(frozen=True)
class Bringer:
    """A sender of events, who brings their types: a key of an organisation (`org_id`), or a key of none.

    A key of none is known by its name, and by the source that it is bound to. MAX_EVENT_TYPES alone bounds the types
    that people name and that files bring.
    """

    org_id: str | None = None
    key_name: str | None = None
    source: str | None = None


PEOPLE: Final = Bringer()
FREE_AFTER_MS: Final = DAY_MS
"""Age of an unused event type from which it no longer counts: its first usage is sealed, or waits for a feature."""


def meters(
    connection: sa.Connection, event_types: Collection[str], now_ms: int, by: Bringer = PEOPLE
) -> dict[str, int]:
    """Return the meter of each type. An unknown type is given the next meter, within the bounds of its sender.

    If those bounds, or MAX_EVENT_TYPES, leave no room for a type, it is missing from the result.
    """
    found = find_meters(connection, sorted(set(event_types)))
    return found | add_meters(connection, sorted(set(event_types) - found.keys()), now_ms, by)


def add_meters(connection: sa.Connection, event_types: list[str], now_ms: int, by: Bringer = PEOPLE) -> dict[str, int]:
    """Give each of some unknown types the next meter, as `meters` does."""
    found: dict[str, int] = {}
    for _ in range(MAX_EVENT_TYPES):  # of two that take one number the second takes another: each time one more is in
        unknown = [name for name in event_types if name not in found]
        if not unknown or is_full(connection) or (by != PEOPLE and not _has_room(connection, by)):
            break
        if by != PEOPLE:
            unknown = unknown[:1]  # one statement counts and takes the next number, so its taker counted them all
        types = [{"event_type": name} for name in unknown]
        values = {"types": types, "first_seen_ms": now_ms, "below": MAX_MEMORY_MB, **_most()}
        SQL.run(connection, "meet", {**values, **_bounds(by)})
        found = find_meters(connection, event_types)
    return found


MAP_FIRST: Final = "to use a new one, map it first: `drawdown feature map-event`"


def find_mistyped(connection: sa.Connection, event_types: Collection[str]) -> dict[str, str]:
    """Return what is wrong with each unknown type that is like a known one.

    A transaction that calls share shows no names. There each unknown type is wrong, and its call is tried again alone.
    """
    if not ids.tells_names(connection):
        return {name: f"the event type {name} is unknown" for name in event_types}
    near = {name: ids.find_near(connection, ids.EVENT_TYPE, name) for name in event_types}
    return {
        name: f"{ids.unknown(ids.EVENT_TYPE, name, [known])}; {MAP_FIRST}"
        for name, known in near.items()
        if known is not None
    }


def is_known(connection: sa.Connection, event_type: str) -> bool:
    """Whether an event, a mapping or a backfill named it before."""
    return bool(find_meters(connection, [event_type]))


def is_full(connection: sa.Connection) -> bool:
    """Return True if there is no room for one more type."""
    return bool(SQL.run(connection, "is_full", _most()).scalar())


def free_unused(connection: sa.Connection, now_ms: int) -> None:
    """Have types count to no bound that nothing uses, FREE_AFTER_MS after they came; those that are used again count
    again. Each keeps its meter, and its events are taken as before."""
    SQL.run(connection, "free", {"now_ms": now_ms, "before_ms": now_ms - FREE_AFTER_MS})


def _has_room(connection: sa.Connection, by: Bringer) -> bool:
    """Return True if each bound of the sender leaves room for another type."""
    return bool(SQL.run(connection, "has_room", _bounds(by)).scalar())


def _most() -> dict[str, object]:
    return {"most_types": MAX_EVENT_TYPES, "most": MAX_METER}


def _bounds(by: Bringer) -> dict[str, object]:
    most = {"most_org": MAX_ORG_TYPES, "most_key": MAX_KEY_TYPES, "most_source": MAX_SOURCE_TYPES}
    return {"org_id": by.org_id, "key_name": by.key_name, "source": by.source, **most}


def find_meters(connection: sa.Connection, wanted: list[str]) -> dict[str, int]:
    """The meters of those that were met before."""
    rows = SQL.run(connection, "known", {"event_types": wanted})
    return {str(row.event_type): int(row.meter) for row in rows}


def values(connection: sa.Connection, event_types: Collection[str] | None = None) -> dict[str, EventValue]:
    """Return the values of these event types, or of all: how much an event counts that states no quantity."""
    asked = {} if event_types is None else {"event_types": sorted(set(event_types))}
    rows = SQL.run(connection, "all_values" if event_types is None else "values", asked)
    return {str(row.event_type): EventValue(row.aggregation, row.path, int(row.scale)) for row in rows}


def declare_value(connection: sa.Connection, event_type: str, value: EventValue, by: By) -> bool:
    """Declare, for good, how events of a type count; return False if they do already.

    Call it first in its transaction: transactions that take events of the type wait for one another.

    Errors: Refused if the type has another value, has no room, or has events already, which state their own quantities.
    """
    if hold(connection, event_type, by.now_ms) is None:
        raise Refused(f"the maximum of {MAX_EVENT_TYPES:,} event types is reached. See `drawdown feature list`")
    before = values(connection, [event_type]).get(event_type)
    if before is not None and before != value:
        raise Refused(f"{event_type} already has a value, the {before}. Send other events with another type")
    if before is not None:
        return False
    if SQL.run(connection, "has_events", {"event_type": event_type}).first() is not None:
        raise Refused(
            f"{event_type} already has events, which state their quantity. Send other events with another type"
        )
    rule = {"aggregation": value.aggregation, "path": value.path, "scale": value.scale}
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "declare_value", {"event_type": event_type, **rule, **person})
    return True


def require_values(connection: sa.Connection, event_types: Collection[str], read: Mapping[str, EventValue]) -> None:
    """Insist that no value was declared since it was read, for types that are shared. Errors: DatabaseBusy."""
    if connection.dialect.name == "postgresql" and values(connection, event_types) != read:
        raise DatabaseBusy("another call just declared a value for an event type. Try again")


CODE: Final = "charged_at_once"
WHY: Final = (
    "events of {} are not billed or kept in this window, because the guard charges it at once as {}. Send its use to "
    "POST /v1/guard/consume"
)
Spot: TypeAlias = tuple[str, int]
"""An event type, and the start of a window."""


def spot_of(event: UsageEvent) -> Spot:
    """Return the facts of an event that decide if it is charged at once."""
    return event.event_type, int(window_of(event.occurred_ms))


def charged(connection: sa.Connection, spots: Collection[Spot]) -> dict[Spot, str]:
    """Return those that are charged at once, each with its metric."""
    asked = [{"event_type": event_type, "window_ms": window_ms} for event_type, window_ms in sorted(set(spots))]
    found = SQL.run(connection, "charged", {"spots": asked})
    return {(str(row.event_type), int(row.window_ms)): str(row.metric) for row in found if row.metric is not None}


def ever_charged(connection: sa.Connection, event_types: Collection[str]) -> set[str]:
    """Those that are charged at once in some window."""
    return set(map(str, SQL.run(connection, "ever", {"event_types": sorted(set(event_types))}).scalars()))


def share(connection: sa.Connection, event_types: Collection[str]) -> None:
    """Nobody sets a price for types, which have their meters, until this transaction is over. SQLite has one writer at
    a time."""
    if connection.dialect.name == "postgresql":
        SQL.run(connection, "share", {"event_types": sorted(set(event_types))}).all()


def require_uncharged(connection: sa.Connection, spots: Collection[Spot]) -> None:
    """Insist that no price was set since it was read, for types that are shared and make no feature.

    Errors: DatabaseBusy.
    """
    if spots and connection.dialect.name == "postgresql" and charged(connection, spots):
        raise DatabaseBusy("another call just set a price for an event type. Try again")


def hold(connection: sa.Connection, event_type: str, now_ms: int) -> int | None:
    """Nothing of a type goes in that makes no feature, until this transaction is over, which has no lock yet but such.
    The type's meter, which it gets here if it has none; None where there is no room for one, and so for no event."""
    meter = meters(connection, [event_type], now_ms).get(event_type)
    if connection.dialect.name == "postgresql":
        SQL.run(connection, "hold", {"event_type": event_type}).all()
    return meter
