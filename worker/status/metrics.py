"""Read the figures of the metrics.

Guarantee: this module only reads, and uses indexes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.worker.status import backlog
from drawdown.worker.status.ticks import least_of

UNANSWERED: Final = "unanswered"

SQL = queries(__file__)


@dataclass(frozen=True)
class Watermarks:
    """The oldest watermark of buckets, and of organisations behind their bucket.

    `oldest_ms` None: no bucket was sealed yet. `held_ms` None: each organisation has the watermark of its bucket.
    """

    oldest_ms: int | None
    held_ms: int | None


@dataclass(frozen=True)
class OpenPushes:
    """The open pushes of a provider, state and feature.

    `oldest_ms`: the time when the oldest push was sealed, in milliseconds. `owed`: the base units of these pushes.
    """

    provider: str
    state: str
    feature: str
    pushes: int
    oldest_ms: int
    owed: float


@dataclass(frozen=True)
class WaitingCount:
    """The number of waiting rows, and the time since which the oldest waits.

    `since_ms`: that time, in milliseconds (None: `count` is 0).
    """

    count: int
    since_ms: int | None


@dataclass(frozen=True)
class Attempts:
    """The attempts of an outcome that took at most `within_ms`.

    `within_ms`: None if the attempts exceeded all limits, or did not end. `took_ms`: the sum of their durations in
    milliseconds (None: they did not end).
    """

    provider: str
    outcome: str
    within_ms: int | None
    attempts: int
    took_ms: int | None


@dataclass(frozen=True)
class Reads:
    """The number of reads of customers at a provider since installation, by outcome."""

    provider: str
    outcome: str
    reads: int


@dataclass(frozen=True)
class EndedTick:
    """A tick that has ended. Its shard has the buckets `bucket_lo` to `bucket_hi`."""

    bucket_lo: int
    bucket_hi: int
    started_ms: int
    finished_ms: int
    exit_status: int


def watermarks(connection: sa.Connection) -> Watermarks:
    """Return the oldest watermarks of buckets and of organisations."""
    return Watermarks(SQL.run(connection, "oldest_watermark").scalar(), SQL.run(connection, "held").scalar())


def pending(connection: sa.Connection) -> tuple[dict[str, int], dict[str, int]]:
    """Return pending usage by reason: seconds, and units of event types."""
    rows = SQL.run(connection, "pending_seconds").all()
    return {row.reason: int(row.seconds) for row in rows}, {row.reason: int(row.units) for row in rows}


def dirty_windows(connection: sa.Connection) -> int:
    """Return the number of dirty windows."""
    return _count(connection, "dirty_windows")


def open_pushes(connection: sa.Connection) -> list[OpenPushes]:
    """Return the open pushes by provider, state and feature."""
    return [
        OpenPushes(row.provider, row.state, row.feature, int(row.pushes), int(row.oldest_ms), float(row.owed))
        for row in SQL.run(connection, "open_pushes")
    ]


def met_providers(connection: sa.Connection) -> set[str]:
    """Return the providers that a tick has used."""
    return set(SQL.run(connection, "met_providers").scalars())


def halts_due(connection: sa.Connection) -> WaitingCount:
    """Return the number of halts that are due, and the time of the oldest."""
    return _waiting(SQL.run(connection, "halts_due"))


def projections_due(connection: sa.Connection, now_ms: int) -> WaitingCount:
    """Return the number of organisations with a due read at their provider.

    The result also has the time of the oldest due read.
    """
    return _waiting(backlog.SQL.run(connection, "projections_overdue", {"now_ms": now_ms}))


def halted_orgs(connection: sa.Connection) -> dict[str, int]:
    """Return the number of halted organisations, by reason."""
    return {row.reason: row.orgs for row in SQL.run(connection, "halted_orgs")}


def stopped_orgs(connection: sa.Connection) -> int:
    """Return the number of stopped organisations."""
    return _count(connection, "stopped_orgs")


def paused_providers(connection: sa.Connection) -> int:
    """Return the number of paused providers."""
    return _count(connection, "paused_providers")


def doubted_histories(connection: sa.Connection) -> int:
    """Return 1 if the database's history is in doubt (R1), else 0."""
    return _count(connection, "doubted_histories")


def registered_cells(connection: sa.Connection) -> list[str]:
    """Return the ids of cells with a URL."""
    return list(SQL.run(connection, "registered_cells").scalars())


def samples_by_cell(connection: sa.Connection, from_ms: int, to_ms: int) -> dict[str | None, int]:
    """Return the number of samples in [from_ms, to_ms) by registered cell.

    Samples of all other cells are counted under None, because hosts may send any name.
    """
    found = SQL.run(connection, "samples_by_cell", {"from_ms": from_ms, "to_ms": to_ms})
    return {row.cell: int(row.samples) for row in found}


def webhooks_since(connection: sa.Connection, since_ms: int) -> dict[tuple[str, str], int]:
    """Return the number of authenticated webhooks by provider and state.

    `since_ms`: the time from which they are counted.
    """
    found = SQL.run(connection, "webhooks", {"since_ms": since_ms})
    return {(row.provider, row.state): row.webhooks for row in found}


def attempts_since(connection: sa.Connection, since_ms: int, limits_ms: Sequence[int]) -> list[Attempts]:
    """Return the attempts by provider, outcome and time limit.

    `since_ms`: the time from which they are counted. `limits_ms`: the limits in ascending order. An attempt counts
    under the first limit that it did not exceed.
    """
    limits = [{"limit_ms": limit} for limit in limits_ms]
    found = SQL.run(connection, "attempts", {"since_ms": since_ms, "limits": limits, "unanswered": UNANSWERED})
    return [
        Attempts(
            row.provider, row.outcome, row.within_ms, row.attempts, None if row.took_ms is None else int(row.took_ms)
        )
        for row in found
    ]


def provider_reads(connection: sa.Connection) -> list[Reads]:
    """Return the reads of customers, which Drawdown counts as it writes verdicts."""
    return [Reads(row.provider, row.outcome, row.reads) for row in SQL.run(connection, "reads")]


def ended_ticks(connection: sa.Connection, since_ms: int) -> list[EndedTick] | None:
    """Return the ticks that ended since `since_ms`, newest first.

    The call reads the last 4,096 ticks. Returns None before the first tick has ended.
    """
    if SQL.run(connection, "any_tick").first() is None:
        return None
    return [EndedTick(**row) for row in SQL.run(connection, "ended_ticks", {"since_ms": since_ms}).mappings()]


def calls_cut(connection: sa.Connection, since_ms: int) -> dict[str, int]:
    """Return the lowest number of concurrent calls by provider, in recent ticks.

    The call reads those of the last 256 ticks that ended since `since_ms`. The result has only providers that refused
    calls as too many.
    """
    reports = SQL.run(connection, "latest_reports", {"since_ms": since_ms}).scalars()
    return least_of([json.loads(report).get("calls_cut", {}) for report in reports if report])


def _count(connection: sa.Connection, name: str) -> int:
    return int(SQL.run(connection, name).scalar_one() or 0)


def _waiting(answer: sa.CursorResult[tuple[int, int | None]]) -> WaitingCount:
    row = answer.one()
    return WaitingCount(row.due, None if row.since_ms is None else int(row.since_ms))
