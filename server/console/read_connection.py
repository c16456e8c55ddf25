"""Read the database for people, read-only and with a time limit.

Guarantee: pages do not change data, and each page returns its connection in time. The database itself ends a slow read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.schema.database import read
from drawdown.schema.errors import DatabaseBusy, DrawdownError

T = TypeVar("T")

_TOO_SLOW: Final = "the query takes longer than {:g} s. Narrow the filter, or try again"
_ENDED: Final = ("57014", "25P02")
"""SQLSTATEs of PostgreSQL: a cancelled statement, and its failed transaction."""
_SET_LIMIT: Final = "SET LOCAL statement_timeout = "
_LATE: Final = 0.9
"""Part of the time that is left when a statement is late."""


class TooSlow(DatabaseBusy):
    """Raised if the queries of a page take longer than the console allows."""

    code = "too_slow"


def look(engine: sa.Engine, work: Callable[[sa.Connection], T], within_s: float) -> T:
    """Run `work` in one read-only transaction with limited statements.

    `within_s`: the limit in seconds, as in `limited`. Errors: TooSlow; the errors of `schema.database.read`.
    """

    def bounded(connection: sa.Connection) -> T:
        with limited(connection, within_s), _read_only(connection):
            return work(connection)

    with in_words(within_s):
        return read(engine, bounded)


@contextmanager
def in_words(within_s: float) -> Iterator[None]:
    """Raise TooSlow in place of the database's error for a slow read.

    `limited` sets the time limit. Errors: TooSlow.
    """
    try:
        yield
    except (DBAPIError, DrawdownError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else getattr(error.__cause__, "orig", None)
        if getattr(cause, "sqlstate", None) in _ENDED or str(cause) == "interrupted":
            raise TooSlow(_TOO_SLOW.format(within_s)) from error
        raise


@contextmanager
def limited(connection: sa.Connection, within_s: float) -> Iterator[None]:
    """Limit the statements of this context to `within_s` seconds.

    After that time, this function refuses a new statement, and the database ends a running statement. PostgreSQL limits
    each statement alone, so a late statement gets the rest of the time. Errors: TooSlow; the database's errors that
    `in_words` replaces with TooSlow.
    """
    end = time.monotonic() + within_s
    driver: Any = connection.connection.dbapi_connection
    is_postgresql = connection.dialect.name == "postgresql"

    def in_time(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        left_s = end - time.monotonic()
        if left_s <= 0:
            raise TooSlow(_TOO_SLOW.format(within_s))
        # A page in time does not pay for a further statement. A failed transaction accepts only a rollback.
        is_late = left_s < _LATE * within_s and not statement.startswith(_SET_LIMIT)
        if is_postgresql and is_late and driver.info.transaction_status.name != "INERROR":
            set_limit(left_s)

    def set_limit(limit_s: float) -> None:
        connection.exec_driver_sql(f"{_SET_LIMIT}{max(1, int(limit_s * 1000))}")

    sa.event.listen(connection, "before_cursor_execute", in_time)
    try:
        if is_postgresql:
            set_limit(within_s)
            yield
        else:
            with _interrupted(connection, within_s):
                yield
    finally:
        sa.event.remove(connection, "before_cursor_execute", in_time)


@contextmanager
def _interrupted(connection: sa.Connection, within_s: float) -> Iterator[None]:
    driver: Any = connection.connection.dbapi_connection
    late = threading.Timer(within_s, driver.interrupt)
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()


@contextmanager
def _read_only(connection: sa.Connection) -> Iterator[None]:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        yield
        return
    driver: Any = connection.connection.dbapi_connection
    connection.exec_driver_sql("PRAGMA query_only = ON")
    try:
        yield
    finally:
        driver.execute("PRAGMA query_only = OFF")
