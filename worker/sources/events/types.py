"""Store event types and their meters.

A meter is the number of an event type. A sample of an event has it in place of the memory size.

Guarantee: each type has its own meter, for good. Transactions that add types at the same time wait for one another
without errors, and the limits apply to all of them together. An unused type no longer counts towards its sender's
limits after a day.

If events of a type do not state a quantity, a person declares the type's value once, before the first event. So a
repeated event has the same quantity.

If a metric with a price counts a type without a feature in the mapping, usage of the type is refused. The guard charges
such usage at once, and a seal could never bill it. A transaction that stores usage of a type and a transaction that
sets a price for it wait for each other on the type's row. So the second transaction sees the change of the first. This
also applies to a type with a feature, because the feature may end, and the price may be set, before the usage is
committed.
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
    """A sender of events, which adds their types.

    `org_id`: the organisation to which an API key is bound. `key_name`, `source`: the name of an unbound key, and the
    source to which it may be bound. If all fields are None, the sender is a person or a file, and only the limit
    MAX_EVENT_TYPES applies.
    """

    org_id: str | None = None
    key_name: str | None = None
    source: str | None = None


PEOPLE: Final = Bringer()
FREE_AFTER_MS: Final = DAY_MS
"""Age in milliseconds from which an unused event type no longer counts.

