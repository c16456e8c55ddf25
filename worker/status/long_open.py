"""The transaction that has been open for longest on the database's server.

Guarantee: reads only. Such a transaction holds up nothing here (S2). The samples it inserted are billed once it ends.
While it is open, PostgreSQL keeps the rows that others deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import MINUTE_MS

LONG_MS: Final = 15 * MINUTE_MS
"""From then on it is told to people: three ticks went by without whatever it inserted."""

SQL = queries(__file__)


@dataclass(frozen=True)
class LongOpen:
    """Whose it is, and for how long it has been open (milliseconds; None: this user may not see that)."""

    who: str
    age_ms: int | None

    @property
    def told(self) -> bool:
        """Whether it is worth a word."""
        return self.age_ms is not None and self.age_ms >= LONG_MS


def oldest_open(connection: sa.Connection) -> LongOpen | None:
    """The oldest transaction with a number, of any database of the server; None without one, and on SQLite, where a
    transaction that writes holds up every other."""
    if connection.dialect.name != "postgresql":
        return None
    row = SQL.run(connection, "oldest").one_or_none()
    return None if row is None else LongOpen(row.who, None if row.age_ms is None else max(int(row.age_ms), 0))
