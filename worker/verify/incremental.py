"""The point from which a run of `verify` continues an earlier run that held (`drawdown verify --since-last`).

Guarantee: the run skips only windows that an earlier run proved, and that no record has touched since. Each record that
may reach back names its window: a late sample, a withdrawal, a void, an adoption, an attempt, a push that was sealed,
settled or folded or is open, an assignment, a mapping, an entry of the ledger, a window to be sealed again. The
earliest of them is the point. A row that was changed or deleted past the guards names nothing. It is found above the
point; below it, only a whole run finds it.

Facts about no window (balances, carries, lots, halts, verdicts, the record of actions) are proven whole each time.
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
"""The time by which a record may be dated before its run: clocks of machines, and transactions that were open."""


@dataclass(frozen=True)
class Mark:
    """The progress of a run: every window before `window_ms` was sealed, and every arrival below `arrival` counted."""

    window_ms: int
    arrival: int


@dataclass(frozen=True)
class ProvenRun:
    """A run that held, and may be continued: its number, when it began, and its mark."""

    run: int
    at_ms: int
    mark: Mark


@dataclass(frozen=True)
class Point:
    """Windows before `window_ms` were proven by the run `run` at `at_ms`, or before it; `why`: what touched that
    one since ('': nothing on record did)."""

    window_ms: int
    why: str
    run: int
    at_ms: int


@dataclass(frozen=True)
class Before:
    """The newest run that was kept, and the newest action, as a run began (0: none). Two runs overlap, and clocks of
    two machines differ: by these it is told what a run saw."""

    run: int = 0
    action: int = 0


def before(connection: sa.Connection) -> Before:
    """Return the records that this connection sees."""
    row = SQL.run(connection, "before").one()
    return Before(int(row.run), int(row.action))


def mark(connection: sa.Connection) -> Mark:
    """Return the progress of a run that sees what this connection sees."""
    row = SQL.run(connection, "mark").one()
    return Mark(int(row.window_ms), int(row.arrival))


def point(connection: sa.Connection, held: ProvenRun) -> Point | None:
    """Where a run begins that continues; None: arrivals are counted again, as after a restore, and nothing tells."""
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
"""The questions that a run which continues asks from its point on. It asks all others of everything."""
COUNTED: Final[Mapping[str, Mapping[str, str]]] = {"pushes": PUSHES, "attempts": ATTEMPTS, "entries": ENTRIES}
"""The counts that are of what was looked at alone, then."""