By then, its first usage is sealed or pending.
"""


def meters(
    connection: sa.Connection, event_types: Collection[str], now_ms: int, by: Bringer = PEOPLE
) -> dict[str, int]:
    """Return the meter of each type.

    An unknown type gets the next meter. If a limit of its sender or MAX_EVENT_TYPES is reached, the type is missing
    from the result.
    """
    found = find_meters(connection, sorted(set(event_types)))
    return found | add_meters(connection, sorted(set(event_types) - found.keys()), now_ms, by)


def add_meters(connection: sa.Connection, event_types: list[str], now_ms: int, by: Bringer = PEOPLE) -> dict[str, int]:
    """Give unknown types the next meters, as `meters` does. Return them by type."""
    found: dict[str, int] = {}
    # If another call took the same number, retry. In each round, this call or another stores at least one new type.
    for _ in range(MAX_EVENT_TYPES):
        unknown = [name for name in event_types if name not in found]
        if not unknown or is_full(connection) or (by != PEOPLE and not _has_room(connection, by)):
            break
        if by != PEOPLE:
            unknown = unknown[:1]  # one type at a time, so that each insert checks the sender's limits
        types = [{"event_type": name} for name in unknown]
        values = {"types": types, "first_seen_ms": now_ms, "below": MAX_MEMORY_MB, **_most()}
        SQL.run(connection, "meet", {**values, **_bounds(by)})
        found = find_meters(connection, event_types)
    return found


MAP_FIRST: Final = "to use a new event type, first map it with `drawdown feature map-event EVENT_TYPE FEATURE`"


def find_mistyped(connection: sa.Connection, event_types: Collection[str]) -> dict[str, str]:
    """Return an error text for each unknown type that resembles a known type.

    A transaction that several calls share must not show names. There, every unknown type gets an error, and Drawdown
    retries its call alone.
    """
    if not ids.tells_names(connection):
        return {name: f"unknown event type {name}" for name in event_types}
    near = {name: ids.find_near(connection, ids.EVENT_TYPE, name) for name in event_types}
    return {
        name: f"{ids.unknown(ids.EVENT_TYPE, name, [known])}; {MAP_FIRST}"
        for name, known in near.items()
        if known is not None
    }


def is_known(connection: sa.Connection, event_type: str) -> bool:
    """Return True if the type has a meter, such as from an event or a mapping."""
    return bool(find_meters(connection, [event_type]))


def is_full(connection: sa.Connection) -> bool:
    """Return True if the limit of event types or of meters is reached."""
    return bool(SQL.run(connection, "is_full", _most()).scalar())


def free_unused(connection: sa.Connection, now_ms: int) -> None:
    """Mark unused types, so that they do not count towards the limits.

    A type is marked at the earliest FREE_AFTER_MS after its first use. If it is used again, it counts again. Each type
    keeps its meter, and its events are accepted as before.
    """
    SQL.run(connection, "free", {"now_ms": now_ms, "before_ms": now_ms - FREE_AFTER_MS})


def _has_room(connection: sa.Connection, by: Bringer) -> bool:
    """Return True if the sender has not reached any of its limits of event types."""
    return bool(SQL.run(connection, "has_room", _bounds(by)).scalar())


def _most() -> dict[str, object]:
    return {"most_types": MAX_EVENT_TYPES, "most": MAX_METER}


def _bounds(by: Bringer) -> dict[str, object]:
    most = {"most_org": MAX_ORG_TYPES, "most_key": MAX_KEY_TYPES, "most_source": MAX_SOURCE_TYPES}
    return {"org_id": by.org_id, "key_name": by.key_name, "source": by.source, **most}


def find_meters(connection: sa.Connection, wanted: list[str]) -> dict[str, int]:
    """Return the meters of the known types among these types."""
    rows = SQL.run(connection, "known", {"event_types": wanted})
    return {str(row.event_type): int(row.meter) for row in rows}


def values(connection: sa.Connection, event_types: Collection[str] | None = None) -> dict[str, EventValue]:
    """Return the declared values of these event types, or of all types.

    A value defines the quantity of an event that does not state its quantity.
    """
    asked = {} if event_types is None else {"event_types": sorted(set(event_types))}
    rows = SQL.run(connection, "all_values" if event_types is None else "values", asked)
    return {str(row.event_type): EventValue(row.aggregation, row.path, int(row.scale)) for row in rows}


def declare_value(connection: sa.Connection, event_type: str, value: EventValue, by: By) -> bool:
    """Declare the value of an event type for good.

    Return False if the type already has this value. Call it first in its transaction, because it locks the type's row,
    and transactions that store its events wait for that lock.

    Errors: Refused if the type has another value or already has events, which state their quantity. Refused if the
    limit of event types is reached.
    """
    if hold(connection, event_type, by.now_ms) is None:
        raise Refused(
            f"cannot declare a value of {event_type}: the limit of {MAX_EVENT_TYPES:,} event types is reached. See "
            "`drawdown feature list`"
        )
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
    """Check that the values of locked types did not change since they were read.

    `share` locks the types. Errors: DatabaseBusy.
    """
    if connection.dialect.name == "postgresql" and values(connection, event_types) != read:
        raise DatabaseBusy(
            "cannot store the events: another call just declared a value for one of their types. Try again"
        )


CODE: Final = "charged_at_once"
WHY: Final = (
    "events of {} are not billed or kept in this window, because the guard charges their use at once as {}. If "
    "the guard has not charged the use, send it to POST /v1/guard/consume"
)
Spot: TypeAlias = tuple[str, int]
"""An event type, and the start of a window."""


def spot_of(event: UsageEvent) -> Spot:
    """Return the event type and the window of an event.

    These two decide whether the guard charges the event at once.
    """
    return event.event_type, int(window_of(event.occurred_ms))


def charged(connection: sa.Connection, spots: Collection[Spot]) -> dict[Spot, str]:
    """Return those spots that the guard charges at once, each with its metric."""
    asked = [{"event_type": event_type, "window_ms": window_ms} for event_type, window_ms in sorted(set(spots))]
    found = SQL.run(connection, "charged", {"spots": asked})
    return {(str(row.event_type), int(row.window_ms)): str(row.metric) for row in found if row.metric is not None}


def ever_charged(connection: sa.Connection, event_types: Collection[str]) -> set[str]:
    """Return the types that the guard charges at once in at least one window."""
    return set(map(str, SQL.run(connection, "ever", {"event_types": sorted(set(event_types))}).scalars()))


def share(connection: sa.Connection, event_types: Collection[str]) -> None:
    """Lock known types, so that another transaction cannot set a price for them.

    The lock lasts until the end of the transaction. SQLite has one writer at a time, so it does not need the lock.
    """
    if connection.dialect.name == "postgresql":
        SQL.run(connection, "share", {"event_types": sorted(set(event_types))}).all()


def require_uncharged(connection: sa.Connection, spots: Collection[Spot]) -> None:
    """Check that types without a feature did not get a price since they were read.

    `share` locks the types.

    Errors: DatabaseBusy.
    """
    if spots and connection.dialect.name == "postgresql" and charged(connection, spots):
        raise DatabaseBusy("cannot store the events: another call just set a price for one of their types. Try again")


def hold(connection: sa.Connection, event_type: str, now_ms: int) -> int | None:
    """Lock a type, so that another transaction cannot store its usage.

    The lock lasts until the end of the transaction. Return the type's meter. A type without a meter gets the next one.
    Returns None if the limit of event types is reached, so that events of the type are refused. Call it before this
    transaction takes locks of another kind.
    """
    meter = meters(connection, [event_type], now_ms).get(event_type)
    if connection.dialect.name == "postgresql":
        SQL.run(connection, "hold", {"event_type": event_type}).all()
    return meter
