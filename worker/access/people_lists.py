"""People of the console, as others look at them: no password, no link. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class UserRow:
    """A person; times are milliseconds. `invited`: a link waits, and until when; `locked`: the link ran out unused.
    `sessions`: on how many browsers they are signed in."""

    name: str
    role: str
    grant_limit_micro: int | None
    state: Literal["good", "invited", "locked", "ended"]
    created_ms: int
    link_expires_ms: int | None
    signed_in_ms: int | None
    ended_ms: int | None
    sessions: int
    actor: str
    reason: str


def list_users(
    connection: sa.Connection, now_ms: int, most: int, *, after: str = "", ended: bool = False
) -> list[UserRow]:
    """By name, those who were ended last. `after`: behind this name, which was `ended` or not."""
    values = {"at_most": most, "after": after, "ended": int(ended)}
    return [_row(row._mapping, now_ms) for row in SQL.run(connection, "list", values)]


def user_named(connection: sa.Connection, name: str, now_ms: int) -> UserRow | None:
    """One person; None where there is none of this name."""
    row = SQL.run(connection, "named", {"name": name}).one_or_none()
    return None if row is None else _row(row._mapping, now_ms)


def is_demo(connection: sa.Connection) -> bool:
    """Whether all in this database was made up."""
    return SQL.run(connection, "is_demo").first() is not None


def _row(row: sa.RowMapping, now_ms: int) -> UserRow:
    found = dict(row)
    has_password = bool(found.pop("has_password"))
    state: Literal["good", "invited", "locked", "ended"] = "good" if has_password else "locked"
    if not has_password and found["link_expires_ms"] is not None and now_ms < found["link_expires_ms"]:
        state = "invited"
    return UserRow(**found, state="ended" if found["ended_ms"] is not None else state)
