"""Find the point from which `verify --since-last` continues an earlier run.

Guarantee: the run skips only windows that an earlier run proved and that records have not touched since. Each record
that may reach back names its window, and the earliest of these windows is the point. Such records are late samples,
withdrawals, voids, adoptions and attempts. Pushes count if they were sealed, settled or replaced with daily sums (`push
fold`), or are open. The other records are assignments, mappings, ledger entries and dirty windows. If a row was changed
or deleted past the guards, a run finds the change above the point. Below the point, only a full run finds it.

Facts without a window (balances, carries, lots, halts, verdicts, the record of actions) are proven in full each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS

SQL = queries(__file__)

APART_MS: Final = DAY_MS
"""Milliseconds before the last run by which a record that it missed may be dated.

Clocks differ, and a transaction can stay open.
"""


@dataclass(frozen=True)
class Mark:
    """The progress of a run.

    Each window before `window_ms` was sealed, and each arrival below `arrival` was counted.
    """

    window_ms: int
    arrival: int


@dataclass(frozen=True)
class ProvenRun:
    """A run without a breach that may be continued.

    `at_ms`: when the run began.
    """

    run: int
    at_ms: int
    mark: Mark


@dataclass(frozen=True)
class Point:
    """The point from which a run continues.

    The run `run` at `at_ms`, or a run before it, proved the windows before `window_ms`. `why`: the record that has
    since touched the first window of this run; '' if a record did not touch it.
    """

    window_ms: int
    why: str
    run: int
    at_ms: int


@dataclass(frozen=True)
class Before:
    """The newest stored run, and the newest action, when a run began (0: never).

    These numbers show which rows a run saw. Times do not show that, because runs may overlap and clocks differ.
    """

    run: int = 0
    action: int = 0


def before(connection: sa.Connection) -> Before:
    """Return the newest run and action that this connection sees."""
    row = SQL.run(connection, "before").one()
    return Before(int(row.run), int(row.action))


def mark(connection: sa.Connection) -> Mark:
    """Return the progress of a run, as this connection sees the database."""
    row = SQL.run(connection, "mark").one()
    return Mark(int(row.window_ms), int(row.arrival))


def point(connection: sa.Connection, held: ProvenRun) -> Point | None:
    """Return the point from which a run can continue `held`.

    None: the point is unknown, because arrivals are counted again, as after a restore.
    """
    if held.mark.arrival > int(SQL.run(connection, "newest").scalar_one()):
        return None
    told = {"told_ms": held.at_ms - APART_MS, "window_ms": held.mark.window_ms, "arrival": held.mark.arrival}
    row = SQL.run(connection, "point", told).one()
    return Point(int(row.window_ms), row.why, held.run, held.at_ms)


PUSHES: Final = {"proven_pushes": "pushes_since"}
ATTEMPTS: Final = {"proven_attempts": "attempts_since"}
ENTRIES: Final = {"proven_entries": "entries_since"}
SAMPLES: Final = {"proven_samples": "samples_since"}
EVENTS: Final = {"proven_events": "events_since"}
PENDING: Final = {"proven_pending": "pending_since"}
OF_DAYS: Final = {f"proven_{what}": f"{what}_of_days" for what in ("pushes", "entries", "folded")}

BY_WINDOW: Final[Mapping[str, Mapping[str, str]]] = {
    "usage": SAMPLES | PUSHES | PENDING,
    **dict.fromkeys(("state", "key", "twice", "revisions", "biller", "no_evidence"), PUSHES),
    **dict.fromkeys(("charged", "undrawn", "above"), PUSHES),
    "uncommitted": OF_DAYS,
    "mirrored": PUSHES | ENTRIES,
    **dict.fromkeys(("given_back", "sides", "priced", "repriced"), ENTRIES),
    "push_waits": PUSHES,
    **dict.fromkeys(("attempt", "unaccepted"), ATTEMPTS),
    "attempts": PUSHES | ATTEMPTS,
    **dict.fromkeys(("sampleless", "event_otherwise"), EVENTS),
    "eventless": SAMPLES,
}
"""The statements that a continued run limits to rows from its point on.

All other statements read all rows.
"""
COUNTED: Final[Mapping[str, Mapping[str, str]]] = {"pushes": PUSHES, "attempts": ATTEMPTS, "entries": ENTRIES}
"""The counts that a continued run limits to the rows that it checked."""
