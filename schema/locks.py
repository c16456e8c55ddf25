"""The locks of rules S1 and P5, and the marks of dirty windows (S6).

Guarantee: the rows that a seal reads change only under rule S1's lock. Otherwise a concurrent seal would see only a
part of the change, and lose the rest.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from drawdown.schema.migrate import bucket_of
from drawdown.schema.sql import Queries, Values, queries

SQL = queries(__file__)


def lock_charges(connection: sa.Connection, *, shared: bool = False) -> None:
    """Let either the charge or the void of an embedded push count (P5).

    Charges share a lock of the row with the ledger's terms, which exists before the first seal. A void locks that row
    alone. The later transaction reads the result of the earlier transaction. The lock is on a row, because any login,
    even a host's, can take an advisory lock. SQLite has one writer at a time.
    """
    if connection.dialect.name == "postgresql":
        SQL.run(connection, "share_charges" if shared else "hold_charges").all()


def lock_rates(connection: sa.Connection, *, shared: bool = False) -> None:
    """Let a rate for the past be set before or after a charge, not during it (S11).

    Charges share the lock. It is on the row of `lock_charges`, so that a rate also waits for voids. A void waits for a
    rate that holds the lock. It does not wait for charges that share only this lock, or for a rate that awaits them.
    Take this lock before a lock of the audit log.
    """
    if connection.dialect.name == "postgresql":
        SQL.run(connection, "share_rates" if shared else "hold_rates").all()


def lock_buckets(connection: sa.Connection, lo: int = 0, hi: int = 255) -> None:
    """Take rule S1's lock of buckets `lo` to `hi`.

    Call it before a change of rows that a seal reads, and read facts after it.
    """
    SQL.run(connection, "lock_buckets", {"lo": lo, "hi": hi}).all()


def lock_org(connection: sa.Connection, org_id: str) -> None:
    """Take rule S1's lock of an organisation's bucket.

    The organisation can be unregistered.
    """
    lock_orgs(connection, [org_id])


def lock_orgs(connection: sa.Connection, org_ids: Collection[str]) -> None:
    """Take rule S1's lock for some organisations, in the order of their buckets."""
    rows = SQL.run(connection, "buckets_of_orgs", {"org_ids": list(org_ids)})
    found = {str(row.org_id): int(row.bucket) for row in rows if row.bucket is not None}
    buckets = {found[org_id] if org_id in found else bucket_of(org_id) for org_id in org_ids}
    SQL.run(connection, "lock_these_buckets", {"buckets": list(buckets)}).all()


def make_windows_dirty(
    connection: sa.Connection, own: Queries, windows: str, values: Values, *, lo: int = 0, hi: int = 255
) -> None:
    """Mark windows, so that the next seal computes their differences again.

    `windows`: a fragment of the caller's `own` queries that follows FROM, with a WHERE. The function takes S1's lock of
    buckets `lo` to `hi`. A seal deletes the rows that it has read, so without the lock a row inserted meanwhile would
    be lost.
    """
    lock_buckets(connection, lo, hi)
    own.run(connection, "insert_dirty_windows", values, windows=windows)
