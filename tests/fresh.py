"""Databases of SQLite. Guarantee: each is empty and migrated, a copy of one that was migrated once in this process."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import sqlalchemy as sa

from drawdown.schema.database import connect
from drawdown.schema.migrate import upgrade


@cache
def _migrated() -> sa.Engine:
    made = connect("sqlite://")
    upgrade(made)
    return made


def fresh(path: Path | None = None) -> sa.Engine:
    """A database of its own, in this file or in memory."""
    made = connect("sqlite://" if path is None else f"sqlite:///{path}")
    source, target = _migrated().raw_connection(), made.raw_connection()
    source.driver_connection.backup(target.driver_connection)  # type: ignore[union-attr]
    source.close()
    target.close()
    return made
