"""How far the arrivals of samples have been looked at (rule S2).

Guarantee: a sample is looked at exactly once, whatever transaction brought it. On PostgreSQL the cursor and what was
`in_flight` are one snapshot: everything before the cursor was visible, but for the transactions in flight, which are
looked for by name. So a transaction that stays open, in whatever database of the server, holds up nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Seen:
    """Arrivals before `cursor` were looked at, but for those `in_flight` (PostgreSQL's transactions)."""

    cursor: int = 0
    in_flight: tuple[int, ...] = ()

    @property
    def later(self) -> str:
        """What has arrived since, as SQL over `s`, with the cursor bound as `:cursor`."""
        open_then = ", ".join(map(str, self.in_flight))
        return f"(s.arrival >= :cursor OR s.arrival IN ({open_then}))" if open_then else "s.arrival >= :cursor"


UNREAD: Final = Seen()


def seen_by_all(buckets: Sequence[Any]) -> Seen:
    """What all of several rows of `buckets` have seen."""
    open_then = {int(one) for row in buckets for one in row.in_flight or ()}
    return Seen(min(int(row.cursor) for row in buckets), tuple(sorted(open_then)))


# Of a sample `s` whose organisation's bucket is `b`, and of one whose bucket may be any.
UNSEEN: Final = {
    "postgresql": "(s.arrival >= b.cursor OR s.arrival = ANY (b.in_flight))",
    "sqlite": "s.arrival >= b.cursor",
}
UNSEEN_BY_SOME: Final = {
    "postgresql": "(s.arrival >= (SELECT MIN(cursor) FROM buckets) "
    "OR s.arrival = ANY (ARRAY(SELECT DISTINCT unnest(in_flight) FROM buckets)))",
    "sqlite": "s.arrival >= (SELECT MIN(cursor) FROM buckets)",
}
# PostgreSQL: what was not visible when this was read has a number in the list, or one at or above the cursor. The
# cursor is never above the reader's own number: a server that dies forgets the numbers of those that wrote nothing, and
# gives those above the newest commit again.
NOW: Final = """
SELECT least(pg_snapshot_xmax(s.now)::text::bigint, pg_current_xact_id()::text::bigint) AS cursor,
    ARRAY(SELECT one::text::bigint FROM pg_snapshot_xip(s.now) one) AS in_flight
FROM (SELECT pg_current_snapshot() AS now) s
"""
