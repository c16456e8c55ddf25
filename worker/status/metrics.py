"""The figures behind the metrics. Guarantee: reads only, by indexes."""

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
    """The oldest of the buckets, and of organisations that are held back; None: there is none."""

    oldest_ms: int | None
    held_ms: int | None


@dataclass(frozen=True)
class OpenPushes:
    """Pushes that are not settled; `owed` in the feature's base units."""

    provider: str
    state: str
    feature: str
    pushes: int
    oldest_ms: int
    owed: float


@dataclass(frozen=True)
class WaitingCount:
    """The number that wait, and since when the oldest does."""

    count: int
    since_ms: int | None


@dataclass(frozen=True)
class Attempts:
    """Attempts of one outcome that took at most `within_ms` (None: longer, or nobody knows), and all that they took."""

    provider: str
    outcome: str
    within_ms: int | None
    attempts: int
    took_ms: int | None


@dataclass(frozen=True)
class Reads:
    """Customers that a provider was asked about, since ever."""

    provider: str
    outcome: str
    reads: int


@dataclass(frozen=True)
class EndedTick:
    """A tick that ended, and the buckets it was for."""

    bucket_lo: int
    bucket_hi: int
    started_ms: int
    finished_ms: int
    exit_status: int


def watermarks(connection: sa.Connection) -> Watermarks:
    """Return the progress of sealing."""
    return Watermarks(SQL.run(connection, "oldest_watermark").scalar(), SQL.run(connection, "held").scalar())


def pending(connection: sa.Connection) -> tuple[dict[str, int], dict[str, int]]:
    """Used and not sealable yet, by reason: seconds, and units of event types."""
    rows = SQL.run(connection, "pending_seconds").all()
    return {row.reason: int(row.seconds) for row in rows}, {row.reason: int(row.units) for row in rows}


def dirty_windows(connection: sa.Connection) -> int:
    """Windows to be sealed again."""
    return _count(connection, "dirty_windows")


def open_pushes(connection: sa.Connection) -> list[OpenPushes]:
    """By provider, state and feature."""
    return [
        OpenPushes(row.provider, row.state, row.feature, int(row.pushes), int(row.oldest_ms), float(row.owed))
        for row in SQL.run(connection, "open_pushes")
    ]


def met_providers(connection: sa.Connection) -> set[str]:
    """Providers that a tick has met."""
    return set(SQL.run(connection, "met_providers").scalars())


def halts_due(connection: sa.Connection) -> WaitingCount:
    """Halts that a cell has not acknowledged."""
    return _waiting(SQL.run(connection, "halts_due"))


def projections_due(connection: sa.Connection, now_ms: int) -> WaitingCount:
    """Return the organisations with a verdict that is due to be read from their provider."""
    return _waiting(backlog.SQL.run(connection, "projections_overdue", {"now_ms": now_ms}))


def halted_orgs(connection: sa.Connection) -> dict[str, int]:
    """Return the number of halted organisations, by reason."""
    return {row.reason: row.orgs for row in SQL.run(connection, "halted_orgs")}


def stopped_orgs(connection: sa.Connection) -> int:
    """Organisations that a person has to look at."""
    return _count(connection, "stopped_orgs")


def paused_providers(connection: sa.Connection) -> int:
    """Providers that a person paused."""
    return _count(connection, "paused_providers")


def doubted_histories(connection: sa.Connection) -> int:
    """1 where the database's history is in doubt (R1)."""
    return _count(connection, "doubted_histories")


def registered_cells(connection: sa.Connection) -> list[str]:
    """Their ids."""
    return list(SQL.run(connection, "registered_cells").scalars())


def samples_by_cell(connection: sa.Connection, from_ms: int, to_ms: int) -> dict[str | None, int]:
    """Samples dated in [from, to), by registered cell; None: what samples call their cell is anybody's to choose."""
    found = SQL.run(connection, "samples_by_cell", {"from_ms": from_ms, "to_ms": to_ms})
    return {row.cell: int(row.samples) for row in found}


def webhooks_since(connection: sa.Connection, since_ms: int) -> dict[tuple[str, str], int]:
    """Genuine webhooks, by provider and state."""
    found = SQL.run(connection, "webhooks", {"since_ms": since_ms})
    return {(row.provider, row.state): row.webhooks for row in found}


def attempts_since(connection: sa.Connection, since_ms: int, limits_ms: Sequence[int]) -> list[Attempts]:
    """Attempts begun since then, by provider, outcome and the first of these limits they stayed within."""
    limits = [{"limit_ms": limit} for limit in limits_ms]
    found = SQL.run(connection, "attempts", {"since_ms": since_ms, "limits": limits, "unanswered": UNANSWERED})
    return [
        Attempts(
            row.provider, row.outcome, row.within_ms, row.attempts, None if row.took_ms is None else int(row.took_ms)
        )
        for row in found
    ]


def provider_reads(connection: sa.Connection) -> list[Reads]:
    """Counted for good, in the transaction that wrote them."""
    return [Reads(row.provider, row.outcome, row.reads) for row in SQL.run(connection, "reads")]


def ended_ticks(connection: sa.Connection, since_ms: int) -> list[EndedTick] | None:
    """Those that ended since then, the newest first; None where no tick ever did."""
    if SQL.run(connection, "any_tick").first() is None:
        return None
    return [EndedTick(**row) for row in SQL.run(connection, "ended_ticks", {"since_ms": since_ms}).mappings()]


def calls_cut(connection: sa.Connection, since_ms: int) -> dict[str, int]:
    """The fewest calls at once that ticks which ended since then made at a provider that turned calls away."""
    reports = SQL.run(connection, "latest_reports", {"since_ms": since_ms}).scalars()
    return least_of([json.loads(report).get("calls_cut", {}) for report in reports if report])


def _count(connection: sa.Connection, name: str) -> int:
    return int(SQL.run(connection, name).scalar_one() or 0)


def _waiting(answer: sa.CursorResult[tuple[int, int | None]]) -> WaitingCount:
    row = answer.one()
    return WaitingCount(row.due, None if row.since_ms is None else int(row.since_ms))
