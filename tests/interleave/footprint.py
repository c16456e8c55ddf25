"""What a statement reads and writes, as PostgreSQL itself counted it, and which hold points differ by that.

Guarantee: a point is left out only where its case is the same as that of the point before it. While the first is
held, the second sees nothing that the first wrote, and the first goes on with all that the second committed. So holding
before or after a statement of the first makes a difference only where that statement reads what the second writes, or
where both lock. (A quarter of the points is left. `--all` runs the others, too.)

The second's tables are those it touches alone; where the first leads it elsewhere, it does so by a table in common.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any, Final

import sqlalchemy as sa

SEEN: Final = """
SELECT relname, COALESCE(seq_scan, 0) + COALESCE(idx_scan, 0), n_tup_ins, n_tup_upd + n_tup_del
FROM pg_stat_xact_user_tables WHERE schemaname = 'public'
"""
APPENDED: Final = frozenset({"operator_actions", "seals", "ticks", "projections"})
"""Their keys are counted by the database: two who add a row do not meet. Who reads and who adds do."""
LOCKS: Final = re.compile(r"\bFOR (NO KEY |KEY )?(UPDATE|SHARE)\b")
OLDEST: Final = "the oldest transaction"
"""What the seal's cursor goes by; a transaction counts from its first write on."""


@dataclass(frozen=True)
class Footprint:
    """Names of tables. `shares`: those of which a writing statement may hold rows, as foreign keys have it do."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    adds: frozenset[str] = frozenset()
    shares: frozenset[str] = frozenset()

    def __or__(self, other: Footprint) -> Footprint:
        return Footprint(
            self.reads | other.reads, self.writes | other.writes, self.adds | other.adds, self.shares | other.shares
        )

    def sees(self, other: Footprint) -> bool:
        """Whether this comes out differently once the other was committed."""
        return bool(self.reads & (other.writes | other.adds)) or self.locks(other)

    def locks(self, other: Footprint) -> bool:
        """Whether one may wait for the other."""
        return bool(self.writes & (other.writes | other.shares) or self.shares & other.writes)


@dataclass
class Spy:
    """Looks after each statement of one transaction."""

    found: list[Footprint] = field(default_factory=list)
    _before: dict[str, Any] = field(default_factory=dict)
    _wrote: bool = False

    def begun(self, connection: sa.Connection) -> None:
        """PostgreSQL may still count what was done before; a transaction that is run again counts anew."""
        self.found, self._wrote, self._before = [], False, _counts(connection)

    def executed(self, connection: sa.Connection, statement: str) -> None:
        now = _counts(connection)
        changes = {
            name: [a - b for a, b in zip(counts, self._before.get(name, (0, 0, 0)), strict=True)]
            for name, counts in now.items()
        }
        self._before = now
        reads = {name for name, (scans, _, _) in changes.items() if scans}
        adds = {name for name, (_, added, other) in changes.items() if added and not other and name in APPENDED}
        writes = {name for name, (_, added, other) in changes.items() if added or other} - adds
        if LOCKS.search(statement):
            writes |= reads
        if (writes or adds) and not self._wrote:
            self._wrote = True
            writes.add(OLDEST)
        shares = set(reads) if writes or adds else set()
        if "pg_current_snapshot" in statement:
            shares.add(OLDEST)
        self.found.append(Footprint(frozenset(reads), frozenset(writes), frozenset(adds), frozenset(shares)))


def _counts(connection: sa.Connection) -> dict[str, Any]:
    raw: Any = connection.connection.dbapi_connection
    return {row[0]: row[1:] for row in raw.cursor().execute(SEEN).fetchall()}


def points(first: Sequence[Footprint], second: Footprint) -> list[int]:
    """After which statements to hold the first: one point of each run of points that are the same. Empty: the two have
    nothing in common."""
    if not any(one.sees(second) for one in first):
        return []
    return [1, *(number for number, one in enumerate(first[1:], 2) if one.sees(second))]


def is_settled(first_next: Sequence[Footprint], second_before: Sequence[Footprint]) -> bool:
    """Whether the second, which waits for the first with some statements behind it, would wait at the same place
    wherever the first is held from now on: neither sees what the other has not committed, so only locks matter."""
    return not any(one.locks(other) for one in first_next for other in second_before)


def whole(all_of: Sequence[Footprint]) -> Footprint:
    """What they touch together."""
    return reduce(or_, all_of, Footprint())
