"""Remove old usage.

Prune samples below the floor (S4), and fold settled pushes into sums of a day (S3).

Guarantee: the prune first raises the floor, under the seal's lock, and never past a window that is pending, unsealed,
dirty or unread. So a deleted sample cannot look like a refund, and cannot stay unbilled. The prune deletes samples
afterwards, and other steps do not wait for the deletion. It deletes a quarantined sample only after a person fixed or
dismissed it, because its time may be wrong. The database's trigger checks only the floor. Hosts cannot delete rows, and
the worker's login deletes samples only in this module.

A push is folded only below its organisation's floor, where windows are no longer sealed. The same transaction adds it
to the sum of its day, customer, feature and state. So the sums and the remaining pushes always equal all pushes, and
`verify` proves them against the ledger. Only pushes of the embedded ledger are folded, because its entries record each
charge, and stay. Pushes to other providers stay, because Drawdown looks up, compares and refunds them push by push. The
records of voids and adoptions stay, too, because they are few and are evidence. They also prevent a delayed sender from
charging a voided push.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import sqlalchemy as sa

from drawdown.ledger.calendar import start_of
from drawdown.schema.audit import By, record
from drawdown.schema.database import Transact
from drawdown.schema.errors import UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import LATE_HORIZON_MS, WINDOW_MS, window_of
from drawdown.worker.usage import invalid

SQL = queries(__file__)

LEAST_TS_MS: Final = 946_684_800_000
"""Earliest valid time of a sample, in milliseconds (2000-01-01).

Drawdown quarantines earlier samples.
"""
EVER_MS: Final = -(1 << 62)
AT_ONCE: Final = 20_000
"""Approximate number of samples or pushes that one transaction deletes.

A single window may have more.
"""
HOUR_MS: Final = 3_600_000


class Portion(Protocol):
    """A function that deletes rows of windows in [since, to) in one transaction.

    The function returns the number of deleted rows.
    """

    def __call__(self, connection: sa.Connection, *, since: int, to: int) -> int: ...


class Next(Protocol):
    """A function that returns the first window or time with rows to check.

    The function searches from a moment on, and returns None after the last row.
    """

    def __call__(self, connection: sa.Connection, *, since: int) -> int | None: ...


@dataclass(frozen=True)
class Pruned:
    """The result of a prune, or of its dry run.

    `samples`: deleted samples, or those that a dry run would delete. `orgs`: organisations with the new floor.
    `held_back`: organisations with a lower floor, because an earlier window is still open. `quarantined`: samples below
    the floor that stay, because they were not fixed or dismissed.
    """

    before_ms: int
    samples: int
    orgs: int
    held_back: int
    quarantined: int


def prune(transact: Transact, before_ms: int, by: By, *, dry_run: bool = False) -> Pruned:
    """Delete samples of windows that ended before a moment.

    One short transaction raises the floors under the seal's lock. Then the prune deletes each organisation's samples
    below its floor, in portions of some windows. Each portion has its own transaction, for which seals do not wait. If
    the command is interrupted, a repeated command deletes the rest. The prune also deletes records of invalid items
    from before the moment.

    `dry_run`: count the samples, and roll back. Errors: UsageError for a moment within the last 35 days, in which late
    samples may still arrive.
    """
    before = window_of(before_ms)
    if before > by.now_ms - LATE_HORIZON_MS:
        raise UsageError(
            f"invalid --before {show_time(before_ms)}: samples may arrive up to 35 days late. Pass an earlier time"
        )
    floors = transact(partial(raise_floors, before=before, by=by), rollback=dry_run)
    held = sum(floor < before for floor in floors.values())
    count = partial(_count, floors=floors, before=before)
    if dry_run:
        samples = transact(partial(count, which="going"), rollback=True)
    else:
        samples = in_portions(transact, _delete_between, partial(_first_sample, before=before), before)
    kept = transact(partial(count, which="kept"), rollback=True)
    transact(partial(invalid.forget, before_ms=before), rollback=dry_run)
    return Pruned(before, samples, len(floors) - held, held, kept)


def raise_floors(connection: sa.Connection, *, before: int, by: By) -> Mapping[str, int]:
    """Close windows before a moment for good. Return the floor of each organisation.

    Floors are in milliseconds. If an organisation has an open window before the moment, its floor is lower than the
    moment. The call writes organisations in the order of their ids, so that two writers never deadlock.
    """
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


def _first_sample(connection: sa.Connection, *, since: int, before: int) -> int | None:
    values = {"least_ts_ms": max(since, LEAST_TS_MS), "before_ms": before}
    first = SQL.run(connection, "first_sample", values).scalar()
    return None if first is None else int(first)


def in_portions(transact: Transact, portion: Portion, following: Next, before: int) -> int:
    """Delete one portion after the other, and return the number of deleted rows.

    A portion has windows with about `AT_ONCE` rows in all, and spans at most an hour. The first portion, and each
    portion after an empty one, extends to the next window with rows.
    """
    since, gone = EVER_MS, 0
    deleted, length = 0, WINDOW_MS
    while since < before:
        to = min(since + length, before)
        if not gone:
            first = transact(partial(following, since=since), rollback=True)
            to = before if first is None else min(max(window_of(first) + WINDOW_MS, to), before)
        gone = transact(partial(portion, since=since, to=to))
        if 2 * gone <= AT_ONCE:
            length = min(2 * length, HOUR_MS)
        elif gone > AT_ONCE:
            length = max(length // 2 // WINDOW_MS, 1) * WINDOW_MS
        since, deleted = to, deleted + gone
    return deleted


def _delete_between(connection: sa.Connection, *, since: int, to: int) -> int:
    return SQL.run(connection, "delete_between", {"from_ms": since, "to_ms": to}).rowcount


def _count(connection: sa.Connection, *, floors: Mapping[str, int], before: int, which: str) -> int:
    values = {"floors": _rows(floors), "before_ms": before}
    return int(SQL.run(connection, "count_below", values, which=which).scalar_one())


def _rows(floors: Mapping[str, int]) -> list[dict[str, object]]:
    """Return floors as rows of a statement."""
    return [{"org_id": org_id, "floor_ms": floor} for org_id, floor in floors.items()]


MONTHS_KEPT: Final = 13
"""Whole months before the present month that `push fold` must keep.

