"""What a run of `verify` found is kept, so that the proof can be looked at without being made anew.

Guarantee: a run is one row, which nobody changes. An invariant held by a run that asked about all organisations, on a
database that nobody doubts, and found no breach of it; a run about some can show a breach, and holds nothing.
"""

from __future__ import annotations

import json

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.sql import queries
from drawdown.worker.verify.invariants import INVARIANTS
from drawdown.worker.verify.verify import Verification

SQL = queries(__file__)


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
    }
    number = int(SQL.run(connection, "add", values).scalar_one())
    proves = orgs is None and doubted is None
    rows = [
        {
            "invariant": one,
            "held_by": number if proves and not found.by_invariant[one] else None,
            "broken_by": number if found.by_invariant[one] else None,
        }
        for one in INVARIANTS
    ]
    SQL.run(connection, "stand", {"found": rows})
    return number
