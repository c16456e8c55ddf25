"""What was settled at providers and nobody has compared with them (R2). Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import Part, queries, together
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import DAY_MS

SQL = queries(__file__)

LATE_AFTER_MS: Final = 2 * DAY_MS
"""After which a provider that bills should have been compared again."""


@dataclass(frozen=True)
class Uncompared:
    """A provider: up to when it was compared as a whole, how many days of customers are open, since which day and why;
    and whether no run compared it for LATE_AFTER_MS."""

    provider: str
    compared_ms: int | None
    open_days: int
    open_since_ms: int | None
    said: str
    is_late: bool
    for_person: int = 0
    """Customers that no later run compares until a person acts, and why of one of them: they were deleted there."""
    said_to_person: str = ""


def uncompared_part(now_ms: int) -> Part:
    """One row for each provider that was ever compared."""
    return SQL.part("uncompared", {"late_ms": now_ms - LATE_AFTER_MS, "needs_you": f"{NEEDS_YOU}%"})


def uncompared_of(rows: list[object]) -> list[Uncompared]:
    """The rows of that."""
    found = []
    for row in rows:
        its = vars(row)
        counts = {"open_days": int(its["open_days"]), "for_person": int(its["for_person"])}
        said = its["said_to_person"].replace(NEEDS_YOU, "", 1)
        found.append(Uncompared(**{**its, **counts, "said_to_person": said, "is_late": bool(its["is_late"])}))
    return found


def read_uncompared(connection: sa.Connection, now_ms: int) -> list[Uncompared]:
    """The same, read alone."""
    return uncompared_of(together(connection, found=uncompared_part(now_ms))["found"])
