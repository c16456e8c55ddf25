"""The cursor: how far the arrivals of samples have been looked at (rule S2).

Guarantee: a sample is looked at exactly once, whichever transaction brought it. On PostgreSQL the cursor and the list
`in_flight` are one snapshot: everything before the cursor was visible, but for the transactions in flight, which are
looked for by name. So a transaction that stays open, in any database of the server, holds up nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.sql import Part, queries

SQL = queries(__file__)


@dataclass(frozen=True)
class Seen:
    """Arrivals before `cursor` were looked at, but for those `in_flight` (PostgreSQL's transactions)."""

    cursor: int = 0
    in_flight: tuple[int, ...] = ()

    @property
    def piece(self) -> str:
        """The fragment of samples `s` that have arrived since; its values are `values`."""
        return "arrived_since_or_in_flight" if self.in_flight else "arrived_since"

    @property
    def values(self) -> dict[str, object]:
        return {"cursor": self.cursor, "in_flight": self.in_flight}


UNREAD: Final = Seen()


def seen_by_all(buckets: Sequence[Any]) -> Seen:
    """Return the arrivals that all of several rows of `buckets` have seen."""
    open_then = {int(number) for row in buckets for number in row.in_flight or ()}
    return Seen(min(int(row.cursor) for row in buckets), tuple(sorted(open_then)))


def buckets_part() -> Part:
    """Return the query of every bucket's cursor, to read beside others in one statement: rows for `seen_by_all`."""
    return SQL.part("of_buckets")


def seen_by_seals(connection: sa.Connection) -> Seen:
    """Return the arrivals that the seals of all buckets have seen."""
    part = buckets_part()
    return seen_by_all(SQL.run(connection, part.name).all())


def seen_now(connection: sa.Connection) -> Seen:
    """Return all arrivals that are visible now."""
    return seen_by_all(SQL.run(connection, "seen_now").all())
