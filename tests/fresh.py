"""Databases of SQLite. Guarantee: each is empty and migrated, a copy of one that was migrated once in this process."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import sqlalchemy as sa

from drawdown.schema.database import connect, write
from drawdown.schema.migrate import upgrade
from tests.simulation.shortcut import shorten


@cache
def _migrated() -> sa.Engine:
    made = connect("sqlite://")
    upgrade(made)
    return made


def fresh(path: Path | None = None) -> sa.Engine:
    """A database of its own, in this file or in memory. One in memory does a transaction after the other, and takes the
    simulation's short cut."""
    made = connect("sqlite://" if path is None else f"sqlite:///{path}")
    source, target = _migrated().raw_connection(), made.raw_connection()
    source.driver_connection.backup(target.driver_connection)  # type: ignore[union-attr]
    source.close()
    target.close()
    if path is None:
        shorten(made)
    else:
        write(made, name_anew)
    return made


def migrated(url: str) -> str:
    """The same URL, where a file of SQLite is migrated by now: `init` does the rest. Of PostgreSQL it does all."""
    database = sa.make_url(url)
    if database.get_backend_name() == "sqlite":
        fresh(Path(str(database.database))).dispose()
    return url


def name_anew(connection: sa.Connection) -> None:
    """A copy is a database of its own (R1), though a guard keeps names as they are: a host would else take one test's
    database for another's that was restored."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        connection.execute(sa.text("UPDATE incarnation SET database_id = replace(gen_random_uuid()::text, '-', '')"))
        return
    guards = connection.execute(
        sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'incarnation'")
    ).all()
    for guard in guards:
        connection.exec_driver_sql(f"DROP TRIGGER {guard.name}")
    connection.execute(sa.text("UPDATE incarnation SET database_id = lower(hex(randomblob(16)))"))
    for guard in guards:
        connection.exec_driver_sql(guard.sql)
