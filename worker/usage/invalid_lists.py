"""What programs sent and was answered `invalid`, by key and code. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class InvalidRow:
    """Items of a key that were invalid for one reason. `source`, `item_id`: of one of them, the end of a long one cut
    off; None where none may be told."""

    key_name: str
    kind: str
    code: str
    items: int
    first_ms: int
    last_ms: int
    source: str | None
    item_id: str | None


def invalid_items(connection: sa.Connection, since_ms: int, most: int, *, key: str = "") -> list[InvalidRow]:
    """Of whole hours that began then or later, those with most items first. Errors: UnknownId for a key there never
    was."""
    if key:
        ids.require(connection, ids.API_KEY, key)
    values = {"since_ms": since_ms, "key": key, "at_most": most}
    return [
        InvalidRow(**{**row, "items": int(row["items"])}) for row in SQL.run(connection, "invalid", values).mappings()
    ]
