"""The schema that `drawdown worker` needs: the engine's tables and those of the members, in a schema of its own.

Guarantee: making it and bringing it up to date is one transaction, safe to repeat. Each change is on record by name. A
schema that is newer than this program is refused untouched.
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
"""Our own tables, each step by the name of its statement."""
SQL = queries(__file__)


def require_engine() -> None:
    """Errors: UsageError where the extra is not installed."""
    if find_spec(ENGINE) is None:
        raise UsageError("the extra `cluster` is not installed. Run pip install 'drawdown[cluster]'")


def is_there(connection: sa.Connection) -> bool:
    """Return True if this database has the schema, and this login may read it."""
    return SQL.run(connection, "is_there").first() is not None


def there_part() -> Part:
    """The same, for `together`: a row where it is."""
    return SQL.part("is_there")


def install(engine: sa.Engine) -> bool:
    """Make the schema, or bring it up to date; whether anything was to be done.

    Errors: UsageError on SQLite or without the extra; DatabaseNotReady for one that is newer, or may not be made.
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
    """Errors: UsageError on SQLite."""
    if engine.dialect.name != "postgresql":
        raise UsageError(
            "`drawdown worker` needs PostgreSQL, which machines can share. With SQLite, run `drawdown run`"
        )


def require_direct(engine: sa.Engine) -> None:
    """Errors: DatabaseNotReady behind a pooler: what the engine's connections are told would hold for others'."""
    direct = read(engine, _is_direct)
    if not direct:
        raise DatabaseNotReady(
            "a worker cannot listen for jobs through a pooler. Set its database URL without the pooler"
        )


def _is_direct(connection: sa.Connection) -> bool:
    driver: Any = connection.connection.dbapi_connection
    return bool(SQL.run(connection, "answers").scalar() == driver.info.backend_pid)


def require_installed(engine: sa.Engine) -> None:
    """Errors: DatabaseNotReady unless the schema is exactly this program's."""
    done = read(engine, lambda connection: _find_applied(connection) if is_there(connection) else None)
    if done is None:
        raise DatabaseNotReady("the database lacks the schema for workers. Run `drawdown init --cluster`")
    _refuse_newer(done)
    if missing := [name for name in list_migrations() if name not in done]:
        raise DatabaseNotReady(f"the schema for workers lacks {missing[0]}. Run `drawdown init --cluster`")


def list_migrations() -> list[str]:
    """Every step, in its order: ours, then the engine's, which have the version that brought them in front."""
    names = (one.name for one in files(ENGINE).joinpath("sql/migrations").iterdir())
    return [*OWN, *sorted(name.removesuffix(".sql") for name in names if name.endswith(".sql"))]


def _find_applied(connection: sa.Connection) -> set[str]:
    return set(SQL.run(connection, "migrations").scalars())


def _refuse_newer(done: set[str]) -> None:
    if newer := sorted(done - set(list_migrations())):
        raise DatabaseNotReady(
            f"the schema for workers has {newer[-1]}, which this program does not know. Upgrade Drawdown"
        )


def _do(connection: sa.Connection, name: str, *, fresh: bool) -> None:
    """One step. A schema that is made again is the engine's newest at once, by its first step."""
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
    driver.execute(text)  # many statements as they stand: nothing is bound in them
