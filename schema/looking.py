"""Reads for people who look: read-only, for so long and no longer.

Guarantee: whatever a page asks, it changes nothing, and gives its connection back in time: a slow one is ended by the
database itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.schema.database import read
from drawdown.schema.errors import DatabaseBusy, DrawdownError

T = TypeVar("T")

_ENDED: Final = ("57014", "25P02")
"""PostgreSQL's for a statement that took too long, and for what follows it."""


class TooSlow(DatabaseBusy):
    """What was asked takes longer than whoever looks may take."""

    code = "too_slow"


def look(engine: sa.Engine, work: Callable[[sa.Connection], T], within_s: float) -> T:
    """Run `work` in one read-only transaction of at most so many seconds.

    Errors: TooSlow; else as `schema.database.read`.
    """

    def bounded(connection: sa.Connection) -> T:
        limit = _on_postgresql if connection.dialect.name == "postgresql" else _on_sqlite
        with limit(connection, within_s):
            return work(connection)

    try:
        return read(engine, bounded)
    except (DBAPIError, DrawdownError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else getattr(error.__cause__, "orig", None)
        if getattr(cause, "sqlstate", None) in _ENDED or str(cause) == "interrupted":
            raise TooSlow(f"this takes longer than {within_s:g} s: choose less, or try again") from error
        raise


@contextmanager
def _on_postgresql(connection: sa.Connection, within_s: float) -> Iterator[None]:
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(within_s * 1000)}")
    connection.exec_driver_sql("SET TRANSACTION READ ONLY")
    yield


@contextmanager
def _on_sqlite(connection: sa.Connection, within_s: float) -> Iterator[None]:
    driver: Any = connection.connection.dbapi_connection
    connection.exec_driver_sql("PRAGMA query_only = ON")
    late = threading.Timer(within_s, driver.interrupt)
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()
        driver.execute("PRAGMA query_only = OFF")
