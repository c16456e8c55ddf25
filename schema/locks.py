"""Rule S1's lock, the marks of dirty windows (S6), and the lock between charges and voids (P5).

Guarantee: the rows that a seal reads change only under rule S1's lock: a seal that is under way would otherwise see one
half of the change, and forget the other.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from drawdown.schema.migrate import bucket_of
from drawdown.schema.sql import Queries, Values, queries

SQL = queries(__file__)


def lock_charges(connection: sa.Connection, *, shared: bool = False) -> None:
    """Let either the charge or the void of a push in our own ledger count (P5).

    Charges share the row of the ledger's terms, which exists before anything is sealed for it. A void holds that row
    alone. The second of the two reads what the first did. It is a row and no advisory lock: any login may take those, a
    host's too. SQLite has one writer at a time.
    """
    if connection.dialect.name == "postgresql":
        SQL.run(connection, "share_charges" if shared else "hold_charges").all()


def lock_buckets(connection: sa.Connection, lo: int = 0, hi: int = 255) -> None:
    """Take rule S1's lock, for a change of rows that a seal reads. Read the facts of the change after it."""
    SQL.run(connection, "lock_buckets", {"lo": lo, "hi": hi}).all()


def lock_org(connection: sa.Connection, org_id: str) -> None:
    """The same for one organisation: the bucket that it has, or that a seal would give it."""
    lock_orgs(connection, [org_id])


def lock_orgs(connection: sa.Connection, org_ids: Collection[str]) -> None:
    """The same for some, in the order of their buckets, in which everybody takes them."""
    rows = SQL.run(connection, "buckets_of_orgs", {"org_ids": list(org_ids)})
    found = {str(row.org_id): int(row.bucket) for row in rows if row.bucket is not None}
    buckets = {found[org_id] if org_id in found else bucket_of(org_id) for org_id in org_ids}
    SQL.run(connection, "lock_these_buckets", {"buckets": list(buckets)}).all()


def make_windows_dirty(
    connection: sa.Connection, own: Queries, windows: str, values: Values, *, lo: int = 0, hi: int = 255
) -> None:
    """Let the next seal compute the differences of windows again.

    `windows`: a fragment of the caller's `own` ones that follows FROM, with a WHERE.

    It takes S1's lock by itself (of the buckets lo..hi, if all the windows are theirs). A seal deletes the rows that it
    has read, so a row that came in between would be forgotten unread.
    """
    lock_buckets(connection, lo, hi)
    own.run(connection, "insert_dirty_windows", values, windows=windows)
