"""Find the halts for which a person must act.

The cell of such a halt acknowledges it and does not obey, lacks a URL, or cannot be called until a setting is changed.

Guarantee: this module only reads. It returns only halts in force. It returns an ignored halt only while its sandboxes
run, so that the problem ends if the sandboxes are stopped in another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.clock import utc
from drawdown.schema.sql import Part, queries
from drawdown.schema.text import counted, typed
from drawdown.worker.engine.shard import Shard
from drawdown.worker.halts.addresses import ANSWERED, NOT_ALLOWED, NOT_CALLED, UNSIGNED

ESCALATE_AFTER: Final = 3
"""Acknowledgements without effect after which a person must act.

After each acknowledgement, the cell has a minute to stop the sandboxes.
"""
NAMED: Final = 10
MENDED_BY_PEOPLE: Final = (
    NOT_ALLOWED, UNSIGNED, NOT_CALLED, *(f"{ANSWERED} {status}" for status in (401, 403, 404, 405, 410)),
)  # fmt: skip
"""Errors that last until a person changes a setting.

Drawdown must not call the cell, or the cell refuses the call.
"""
SQL = queries(__file__)


@dataclass(frozen=True)
class Ignored:
    """A halt that a cell acknowledged without effect.

    `times`: the number of acknowledgements. `since_ms`: the time of the first acknowledgement.
    """

    cell_id: str
    org_id: str
    times: int
    since_ms: int

    def __str__(self) -> str:
        since = utc(self.since_ms)
        return (
            f"cell {self.cell_id} has acknowledged the halt of {self.org_id} {counted(self.times, 'time')} "
            f"since {since}, but its sandboxes still run"
        )


def ignored_halts(connection: sa.Connection, shard: Shard) -> list[Ignored]:
    """Return the ignored halts for which a person must act, the oldest first."""
    part = ignored_part(shard)
    return [Ignored(**row._mapping) for row in SQL.run(connection, part.name, part.values)]


def ignored_part(shard: Shard) -> Part:
    """Return the query of ignored halts, to run with other queries.

    Its rows have the fields of `Ignored`.
    """
    return SQL.part("ignored", {"lo": shard.lo, "hi": shard.hi, "escalate_after": ESCALATE_AFTER})


@dataclass(frozen=True)
class Undelivered:
    """The due halts of one cell with one error.

    `error`: the error (None: Drawdown did not try yet). `halts`: the number of the halts. `since_ms`: the time of the
    oldest halt. `org_id`: the first of their organisations, by id.
    """

    cell_id: str
    error: str | None
    halts: int
    since_ms: int
    org_id: str

    @property
    def needs_person(self) -> bool:
        """Return True if a retry cannot deliver the halts, because a setting is wrong."""
        return self.error is not None and any(cause in self.error for cause in MENDED_BY_PEOPLE)

    def __str__(self) -> str:
        halts = counted(self.halts, "halt")
        why = self.error or "not tried yet"
        return (
            f"Drawdown could not deliver {halts} (of {self.org_id}) to cell {self.cell_id} since "
            f"{utc(self.since_ms)}: {why}"
        )


def undelivered(connection: sa.Connection, shard: Shard) -> list[Undelivered]:
    """Return undelivered halts by cell and error, the oldest first."""
    part = undelivered_part(shard)
    return [Undelivered(**row._mapping) for row in SQL.run(connection, part.name, part.values)]


def undelivered_part(shard: Shard) -> Part:
    """Return the query of undelivered halts, to run with other queries.

    Its rows have the fields of `Undelivered`.
    """
    return SQL.part("undelivered", {"lo": shard.lo, "hi": shard.hi})


def untold(connection: sa.Connection, shard: Shard) -> list[str]:
    """Return a text about each cell with due halts and without a URL, at most NAMED.

    Such a halt exists if a host starts a sandbox at a cell while an operator removes the cell.
    """
    rows = SQL.run(connection, "untold", {"lo": shard.lo, "hi": shard.hi, "at_most": NAMED})
    return [
        f"cell {row.cell_id} does not have a URL, so Drawdown cannot deliver {counted(row.halts, 'halt')}. "
        f"Run `drawdown cell set {typed(row.cell_id, 'URL')}`"
        for row in rows
    ]


def problems(found: Sequence[Ignored]) -> list[str]:
    """Return the first NAMED ignored halts as lines of a tick's report.

    If more halts are ignored, the last line has their number.
    """
    rest = len(found) - NAMED
    return [*map(str, found[:NAMED]), *([f"and {counted(rest, 'more halt')} without effect"] if rest > 0 else [])]