They are a year, and the month before it for comparison.
"""


@dataclass(frozen=True)
class FoldedMonths:
    """The result of `push fold`, or of its dry run.

    The command replaces pushes with daily sums. `pushes`: the number of pushes that it replaced, or would replace.
    `kept`: the number of pushes of the embedded ledger before `before_ms` that stay. `held_back`: the number of
    organisations with such pushes, because they have a lower floor, an open push, or a charge dated before its usage.
    """

    before_ms: int
    pushes: int
    kept: int
    held_back: int


def fold(transact: Transact, before_ms: int, by: By, *, dry_run: bool = False) -> FoldedMonths:
    """Replace the pushes of the months that ended before a moment with daily sums.

    The moment must be the start of a month. The call replaces the pushes in portions of some windows, each in its own
    transaction. Seals do not wait for these transactions, because windows below the floor are not sealed. If the
    command is interrupted, a repeated command replaces the rest.

    `dry_run`: count, and roll back. Errors: UsageError if the moment is not the start of a month, or fewer than
    MONTHS_KEPT whole months would stay.
    """
    _require_month(before_ms, by.now_ms)
    values = {"from_ms": EVER_MS, "to_ms": before_ms, "before_ms": before_ms}
    if dry_run:
        going = transact(lambda c: SQL.run(c, "count_going", values).one(), rollback=True)
        pushes = int(going.pushes)
    else:
        transact(partial(_say, before=before_ms, by=by))
        portion = partial(fold_between, before=before_ms, now_ms=by.now_ms)
        pushes = in_portions(transact, portion, partial(_first_push, before=before_ms), before_ms)
    kept = transact(lambda c: SQL.run(c, "count_kept", values).one(), rollback=True)
    return FoldedMonths(before_ms, pushes, int(kept.pushes), int(kept.orgs))


def _say(connection: sa.Connection, *, before: int, by: By) -> None:
    record(connection, "push_fold", "all", {"before_ms": before}, by)


def _first_push(connection: sa.Connection, *, since: int, before: int) -> int | None:
    first = SQL.run(connection, "first_push", {"from_ms": since, "before_ms": before}).scalar()
    return None if first is None else int(first)


def fold_between(connection: sa.Connection, *, since: int, to: int, before: int, now_ms: int) -> int:
    """Replace the pushes of windows in [since, to) with daily sums where possible.

    Return the number of replaced pushes.
    """
    values = {"from_ms": since, "to_ms": to, "before_ms": before, "now_ms": now_ms}
    return int(SQL.run(connection, "fold", values).scalar_one())


def _require_month(before_ms: int, now_ms: int) -> None:
    if start_of(before_ms) != before_ms:
        raise UsageError(f"invalid --before {show_time(before_ms)}: expected the first month to keep, such as 2025-01")
    newest = now_ms
    for _ in range(MONTHS_KEPT + 1):
        newest = start_of(newest) - 1
    if before_ms > newest + 1:
        newest_text = show_time(newest + 1)[: len("2025-01")]
        raise UsageError(
            f"invalid --before: Drawdown keeps single pushes for {MONTHS_KEPT} months. Pass --before {newest_text} or "
            "earlier"
        )
