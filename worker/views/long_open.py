"""The transaction that has been open for longest on the database's server.

Guarantee: reads only. Such a transaction holds up nothing here (S2). What it inserted is billed once it ends, and
while it is open, PostgreSQL keeps what others deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import MINUTE_MS

LONG_MS: Final = 15 * MINUTE_MS
"""From then on it is told to people: three ticks went by without whatever it inserted."""

# Whose it is may always be read; since when it is open, only by its own user or with the role pg_monitor.
OLDEST: Final = """
SELECT who, age_ms FROM (
    SELECT 'process ' || pid || ' on ' || COALESCE(datname, 'no database')
            || COALESCE(' (' || NULLIF(application_name, '') || ')', '') AS who,
        age(backend_xid) AS numbers, extract(epoch FROM clock_timestamp() - xact_start) * 1000 AS age_ms
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT 'prepared transaction ' || gid || ' on ' || database, age(transaction),
        extract(epoch FROM clock_timestamp() - prepared) * 1000
    FROM pg_prepared_xacts
) open_now ORDER BY numbers DESC LIMIT 1
"""


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
    row = connection.execute(sa.text(OLDEST)).one_or_none()
    return None if row is None else LongOpen(row.who, None if row.age_ms is None else max(int(row.age_ms), 0))
