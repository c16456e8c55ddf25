"""Keys of programs, as people look at them: never the keys themselves. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class KeyRow:
    """One key: times are milliseconds. `org_id`: the one organisation it may name, `cell_id`: the one cell whose
    samples it may send, `source`: the one source of its events; None: any. `used_ms`: when it was last used, to a
    minute; None: never. `maker_ended`: a person of the console made it, who is let in no more; the key goes on. Told by
    `page_of_keys` alone."""

    name: str
    scopes: list[str]
    org_id: str | None
    cell_id: str | None
    source: str | None
    state: Literal["good", "rotated", "expired", "ended"]
    created_ms: int
    expires_ms: int | None
    rotated_ms: int | None
    ended_ms: int | None
    used_ms: int | None
    actor: str
    reason: str
    maker_ended: bool = False


def list_keys(connection: sa.Connection, now_ms: int, most: int) -> list[KeyRow]:
    """By name, the one that goes on first. `rotated`: another took its place, and it is taken still."""
    return [_row(row._mapping, now_ms) for row in SQL.run(connection, "list", {"at_most": most})]


@dataclass(frozen=True)
class KeysPage:
    """`next_after`: the name after which more come; None: there are none."""

    keys: list[KeyRow]
    next_after: str | None


def page_of_keys(connection: sa.Connection, now_ms: int, *, after: str = "", most: int = 100) -> KeysPage:
    """So many programs by their names: the key that goes on of each, and those that are taken beside it still."""
    values = {"after": after, "at_most": most + 1, "now_ms": now_ms}
    found = [_row(row._mapping, now_ms) for row in SQL.run(connection, "taken", values)]
    names = list(dict.fromkeys(one.name for one in found))
    shown = set(names[:most])
    return KeysPage([one for one in found if one.name in shown], names[most - 1] if len(names) > most else None)


def keys_named(connection: sa.Connection, name: str, now_ms: int) -> list[KeyRow]:
    """All there ever were of a name, the first one first."""
    return [_row(row._mapping, now_ms) for row in SQL.run(connection, "named", {"name": name})]


def _row(row: sa.RowMapping, now_ms: int) -> KeyRow:
    state: Literal["good", "rotated", "expired", "ended"] = "good" if row["rotated_ms"] is None else "rotated"
    if row["expires_ms"] is not None and row["expires_ms"] <= now_ms:
        state = "expired"
    if row["ended_ms"] is not None:
        state = "ended"
    more = {"scopes": row["scopes"].split(), "state": state, "maker_ended": bool(row.get("maker_ended"))}
    return KeyRow(**{**row, **more})
