"""Halts that a person is needed for: a cell acknowledges them and does not obey, or has no URL to tell it.

Guarantee: reads only. Only halts in force are named, and of those that are not obeyed only where sandboxes run this
moment, so that a sandbox stopped by any other hand is no problem any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import Part, queries
from drawdown.schema.text import typed
from drawdown.schema.units import SECOND_MS
from drawdown.worker.engine.shard import Shard

ESCALATE_AFTER: Final = 3
"""So many acknowledgements, each with a minute to stop what runs, and a person is needed."""
NAMED: Final = 10
SQL = queries(__file__)


@dataclass(frozen=True)
class Unheeded:
    """One organisation on one cell: how often it was acknowledged without effect, and when that was first."""

    cell_id: str
    org_id: str
    times: int
    since_ms: int

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since_ms // SECOND_MS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return (
            f"cell {self.cell_id} acknowledged the halt of {self.org_id} {self.times} times since {since}, "
            "and its sandboxes still run"
        )


def unheeded(connection: sa.Connection, shard: Shard) -> list[Unheeded]:
    """Those that a person is needed for, the oldest first."""
    part = unheeded_part(shard)
    return [Unheeded(**row._mapping) for row in SQL.run(connection, part.name, part.values)]


def unheeded_part(shard: Shard) -> Part:
    """The same, for whoever reads more in one statement: fields of `Unheeded`."""
    return SQL.part("unheeded", {"lo": shard.lo, "hi": shard.hi, "escalate_after": ESCALATE_AFTER})


def untold(connection: sa.Connection, shard: Shard) -> list[str]:
    """Of each cell without a URL that halts are due at, a line. A host may start a sandbox at a cell while that is
    removed, and neither sees the other."""
    rows = SQL.run(connection, "untold", {"lo": shard.lo, "hi": shard.hi, "at_most": NAMED})
    return [
        f"cell {row.cell_id} has no URL, and cannot be told of the halts that are due there ({row.halts:,}): "
        f"`drawdown cell set {typed(row.cell_id, 'URL')}`"
        for row in rows
    ]


def problems(found: Sequence[Unheeded]) -> list[str]:
    """A line each for a tick's report, and one for those that are too many to name."""
    rest = len(found) - NAMED
    return [*map(str, found[:NAMED]), *([f"and {rest} more halts without effect"] if rest > 0 else [])]
