"""Count items of programs that got the answer `invalid`.

The counts are by API key, code and hour, each with one example.

Guarantee: Drawdown stores only an item's source and id, shortened, and each only if it does not look private. If a
client sends in a loop, existing rows count its items, because a key has one row for each code and hour. All keys
together get at most MOST_ROWS_A_DAY rows a day. Servers that write at the same moment may exceed this limit by a few
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.providers.protocol import HOUR_MS
from drawdown.schema import ids
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS

SQL = queries(__file__)

MOST_ROWS_A_DAY: Final = 5_000
"""Rows a day that Drawdown stores about invalid items. Above this number, only /metrics counts them."""


@dataclass(frozen=True)
class InvalidItems:
    """Items of one API key that were invalid for one reason.

    `source`, `item_id`: those of one of the items (None: the items lack it, or it looks private).
    """

    key_name: str
    kind: Literal["events", "samples"]
    code: str
    items: int
    first_ms: int
    last_ms: int
    source: str | None = None
    item_id: str | None = None


def keep(connection: sa.Connection, found: Sequence[InvalidItems], now_ms: int) -> None:
    """Add invalid items to the counts of the present hour.

    Rows are written in their order, to avoid deadlocks. A new row above MOST_ROWS_A_DAY is not written.
    """
    hour, day = now_ms - now_ms % HOUR_MS, now_ms - now_ms % DAY_MS
    known = {tuple(row) for row in SQL.run(connection, "of_hour", {"hour_ms": hour})}
    room = MOST_ROWS_A_DAY - int(SQL.run(connection, "of_day", {"day_ms": day}).scalar_one())
    new = [one for one in found if _slot(one) not in known][: max(room, 0)]
    rows = sorted([*new, *(one for one in found if _slot(one) in known)], key=_slot)
    if rows:
        SQL.run(connection, "keep", {"hour_ms": hour, "rows": [vars(one) for one in rows]})


def _slot(one: InvalidItems) -> tuple[str, str, str]:
    return one.key_name, one.kind, one.code


def forget(connection: sa.Connection, before_ms: int) -> int:
    """Delete rows of hours before a moment. Return the number of deleted rows."""
    return SQL.run(connection, "forget", {"before_ms": before_ms}).rowcount


@dataclass(frozen=True)
class InvalidRow:
    """Items of an API key that were invalid for one reason.

    `source`, `item_id`: each that of an item, shortened, perhaps of two items (None: the items lack it, or it looks
    private).
    """

    key_name: str
    kind: str
    code: str
    items: int
    first_ms: int
    last_ms: int
    source: str | None
    item_id: str | None


def invalid_items(connection: sa.Connection, since_ms: int, most: int, *, key: str = "") -> list[InvalidRow]:
    """Return invalid items by API key, kind and code.

    Only hours that began at `since_ms` or later count. The row with the most items comes first.

    Errors: UnknownId for an API key that never existed.
    """
    if key:
        ids.require(connection, ids.API_KEY, key)
    values = {"since_ms": since_ms, "key": key, "at_most": most}
    return [
        InvalidRow(**{**row, "items": int(row["items"])}) for row in SQL.run(connection, "invalid", values).mappings()
    ]
