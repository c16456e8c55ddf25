"""Count the backlog, and find the oldest open transaction.

The counts are for the row of a tick, for `status`, and for exit statuses.

Guarantee: this module only reads. An open transaction does not delay Drawdown (S2). Samples that it inserted are billed
after it ends. While it is open, PostgreSQL keeps rows that other transactions deleted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from drawdown.schema.push_states import OpenPushes
from drawdown.schema.sql import Part, queries, read_together
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import DAY_MS, FUTURE_SLACK_MS, MINUTE_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.halts.ignored_halts import ignored_part
from drawdown.worker.sources.samples import quarantine

SQL = queries(__file__)


@dataclass(frozen=True)
class Backlog(OpenPushes):
    """Counts of unsettled work.

    `pending_s`: seconds of pending usage, by reason. `pending_units`: units of event types, by reason.
    `dirty_windows`: windows with usage to seal. `quarantined`: quarantined samples, by reason.
    """

    refused: int = 0
    """Due pushes that are refused until a person changes a setting, such as a key."""
    dirty_windows: int = 0
    halts_due: int = 0
    halts_ignored: int = 0
    """Halts that cells acknowledged repeatedly, although sandboxes still run."""
    projections_due: int = 0
    stopped_orgs: int = 0
    pending_s: dict[str, int] = field(default_factory=dict)
    pending_units: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    dated_ahead: int = 0
    """Samples dated later than now by more than clocks may differ. Drawdown bills them only at that time."""

    @property
    def needs_person(self) -> bool:
        return bool(self.in_doubt or self.rejected or self.refused or self.stopped_orgs or self.halts_ignored)

    @property
    def waits_for_tick(self) -> bool:
        return bool(self.due or self.queued or self.dirty_windows or self.halts_due or self.projections_due)


@dataclass(frozen=True)
class JobsLeft:
    """The number of open jobs, and of jobs that failed within a day.

    `since_ms`: the time when the oldest open job was queued (None: `open` is 0).
    """

    open: int
    since_ms: int | None
    failed: int


COUNTS: Final = ("refused", "dirty_windows", "halts_due", "projections_due", "stopped_orgs", "dated_ahead")


def quarantined(connection: sa.Connection) -> dict[str, int]:
    """Return the number of quarantined samples that are not closed, by reason."""
    return {row.reason: int(row.samples) for row in quarantine.SQL.run(connection, "count_by_reason")}


def jobs_part(now_ms: int) -> Part:
    """Return the query of open jobs and of jobs that failed within a day.

    Jobs do not belong to a shard or an organisation.
    """
    return SQL.part("jobs", {"since_ms": now_ms - DAY_MS})


def jobs_left(connection: sa.Connection, now_ms: int) -> JobsLeft:
    """Return the figures of open and failed jobs."""
    (row,) = read_together(connection, jobs=jobs_part(now_ms))["jobs"]
    return JobsLeft(**vars(row))


def read_backlog(connection: sa.Connection, shard: Shard, now_ms: int) -> Backlog:
    """Count a shard's backlog in one statement.

    `Shard()` is the whole database. `quarantined` and `dated_ahead` always count the whole database.
    """
    values: dict[str, object] = {"lo": shard.lo, "hi": shard.hi, "now_ms": now_ms, "ahead_ms": now_ms + FUTURE_SLACK_MS}
    values["needs_you"] = f"{NEEDS_YOU}%"
    found = read_together(
        connection,
        states=SQL.part("open_pushes", values),
        pending=SQL.part("pending_seconds", values),
        quarantined=quarantine.SQL.part("count_by_reason"),
        ignored=ignored_part(shard),
        **{name: SQL.part(name, values) for name in COUNTS},
    )
    return Backlog(
        **{row.state: int(row.pushes) for row in found["states"]},
        **{name: int(found[name][0].left_over) for name in COUNTS},
        halts_ignored=len(found["ignored"]),
        pending_s={row.reason: int(row.seconds) for row in found["pending"] if row.seconds},
        pending_units={row.reason: int(row.units) for row in found["pending"] if row.units},
        quarantined={row.reason: int(row.samples) for row in found["quarantined"]},
    )


LONG_MS: Final = 15 * MINUTE_MS
"""Age in milliseconds from which Drawdown reports an open transaction.

Three ticks have then run without its rows.
"""


@dataclass(frozen=True)
class LongOpen:
    """The oldest open transaction, with its owner.

    `who`: the process or name of its owner, the database, and the program. `age_ms`: the age (None: this user may not
    see the age).
    """

    who: str
    age_ms: int | None

    @property
    def is_long(self) -> bool:
        """Return True if the transaction is old enough to report."""
        return self.age_ms is not None and self.age_ms >= LONG_MS


def oldest_open(connection: sa.Connection) -> LongOpen | None:
    """Return the oldest transaction that writes, in any database of the server.

    Returns None without such a transaction, and on SQLite, where a transaction that writes blocks all others.
    """
    if connection.dialect.name != "postgresql":
        return None
    row = SQL.run(connection, "oldest").one_or_none()
    return None if row is None else LongOpen(row.who, None if row.age_ms is None else max(int(row.age_ms), 0))
