"""The state of the watch: whether one runs, its reads of providers, and its estimates that were wrong.

Guarantee: a watch that ended is forgotten within minutes, and ticks estimate no longer. Each count is written in the
transaction that did the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, MINUTE_MS

if TYPE_CHECKING:
    from drawdown.worker.verdict.org_row import Change, Row

SQL = queries(__file__)

WATCHED_FOR_MS: Final = 5 * MINUTE_MS
"""Time after a round of the watch in which an organisation counts as watched."""
ESTIMATE_WRONG: Final = "estimate_wrong"
"""Why a halt by an estimate is lifted."""
STOPPED_FOR_MS: Final = DAY_MS
"""Time without a round after which no alert misses the watch: ticks alone are a way to run it."""


@dataclass(frozen=True)
class RoundCount:
    """Rounds of the watch, of all processes, and when the last one was; None: never."""

    last_ms: int | None
    count: int


@dataclass(frozen=True)
class UnreadOrgs:
    """The organisations of a provider that failed the last read: their number, since when, and the first by its id."""

    provider: str
    orgs: int
    since_ms: int
    first_org: str


def rounds_of(connection: sa.Connection) -> RoundCount:
    """Return the number of the watch's rounds."""
    row = SQL.run(connection, "rounds").one()
    return RoundCount(None if row.round_ms is None else int(row.round_ms), int(row.rounds))


def last_round_ms(connection: sa.Connection) -> int | None:
    """When a watch last went round; None: never."""
    return rounds_of(connection).last_ms


def unread_orgs(connection: sa.Connection) -> list[UnreadOrgs]:
    """Return unread organisations by provider; '' for those without a biller."""
    return [UnreadOrgs(**row) for row in SQL.run(connection, "unread_orgs").mappings()]


def wrong_estimates(connection: sa.Connection) -> int:
    """Halts on an estimate that a later read proved wrong."""
    return int(SQL.run(connection, "wrong_estimates").scalar_one())


def unless_explained(connection: sa.Connection, org: Row, change: Change) -> Change:
    """Return the change, without the reason of a wrong estimate if another fact explains it.

    Usage that was withdrawn since the halt explains it, and so do runs that held the missing credit: that credit is not
    granted, and was not there at the halt.
    """
    if change.history is None or change.reason != ESTIMATE_WRONG:
        return change
    if SQL.run(connection, "explained", {"org_id": org.org_id, "halted_at": org.halted_at}).first() is None:
        return change
    return replace(change, history={**change.history, "reason": None})


def is_watched(connection: sa.Connection, now_ms: int) -> bool:
    """Return True if a watch made a round within the last minutes."""
    at = last_round_ms(connection)
    return at is not None and abs(now_ms - at) < WATCHED_FOR_MS


def was_watched(connection: sa.Connection, now_ms: int) -> bool:
    """Return True if a watch made a round within a day: it may have stopped, and is still expected."""
    at = last_round_ms(connection)
    return at is not None and abs(now_ms - at) < DAY_MS


def note_round(connection: sa.Connection, now_ms: int) -> None:
    """To be the last thing that a transaction does, too."""
    SQL.run(connection, "note_round", {"now_ms": now_ms})


def touch(connection: sa.Connection) -> None:
    """Write the row as it is: whether the database can be written."""
    SQL.run(connection, "touch")


def note_reads(connection: sa.Connection, provider: str, counts: Mapping[str, int]) -> None:
    """Count customers read, by outcome. To be the last thing that a transaction does: other workers wait for it."""
    rows = [{"provider": provider, "outcome": outcome, "reads": counts[outcome]} for outcome in sorted(counts)]
    if rows:
        SQL.run(connection, "note_reads", rows)
