"""Create and upgrade the schema of `drawdown worker`.

The schema has the tables of the job engine and of the workers.

Guarantee: an installation or upgrade is one transaction, and safe to repeat. The schema records each step by name. If
the schema is newer than this program, the installation fails without a change.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.database import clear_errors, read
from drawdown.schema.errors import DatabaseNotReady, UsageError
from drawdown.schema.migrate import ONE_UPGRADE
from drawdown.schema.sql import Part, queries

SCHEMA: Final = "drawdown_cluster"
ENGINE: Final = "procrastinate"
OWN: Final = ("own_1",)
"""The steps for Drawdown's own tables, by the names of their statements."""
SQL = queries(__file__)


def require_engine() -> None:
    """Check that the extra `cluster` is installed. Errors: UsageError."""
    if find_spec(ENGINE) is None:
        raise UsageError("the extra `cluster` is not installed. Run pip install 'drawdown[cluster]'")


def is_there(connection: sa.Connection) -> bool:
    """Return True if the database has the schema and this login may read it."""
    return SQL.run(connection, "is_there").first() is not None


def there_part() -> Part:
    """Return the query of `is_there`, to run with other queries.

    It returns a row if the schema exists.
    """
    return SQL.part("is_there")


def install(engine: sa.Engine) -> bool:
    """Create or upgrade the schema; return True if it changed.

    Errors: UsageError on SQLite or without the extra; DatabaseNotReady if the schema is newer, or this login may not
    create it.
    """
    require_postgresql(engine)
    require_engine()
    with clear_errors(engine), engine.begin() as connection:
        SQL.run(connection, "one_at_a_time", {"key": ONE_UPGRADE})
        SQL.run(connection, "make_schema")
        done = _find_applied(connection)
        _refuse_newer(done)
        left = [name for name in list_migrations() if name not in done]
        for name in left:
            _do(connection, name, fresh=not done)
        if left:
            SQL.run(connection, "note_migrations", {"names": [{"name": name} for name in left]})
    return bool(left)


def require_postgresql(engine: sa.Engine) -> None:
    """Refuse a database other than PostgreSQL. Errors: UsageError."""
    if engine.dialect.name != "postgresql":
        raise UsageError(
            "`drawdown worker` needs PostgreSQL, which machines can share. With SQLite, run `drawdown run`"
        )


def require_direct(engine: sa.Engine) -> None:
    """Refuse a connection through a pooler. Errors: DatabaseNotReady.

    Behind a pooler, the settings of the engine's connections would affect other clients.
    """
    direct = read(engine, _is_direct)
    if not direct:
        raise DatabaseNotReady(
            "a worker cannot listen for jobs through a pooler. Set a database URL without the pooler"
        )


def _is_direct(connection: sa.Connection) -> bool:
    driver: Any = connection.connection.dbapi_connection
    return bool(SQL.run(connection, "answers").scalar() == driver.info.backend_pid)


def require_installed(engine: sa.Engine) -> None:
    """Require that the schema has exactly this program's version.

    Errors: DatabaseNotReady.
    """
    done = read(engine, lambda connection: _find_applied(connection) if is_there(connection) else None)
    if done is None:
        raise DatabaseNotReady("the database lacks the schema for workers. Run `drawdown init --cluster`")
    _refuse_newer(done)
    if missing := [name for name in list_migrations() if name not in done]:
        raise DatabaseNotReady(
            f"the schema for workers lacks the migration {missing[0]}. Run `drawdown init --cluster`"
        )


def list_migrations() -> list[str]:
    """Return the names of all steps in order: Drawdown's own steps, then the engine's.

    The name of an engine's step begins with the version of the engine.
    """
    names = (one.name for one in files(ENGINE).joinpath("sql/migrations").iterdir())
    return [*OWN, *sorted(name.removesuffix(".sql") for name in names if name.endswith(".sql"))]


def _find_applied(connection: sa.Connection) -> set[str]:
    return set(SQL.run(connection, "migrations").scalars())


def _refuse_newer(done: set[str]) -> None:
    if newer := sorted(done - set(list_migrations())):
        raise DatabaseNotReady(
            f"the schema for workers has the migration {newer[-1]}, which this program does not know. Upgrade Drawdown"
        )


def _do(connection: sa.Connection, name: str, *, fresh: bool) -> None:
    """Run one step.

    In a new schema, the engine's first step creates its newest tables, and its other steps do not run.
    """
    if name in OWN:
        SQL.run(connection, name)
        return
    sql = files(ENGINE).joinpath("sql")
    text = sql.joinpath("migrations", f"{name}.sql").read_text(encoding="utf-8")
    if fresh:
        if name != list_migrations()[len(OWN)]:
            return
        text = sql.joinpath("schema.sql").read_text(encoding="utf-8")
    SQL.run(connection, "go_there")
    driver: Any = connection.connection.dbapi_connection
    driver.execute(text)  # several statements without parameters
