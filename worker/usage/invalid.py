"""Items of programs that were answered `invalid`: their number, by key, code and hour, with one example by its name.

Guarantee: only an item's source and id are kept, cut short, and only if neither looks private. A client that sends in a
loop adds to existing rows: a key has as many rows an hour as there are codes. All keys together have MOST_ROWS_A_DAY in
a day, and as many more as servers write in the same moment.
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
"""Stored rows a day of invalid items that programs sent. Beyond it, only /metrics counts them."""


@dataclass(frozen=True)
class InvalidItems:
    """Items of one key that were invalid for one reason. `source`, `item_id`: of one of them, if it may be shown."""

    key_name: str
    kind: Literal["events", "samples"]
    code: str
    items: int
    first_ms: int
    last_ms: int
    source: str | None = None
    item_id: str | None = None


def keep(connection: sa.Connection, found: Sequence[InvalidItems], now_ms: int) -> None:
    """Count them in the hour that this is. Rows are written in their order: two servers never wait crosswise."""
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
    """Those of hours that began before a moment; how many rows."""
    return SQL.run(connection, "forget", {"before_ms": before_ms}).rowcount


@dataclass(frozen=True)
class InvalidRow:
    """Items of a key that were invalid for one reason.

    `source`, `item_id`: of one of them, shortened if it is long; None if none may be shown.
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
    """Return rows of whole hours that began at this moment or later, those with most items first.

    Errors: UnknownId for a key that never existed.
    """
    if key:
        ids.require(connection, ids.API_KEY, key)
    values = {"since_ms": since_ms, "key": key, "at_most": most}
    return [
        InvalidRow(**{**row, "items": int(row["items"])}) for row in SQL.run(connection, "invalid", values).mappings()
    ]
