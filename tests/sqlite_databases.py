"""Databases of SQLite. Guarantee: each is empty and migrated, a copy of `tests/template.py`."""

from __future__ import annotations

import secrets
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from drawdown.schema.database import connect
from tests import compiled, template
from tests.quick_sqlite import quicken
from tests.simulation.shortcut import shorten


def fresh(path: Path | None = None) -> sa.Engine:
    """A database of its own, in this file or in memory. One in memory does a transaction after the other, and takes the
    simulation's short cut."""
    if path is not None:
        path.write_bytes(named_anew(template.content()))
        return compiled.share(quicken(connect(f"sqlite:///{path}")))
    made = connect("sqlite://")
    target = made.raw_connection()
    restore(template.content(), target.driver_connection)  # type: ignore[arg-type]
    target.close()
    shorten(made)
    return made


def named_anew(content: bytes) -> bytes:
    """Give the content of a SQLite file a new database id (R1), or a host would take two copies for one database.

    The id is replaced in the bytes. In SQL a guard forbids it, and to drop the guard takes four times as long.
    """
    name = _name_in(content)
    assert name in content
    return content.replace(name, secrets.token_hex(len(name) // 2).encode())


def restore(content: bytes, target: sqlite3.Connection) -> None:
    """Have a database be this content."""
    with _in_memory(content) as source:
        source.backup(target)


def _in_memory(content: bytes) -> closing[sqlite3.Connection]:
    made = sqlite3.connect(":memory:")
    made.deserialize(content[:18] + b"\1\1" + content[20:])  # in memory there is no write-ahead log
    return closing(made)


@cache
def _name_in(content: bytes) -> bytes:
    with _in_memory(content) as read:
        return str(read.execute("SELECT database_id FROM incarnation").fetchone()[0]).encode()


def migrated(url: str) -> str:
    """The same URL, where a file of SQLite is migrated by now: `init` does the rest. Of PostgreSQL it does all."""
    database = sa.make_url(url)
    if database.get_backend_name() == "sqlite":
        fresh(Path(str(database.database))).dispose()
    return url


def name_anew(connection: sa.Connection) -> None:
    """Give a copy on PostgreSQL a new database id, past the guard that forbids it."""
    connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
    connection.execute(sa.text("UPDATE incarnation SET database_id = replace(gen_random_uuid()::text, '-', '')"))
