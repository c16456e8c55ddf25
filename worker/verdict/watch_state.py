"""Read and write the state of the watch: rounds, reads and wrong estimates.

Guarantee: ticks stop estimating within WATCHED_FOR_MS after a watch ended. Each count is written in the transaction
that did the work.
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
"""Milliseconds for which all organisations count as watched after a round of the watch."""
ESTIMATE_WRONG: Final = "estimate_wrong"
"""The reason in the history for the end of a halt on a wrong estimate."""
STOPPED_FOR_MS: Final = DAY_MS
"""Milliseconds without a round after which alerts no longer expect a watch.

Drawdown can run with ticks alone.
"""


@dataclass(frozen=True)
class RoundCount:
    """The number of rounds of all watch processes.

    `last_ms`: the time of the last round; None: never.
    """

    last_ms: int | None
    count: int


@dataclass(frozen=True)
class UnreadOrgs:
    """The organisations of a provider with a failed last read.

    `since_ms`: the start of the longest failure. `first_org`: the first organisation by its id.
    """

    provider: str
    orgs: int
    since_ms: int
    first_org: str


def rounds_of(connection: sa.Connection) -> RoundCount:
    """Return the number of the watch's rounds."""
    row = SQL.run(connection, "rounds").one()
    return RoundCount(None if row.round_ms is None else int(row.round_ms), int(row.rounds))


def last_round_ms(connection: sa.Connection) -> int | None:
    """Return the time of the watch's last round; None: never."""
    return rounds_of(connection).last_ms


def unread_orgs(connection: sa.Connection) -> list[UnreadOrgs]:
    """Return organisations with a failed last read, by provider.

    The provider is '' for an organisation that is not billed.
    """
    return [UnreadOrgs(**row) for row in SQL.run(connection, "unread_orgs").mappings()]


def wrong_estimates(connection: sa.Connection) -> int:
    """Return the number of halts on an estimate that a later read proved wrong."""
    return int(SQL.run(connection, "wrong_estimates").scalar_one())


def unless_explained(connection: sa.Connection, org: Row, change: Change) -> Change:
    """Remove the reason of a wrong estimate if another fact explains the credit.

    Such facts are usage that was withdrawn since the halt, and executions that reserved the credit at the halt.
    """
    if change.history is None or change.reason != ESTIMATE_WRONG:
        return change
    if SQL.run(connection, "explained", {"org_id": org.org_id, "halted_at": org.halted_at}).first() is None:
        return change
    return replace(change, history={**change.history, "reason": None})


def is_watched(connection: sa.Connection, now_ms: int) -> bool:
    """Return True if a watch made a round within WATCHED_FOR_MS."""
    at = last_round_ms(connection)
    return at is not None and abs(now_ms - at) < WATCHED_FOR_MS


def was_watched(connection: sa.Connection, now_ms: int) -> bool:
    """Return True if a watch made a round within a day, so that it is expected."""
    at = last_round_ms(connection)
    return at is not None and abs(now_ms - at) < DAY_MS


def note_round(connection: sa.Connection, now_ms: int) -> None:
    """Count a round of the watch.

    Call this last in a transaction, because other workers wait for the row.
    """
    SQL.run(connection, "note_round", {"now_ms": now_ms})


def touch(connection: sa.Connection) -> None:
    """Write the row unchanged, to check that the database can be written."""
    SQL.run(connection, "touch")


def note_reads(connection: sa.Connection, provider: str, counts: Mapping[str, int]) -> None:
    """Count reads of customers by outcome.

    Call this last in a transaction, because other workers wait for the rows.
    """
    rows = [{"provider": provider, "outcome": outcome, "reads": counts[outcome]} for outcome in sorted(counts)]
    if rows:
        SQL.run(connection, "note_reads", rows)
