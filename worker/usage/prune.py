"""Pruning: raise the floor, then delete samples below it (rule S4).

Guarantee: the floor is raised first, under the seal's lock, and never past a window that is pending, unsealed, dirty or
not looked at yet. So a deleted sample can never look like a refund, nor go unbilled. Samples are deleted afterwards,
and nobody waits for it. A quarantined sample is deleted only once it was mended or dismissed: its time may be the very
thing that is wrong, and lie below every floor. The database's own guard checks the floor alone, since its purpose is to
keep refunds away. Hosts may delete nothing there, and a worker's login deletes nothing but here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import sqlalchemy as sa

from drawdown.schema.audit import By, record
from drawdown.schema.database import Transact
from drawdown.schema.errors import UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.units import LATE_HORIZON_MS, WINDOW_MS, window_of
from drawdown.worker.usage import invalid_items

SQL = queries(__file__)
LEAST_TS_MS: Final = 946_684_800_000
"""2000-01-01: samples dated before are quarantined."""
EVER_MS: Final = -(1 << 62)
AT_ONCE: Final = 20_000
"""Samples, or pushes, that one transaction deletes, about: a fraction of a second. A window alone may have more."""
HOUR_MS: Final = 3_600_000


class Portion(Protocol):
    """Deletes what lies in windows of [since, to), in one transaction; how many rows that were."""

    def __call__(self, connection: sa.Connection, *, since: int, to: int) -> int: ...


@dataclass(frozen=True)
class Pruned:
    """What was pruned; `held_back` counts organisations whose floor stays lower, for something is open there;
    `quarantined` those samples below the floor that are kept, as nobody has dealt with them."""

    before_ms: int
    samples: int
    orgs: int
    held_back: int
    quarantined: int


def prune(transact: Transact, before_ms: int, by: By, *, dry_run: bool = False) -> Pruned:
    """Delete samples of windows that ended before a moment, as far as each organisation allows.

    The floors are one transaction, under the lock and short; samples go some windows at a time, each portion in a
    transaction of its own that no seal waits for. Cut off in between, the same command deletes the rest. What was
    invalid then is forgotten, too.
    Errors: UsageError for a moment within the late horizon (35 days), in which samples may still arrive.
    """
    before = window_of(before_ms)
    if before > by.now_ms - LATE_HORIZON_MS:
        raise UsageError("samples may arrive up to 35 days late: prune before that only")
    floors = transact(partial(raise_floors, before=before, by=by), rollback=dry_run)
    held = sum(floor < before for floor in floors.values())
    count = partial(_count, floors=floors, before=before)
    if dry_run:
        samples = transact(partial(count, which="going"), rollback=True)
    else:
        first = transact(partial(_first_sample, before=before), rollback=True)
        samples = in_portions(transact, _delete_between, first, before)
    kept = transact(partial(count, which="kept"), rollback=True)
    transact(partial(invalid_items.forget, before_ms=before), rollback=dry_run)
    return Pruned(before, samples, len(floors) - held, held, kept)


def raise_floors(connection: sa.Connection, *, before: int, by: By) -> Mapping[str, int]:
    """Close windows before a moment for good; returns each organisation's reach, which is lower where something is open
    there. Organisations are written in their order, so that two of their writers never wait crosswise."""
    lock_buckets(connection)
    values = {"before_ms": before}
    floors = {str(row.org_id): int(row.floor_ms) for row in SQL.run(connection, "reachable", values)}
    for name in ("open_pushes", "arrived"):
        for row in SQL.run(connection, name, values):
            floors[row.org_id] = min(floors.get(row.org_id, before), int(row.window_ms))
    if floors:
        SQL.run(connection, "forget_nothing", {"floors": _rows(floors)})
        SQL.run(connection, "raise_floors", {"floors": _rows(floors)})
    held = sum(floor < before for floor in floors.values())
    details = {"before_ms": before, "held_back": held}
    record(connection, "sample_prune", "all", details, by)
    return floors


def _first_sample(connection: sa.Connection, *, before: int) -> int | None:
    first = SQL.run(connection, "first_sample", {"least_ts_ms": LEAST_TS_MS, "before_ms": before}).scalar()
    return None if first is None else int(first)


def in_portions(transact: Transact, portion: Portion, first_ms: int | None, before: int) -> int:
    """Delete a portion after the other: as many windows at once as have about `AT_ONCE` rows, an hour's at most. The
    first portion has all up to the window of `first_ms` (None: there is no window that has any). How many went."""
    since, to = EVER_MS, before if first_ms is None else window_of(first_ms) + WINDOW_MS
    deleted, length = 0, WINDOW_MS
    while since < before:
        gone = transact(partial(portion, since=since, to=to))
        if 2 * gone <= AT_ONCE:
            length = min(2 * length, HOUR_MS)
        elif gone > AT_ONCE:
            length = max(length // 2 // WINDOW_MS, 1) * WINDOW_MS
        since, to, deleted = to, min(to + length, before), deleted + gone
    return deleted


def _delete_between(connection: sa.Connection, *, since: int, to: int) -> int:
    return SQL.run(connection, "delete_between", {"from_ms": since, "to_ms": to}).rowcount


def _count(connection: sa.Connection, *, floors: Mapping[str, int], before: int, which: str) -> int:
    values = {"floors": _rows(floors), "before_ms": before}
    return int(SQL.run(connection, "count_below", values, which=which).scalar_one())


def _rows(floors: Mapping[str, int]) -> list[dict[str, object]]:
    """The floors as rows of a statement."""
    return [{"org_id": org_id, "floor_ms": floor} for org_id, floor in floors.items()]
