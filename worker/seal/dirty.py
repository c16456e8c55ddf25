"""Windows that the next seal computes again (S6)."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from drawdown.schema.audit import lock_buckets


def make_dirty(
    connection: sa.Connection, windows: str, values: Mapping[str, object], *, lo: int = 0, hi: int = 255
) -> None:
    """Have the differences of windows computed again by the next seal; `windows` follows FROM, with a WHERE.

    Takes S1's lock by itself (of the buckets lo..hi, where all the windows are theirs): a seal deletes the rows of
    what it has read, so one that comes in between would be forgotten unread.
    """
    lock_buckets(connection, lo, hi)
    connection.execute(
        sa.text(
            "INSERT INTO dirty_windows (org_id, window_ms) "
            f"SELECT DISTINCT org_id, window_ms FROM {windows} ON CONFLICT DO NOTHING"
        ),
        values,
    )
