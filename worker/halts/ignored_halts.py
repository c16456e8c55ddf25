"""Halts that a person is needed for: a cell acknowledges them and does not obey, has no URL to tell it, or cannot be
told until a setting is changed.

Guarantee: reads only. Only halts in force are named, and of those that are not obeyed only where sandboxes run this
moment, so that a sandbox stopped by any other hand is no problem any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.clock import utc
from drawdown.schema.sql import Part, queries
from drawdown.schema.text import typed
from drawdown.worker.engine.shard import Shard
from drawdown.worker.halts.addresses import ANSWERED, NOT_ALLOWED, NOT_CALLED, UNSIGNED

ESCALATE_AFTER: Final = 3
"""So many acknowledgements, each with a minute to stop what runs, and a person is needed."""
NAMED: Final = 10
MENDED_BY_PEOPLE: Final = (
    NOT_ALLOWED, UNSIGNED, NOT_CALLED, *(f"{ANSWERED} {status}" for status in (401, 403, 404, 405, 410)),
)  # fmt: skip
"""Why a halt is not delivered until a setting is changed: the cell is none that may be called, or refuses the call."""
SQL = queries(__file__)


@dataclass(frozen=True)
class Ignored:
    """One organisation on one cell: how often it was acknowledged without effect, and when that was first."""

    cell_id: str
    org_id: str
    times: int
    since_ms: int

    def __str__(self) -> str:
        since = utc(self.since_ms)
        return (
            f"cell {self.cell_id} has acknowledged the halt of {self.org_id} {self.times} times "
            f"since {since}, but its sandboxes still run"
        )


def ignored_halts(connection: sa.Connection, shard: Shard) -> list[Ignored]:
    """Those that a person is needed for, the oldest first."""
    part = ignored_part(shard)
    return [Ignored(**row._mapping) for row in SQL.run(connection, part.name, part.values)]


def ignored_part(shard: Shard) -> Part:
    """Return the query of ignored halts, to read beside others in one statement: fields of `Ignored`."""
    return SQL.part("ignored", {"lo": shard.lo, "hi": shard.hi, "escalate_after": ESCALATE_AFTER})


@dataclass(frozen=True)
class Undelivered:
    """Halts that a cell has not taken, for one reason (None: not tried yet): how many, since when, the first
    organisation of them by its id."""

    cell_id: str
    error: str | None
    halts: int
    since_ms: int
    org_id: str

    @property
    def needs_person(self) -> bool:
        """True if no later try delivers them: a setting is missing or wrong, here or at the cell."""
        return self.error is not None and any(cause in self.error for cause in MENDED_BY_PEOPLE)

    def __str__(self) -> str:
        halts = f"{self.halts:,} halt{'s' if self.halts > 1 else ''}"
        why = self.error or "not tried yet"
        return (
            f"Drawdown could not deliver {halts} (of {self.org_id}) to cell {self.cell_id} since "
            f"{utc(self.since_ms)}: {why}"
        )


def undelivered(connection: sa.Connection, shard: Shard) -> list[Undelivered]:
    """By cell and reason, the oldest first."""
    part = undelivered_part(shard)
    return [Undelivered(**row._mapping) for row in SQL.run(connection, part.name, part.values)]


def undelivered_part(shard: Shard) -> Part:
    """Return the query of undelivered halts, to read beside others in one statement: fields of `Undelivered`."""
    return SQL.part("undelivered", {"lo": shard.lo, "hi": shard.hi})


def untold(connection: sa.Connection, shard: Shard) -> list[str]:
    """Return a line for each cell without a URL at which halts are due.

    A host may start a sandbox at a cell while the cell is removed, and neither sees the other.
    """
    rows = SQL.run(connection, "untold", {"lo": shard.lo, "hi": shard.hi, "at_most": NAMED})
    return [
        f"cell {row.cell_id} has no URL, so that Drawdown cannot deliver {row.halts:,} halts. Run "
        f"`drawdown cell set {typed(row.cell_id, 'URL')}`"
        for row in rows
    ]


def problems(found: Sequence[Ignored]) -> list[str]:
    """A line each for a tick's report, and one for those that are too many to name."""
    rest = len(found) - NAMED
    return [*map(str, found[:NAMED]), *([f"and {rest} more halts without effect"] if rest > 0 else [])]
