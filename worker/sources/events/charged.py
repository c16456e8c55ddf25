"""Event types that are charged at once: what they count is used at the guard, and billed by no seal.

Guarantee: where a metric that costs credit counts a type, and nothing makes a feature of it, no usage of the type goes
in: nothing could ever bill it. Whoever takes usage of a type, and whoever sets a price for it, wait for one another:
the second sees what the first one did. (The type's row is what they wait for.) Also of what makes a feature as it is
taken: the feature may end, and the price be set, before that is committed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, TypeAlias

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.sql import queries
from drawdown.schema.units import window_of
from drawdown.worker.sources.events.types import meters

SQL = queries(__file__)

CODE: Final = "charged_at_once"
WHY: Final = (
    "{} is charged at once in its window, by the guard as {}, and no event of it is billed: it is not kept; send its "
    "use to POST /v1/guard/consume"
)
Spot: TypeAlias = tuple[str, int]
"""An event type, and the begin of a window."""


def spot_of(event: UsageEvent) -> Spot:
    """What of an event says whether it is charged at once."""
    return event.event_type, int(window_of(event.occurred_ms))


def charged(connection: sa.Connection, spots: Collection[Spot]) -> dict[Spot, str]:
    """Of these the ones that are charged at once, each with the metric."""
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
    """Of types that are shared, and of what went in here and makes no feature. Errors: DatabaseBusy where a price was
    set since it was asked for."""
    if spots and connection.dialect.name == "postgresql" and charged(connection, spots):
        raise DatabaseBusy("a price was set for an event type this moment; try again")


def hold(connection: sa.Connection, event_type: str, now_ms: int) -> int | None:
    """Nothing of a type goes in that makes no feature, until this transaction is over, which has no lock yet but such.
    The type's meter, which it gets here if it has none; None where there is no room for one, and so for no event."""
    meter = meters(connection, [event_type], now_ms).get(event_type)
    if connection.dialect.name == "postgresql":
        SQL.run(connection, "hold", {"event_type": event_type}).all()
    return meter
