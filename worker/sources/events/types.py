"""Event types and their meters: the numbers that stand where samples of sandboxes have their memory size.

Guarantee: a type has one meter, for good, and no other type has it. Transactions that meet types at once wait for one
another and fail no statement; the bounds hold among them all.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import MAX_EVENT_TYPES, MAX_MEMORY_MB, MAX_METER, MAX_ORG_TYPES

SQL = queries(__file__)


def meters(
    connection: sa.Connection, event_types: Collection[str], now_ms: int, org_id: str | None = None
) -> dict[str, int]:
    """The meter of each type; one that is unknown is given the next. With an organisation, its own bound holds of those
    that it brings. Those that MAX_EVENT_TYPES, or MAX_ORG_TYPES, leaves no room for are not among them."""
    wanted = sorted(set(event_types))
    found = known(connection, wanted)
    for _ in range(MAX_EVENT_TYPES):  # of two that take one number the second takes another: each time one more is in
        unknown = [name for name in wanted if name not in found]
        if not unknown or is_full(connection) or (org_id is not None and _brought(connection, org_id) >= MAX_ORG_TYPES):
            break
        if org_id is not None:
            unknown = unknown[:1]  # one statement counts and takes the next number: whoever has it counted them all
        types = [{"event_type": name} for name in unknown]
        bounds = {"below": MAX_MEMORY_MB, "most": MAX_METER, "most_own": MAX_ORG_TYPES}
        SQL.run(connection, "meet", {"types": types, "first_seen_ms": now_ms, "org_id": org_id, **bounds})
        found = known(connection, wanted)
    return found


def is_known(connection: sa.Connection, event_type: str) -> bool:
    """Whether an event, a mapping or a backfill named it before."""
    return bool(known(connection, [event_type]))


def is_full(connection: sa.Connection) -> bool:
    """Whether there is no room for one type more."""
    return int(SQL.run(connection, "newest").scalar() or 0) >= MAX_METER


def _brought(connection: sa.Connection, org_id: str) -> int:
    """How many types keys of an organisation brought."""
    return int(SQL.run(connection, "brought", {"org_id": org_id}).scalar_one())


def known(connection: sa.Connection, wanted: list[str]) -> dict[str, int]:
    """The meters of those that were met before."""
    rows = SQL.run(connection, "known", {"event_types": wanted})
    return {str(row.event_type): int(row.meter) for row in rows}
