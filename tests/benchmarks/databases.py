"""The databases that the benchmarks run on: a PostgreSQL server and SQLite files of their own, in a temporary folder.

Guarantee: nothing outside that folder is touched, and it is gone afterwards.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from drawdown.schema.database import connect
from drawdown.schema.migrate import upgrade
from tests import leftovers
from tests.postgres_server import Server

KINDS = ("sqlite", "postgresql")


@dataclass
class Databases:
    """Makes databases in a folder; `server` is the PostgreSQL server's URL."""

    folder: Path
    server: str
    _engines: list[sa.Engine] = field(default_factory=list)

    def new(self, kind: str) -> sa.Engine:
        """An empty, migrated database."""
        engine = self.bare(kind)
        upgrade(engine)
        return engine

    def bare(self, kind: str) -> sa.Engine:
        """A database with nothing in it."""
        name = f"bench_{uuid.uuid4().hex[:12]}"
        if kind == "sqlite":
            engine = connect(f"sqlite:///{self.folder / name}.db")
        else:
            with _autocommit(self.server) as connection:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
            engine = connect(url_of(sa.make_url(self.server).set(database=name)))
        self._engines.append(engine)
        return engine

    def drop(self, engine: sa.Engine) -> None:
        """Make room: the big ones would fill a small disk together."""
        self._engines.remove(engine)
        engine.dispose()
        name = str(engine.url.database)
        if engine.dialect.name == "sqlite":
            for suffix in ("", "-wal", "-shm"):
                Path(name + suffix).unlink(missing_ok=True)
        else:
            with _autocommit(self.server) as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")

    def dispose(self) -> None:
        for engine in self._engines:
            engine.dispose()


def url_of(url: sa.URL) -> str:
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=False)


@contextmanager
def _autocommit(url: str) -> Iterator[sa.Connection]:
    parsed = sa.make_url(url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(parsed, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection


@contextmanager
def databases(kinds: Sequence[str] = KINDS) -> Iterator[Databases]:
    """A folder of databases, with a PostgreSQL server where one is asked for."""
    folder = leftovers.folder("drawdown-bench-")
    server = Server(durable=True) if "postgresql" in kinds else None
    try:
        made = Databases(folder, server.url if server is not None else "")
        yield made
        made.dispose()
    finally:
        if server is not None:
            server.close()
        shutil.rmtree(folder, ignore_errors=True)


def tidy(engine: sa.Engine) -> None:
    """Bring a database to rest, so that no timed work pays for what was done before it."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM (ANALYZE)")
            connection.exec_driver_sql("CHECKPOINT")
        return
    pooled = engine.raw_connection()  # not through the engine, which would begin a transaction
    try:
        pooled.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        pooled.close()


def indexes_of(engine: sa.Engine, table: str) -> str:
    """The primary key and indexes of a table, in words."""
    seen = sa.inspect(engine)
    key = seen.get_pk_constraint(table)["constrained_columns"]
    parts = [f"primary key ({', '.join(key)})"]
    for index in sorted(seen.get_indexes(table), key=lambda one: str(one["name"])):
        using = index.get("dialect_options", {}).get("postgresql_using", "")
        columns = ", ".join(str(name) for name in index["column_names"])
        partial = " partial" if any(key.endswith("_where") for key in index.get("dialect_options", {})) else ""
        parts.append(f"{index['name']}{partial} {using}({columns})")
    return f"{table}: {'; '.join(parts)}"
