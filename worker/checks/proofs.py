"""What a run of `verify` found is kept, so that the proof can be looked at without being made anew.

Guarantee: a run is one row, which nobody changes. An invariant held by a run that asked about all organisations, on a
database that nobody doubts, and found no breach of it; a run about some can show a breach, and holds nothing. Neither
does one that continued from another: `held_by` is a run that looked at all of it. Nor does one that began before
another's breach was kept: it may not have seen that.
"""

from __future__ import annotations

import json
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.verify.invariants import INVARIANTS
from drawdown.worker.verify.since import APART_MS, Held, Mark
from drawdown.worker.verify.verify import Verification

SQL = queries(__file__)

WHOLE_EACH_MS: Final = 7 * DAY_MS - DAY_MS // 4
"""After this long a run that was to continue looks at all of it: weekly, where one is made each night."""


def to_continue(connection: sa.Connection, now_ms: int) -> Held | None:
    """The run that the next one may continue from; None: it has to look at all of it."""
    values = {"now_ms": now_ms, "apart_ms": APART_MS, "whole_after_ms": now_ms - WHOLE_EACH_MS}
    row = SQL.run(connection, "to_continue", values).one_or_none()
    return None if row is None else Held(row.number, row.at_ms, Mark(row.proven_to_ms, row.arrival))


def keep(
    connection: sa.Connection, found: Verification, by: By, *, took_ms: int = 0, orgs: int | None = None,
    doubted: str | None = None,
) -> int:  # fmt: skip
    """Keep what was found at `by.now_ms`, in so many milliseconds, of so many organisations (None: all); `doubted`: why
    history may be lost. The run's number."""
    values = {
        "at_ms": by.now_ms,
        "took_ms": took_ms,
        "orgs": orgs,
        "breaches": found.count,
        "by_invariant": json.dumps({str(one): count for one, count in sorted(found.by_invariant.items())}),
        "checked": json.dumps(found.checked),
        "open": json.dumps(found.open),
        "newest_action": found.newest_action,
        "doubted": doubted,
        "actor": by.actor,
        "reason": by.reason,
        **_reach(found),
    }
    SQL.run(connection, "in_turn")
    number = int(SQL.run(connection, "add", values).scalar_one())
    proves = orgs is None and doubted is None and found.point is None
    rows = [
        {
            "invariant": one,
            "held_by": number if proves and not found.by_invariant[one] else None,
            "broken_by": number if found.by_invariant[one] else None,
        }
        for one in INVARIANTS
    ]
    SQL.run(connection, "stand", {"found": rows, "saw_run": found.before.run})
    return number


def _reach(found: Verification) -> dict[str, int | None]:
    """From where on it looked, and how far it proved."""
    return {
        "follows": None if found.point is None else found.point.run,
        "from_ms": None if found.point is None else found.point.window_ms,
        "proven_to_ms": None if found.mark is None else found.mark.window_ms,
        "arrival": None if found.mark is None else found.mark.arrival,
    }
