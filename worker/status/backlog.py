"""The backlog: counted for the tick's row, for status and for the exit status; and the transaction open for longest.

Guarantee: reads only. Such a transaction holds up nothing here (S2). The samples it inserted are billed once it ends.
While it is open, PostgreSQL keeps the rows that others deleted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import Part, queries, read_together
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import DAY_MS, FUTURE_SLACK_MS, MINUTE_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.halts.ignored_halts import ignored_part
from drawdown.worker.sources.samples import quarantine

SQL = queries(__file__)


@dataclass(frozen=True)
class Backlog:
    """Counts of what is not settled. `pending_s` is in seconds, `pending_units` in what event types count, both by
    reason."""

    due: int = 0
    queued: int = 0
    in_doubt: int = 0
    rejected: int = 0
    awaiting_credit: int = 0
    """Rejected for want of credit, and billed again once the provider shows credit: customers' debts."""
    refused: int = 0
    """Due pushes that are refused until a person changes a setting, such as a key."""
    dirty_windows: int = 0
    halts_due: int = 0
    halts_ignored: int = 0
    """Acknowledged again and again, and sandboxes still run."""
    projections_due: int = 0
    stopped_orgs: int = 0
    pending_s: dict[str, int] = field(default_factory=dict)
    pending_units: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    dated_ahead: int = 0
    """Samples dated later than now, by more than clocks differ: billed only when their time has come."""

    @property
    def needs_person(self) -> bool:
        return bool(self.in_doubt or self.rejected or self.refused or self.stopped_orgs or self.halts_ignored)

    @property
    def waits_for_tick(self) -> bool:
        return bool(self.due or self.queued or self.dirty_windows or self.halts_due or self.projections_due)


@dataclass(frozen=True)
class JobsLeft:
    """Jobs that wait or are under way: how many, and since when the oldest is; and how many failed in a day."""

    open: int
    since_ms: int | None
    failed: int


COUNTS: Final = ("refused", "dirty_windows", "halts_due", "projections_due", "stopped_orgs", "dated_ahead")


def quarantined(connection: sa.Connection) -> dict[str, int]:
    """Samples that cannot be billed and that nobody dealt with, by what is wrong with them."""
    return {row.reason: int(row.samples) for row in quarantine.SQL.run(connection, "count_by_reason")}


def jobs_part(now_ms: int) -> Part:
    """Jobs that no tick has done yet, and what failed in a day: no shard's, and of no organisation."""
    return SQL.part("jobs", {"since_ms": now_ms - DAY_MS})


def jobs_left(connection: sa.Connection, now_ms: int) -> JobsLeft:
    """The same, read alone."""
    (row,) = read_together(connection, jobs=jobs_part(now_ms))["jobs"]
    return JobsLeft(**vars(row))


def read_backlog(connection: sa.Connection, shard: Shard, now_ms: int) -> Backlog:
    """Count what is left in a shard (a whole database with the default one), in one statement."""
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
"""Age from which Drawdown reports an open transaction. Three ticks have then run without its rows."""


@dataclass(frozen=True)
class LongOpen:
    """The oldest open transaction: its owner, and its age in milliseconds (None: this user may not see it)."""

    who: str
    age_ms: int | None

    @property
    def is_long(self) -> bool:
        """Whether it is worth a word."""
        return self.age_ms is not None and self.age_ms >= LONG_MS


def oldest_open(connection: sa.Connection) -> LongOpen | None:
    """The oldest transaction with a number, of any database of the server; None without one, and on SQLite, where a
    transaction that writes holds up every other."""
    if connection.dialect.name != "postgresql":
        return None
    row = SQL.run(connection, "oldest").one_or_none()
    return None if row is None else LongOpen(row.who, None if row.age_ms is None else max(int(row.age_ms), 0))
