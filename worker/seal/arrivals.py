"""Track the arrivals of samples that seals have read: the cursor (rule S2).

Guarantee: seals read each sample exactly once, for any order of commits. On PostgreSQL the cursor and the list
`in_flight` are from one snapshot. All arrivals before the cursor were visible, except those of transactions in flight.
The next scan reads these by their transaction numbers. So a transaction that stays open, in any database of the server,
does not delay a seal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.sql import Part, queries

SQL = queries(__file__)


@dataclass(frozen=True)
class ArrivalCursor:
    """The arrivals that were read: those before `cursor`, except those in flight.

    `in_flight`: transaction numbers of PostgreSQL.
    """

    cursor: int = 0
    in_flight: tuple[int, ...] = ()

    @property
    def piece(self) -> str:
        """Return the name of the fragment for samples that arrived after these arrivals.

        In the fragment, `s` is the sample, and `values` are the parameters.
        """
        return "arrived_since_or_in_flight" if self.in_flight else "arrived_since"

    @property
    def values(self) -> dict[str, object]:
        return {"cursor": self.cursor, "in_flight": self.in_flight}


UNREAD: Final = ArrivalCursor()


def seen_by_all(buckets: Sequence[Any]) -> ArrivalCursor:
    """Return the arrivals that the seals of all these buckets have read."""
    open_then = {int(number) for row in buckets for number in row.in_flight or ()}
    return ArrivalCursor(min(int(row.cursor) for row in buckets), tuple(sorted(open_then)))


def buckets_part() -> Part:
    """Return the query of each bucket's cursor: rows for `seen_by_all`.

    One statement can run this query together with others.
    """
    return SQL.part("of_buckets")


def seen_by_seals(connection: sa.Connection) -> ArrivalCursor:
    """Return the arrivals that the seals of all buckets have read."""
    part = buckets_part()
    return seen_by_all(SQL.run(connection, part.name).all())


def seen_now(connection: sa.Connection) -> ArrivalCursor:
    """Return all arrivals that are visible now."""
    return seen_by_all(SQL.run(connection, "seen_now").all())
