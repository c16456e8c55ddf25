"""Connections, transactions and drivers' errors on SQLite and PostgreSQL.

Guarantee: a write transaction on SQLite takes its lock at its start (`BEGIN IMMEDIATE`), because deferred transactions
failed 756 times for 301 commits. On PostgreSQL it is READ COMMITTED, with rule S1's lock. A commit is durable before
the call returns (P1). A driver's error about a conflict to retry or an unusable database becomes one clear line. Any
other error of a statement keeps only the first line of the database's message, without the statement's values.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.schema.errors import (
    AnswerLost,
    DatabaseBusy,
    DatabaseNotReady,
    DrawdownError,
    LockHeld,
    StorageFull,
    UsageError,
)

T = TypeVar("T")

# Hide the driver's warning about a lost connection, because `explain` already returns one clear line.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

NAMED_BY: Final = "DRAWDOWN_DATABASE_URL, or --database-url,"
FORMS: Final = "sqlite:///FILE or postgresql://USER@HOST/NAME"
SQLITE_BUSY_S: Final = 60
"""Seconds to wait for a SQLite lock."""
LOCK_TIMEOUT_S: Final = 60
"""Seconds to wait for a PostgreSQL lock."""
CONNECT_S: Final = 10
"""Seconds to wait for a connection to PostgreSQL."""
SILENT_S: Final = 30
"""Seconds for which PostgreSQL may leave sent data unacknowledged. After this time, the connection counts as lost."""
IDLE_BEFORE_PROBE_S: Final = 30
"""Seconds without data from PostgreSQL before Drawdown probes its host.

A network can drop a connection silently.
"""
PROBE_INTERVAL_S: Final = 10
"""Seconds between two probes of PostgreSQL's host."""
MAX_PROBES: Final = 3
"""Unanswered probes after which Drawdown closes a connection to PostgreSQL."""
PG_WAITS: Final = {
    "connect_timeout": CONNECT_S,
    "tcp_user_timeout": SILENT_S * 1_000,
    "keepalives_idle": IDLE_BEFORE_PROBE_S,
    "keepalives_interval": PROBE_INTERVAL_S,
    "keepalives_count": MAX_PROBES,
}
"""The parameters of a connection to PostgreSQL.

Without them, a wait for a lost host takes two hours.
"""
SQLITE_PREPARED: Final = 1_000
"""Prepared statements of a connection. A tick and the next `verify` need fewer."""
SQLITE_CACHE_KIB: Final = 32 * 1024
"""KiB of the database file that a connection to SQLite caches.

A tick reads little more. Twice the size did not make a tick faster.
"""
MAX_OVERFLOW: Final = 15
"""Connections that a process may open beyond its pool of five.

A server then has more connections than threads that need them.
"""
# Set for each transaction and never for a connection, so that a transaction pooler can be in front.
PG_SETTINGS: Final = (
    "synchronous_commit=on",  # P1: a commit is durable
    f"lock_timeout={LOCK_TIMEOUT_S}s",
    "idle_in_transaction_session_timeout=30s",  # a suspended or disconnected worker loses its locks
    "timezone=UTC",
    "work_mem=64MB",  # the seal groups by hash, and would spill to disk with the default
    "jit=off",  # JIT would spend 1.5 s to compile a statement that runs for 20 ms
)


class Transact(Protocol):
    """A function that runs work in a transaction and commits it.

    With `rollback=True`, it rolls the transaction back.
    """

    def __call__(self, work: Callable[[sa.Connection], T], /, *, rollback: bool = False) -> T: ...


def connect(url: str, latest: Callable[[], str] | None = None) -> sa.Engine:
    """Return an engine for `sqlite:///FILE` or `postgresql://…`.

    It does not connect yet.

    `latest`: a function that returns the present URL. Each new connection logs in with the user and password of that
    URL. Errors: UsageError for any other kind of URL.
    """
    try:
        engine = _engine(url_of(url))
        if latest is not None and engine.dialect.name == "postgresql":
            sa.event.listen(engine, "do_connect", lambda *given: given[-1].update(_login(latest())))
        return engine
    except (sa.exc.ArgumentError, ValueError) as error:
        raise UsageError(f"{NAMED_BY} is not a URL: expected {FORMS}") from error


def url_of(text: str) -> sa.URL:
    """Return a text as SQLAlchemy's URL.

    `postgres://`, which several hosts use, becomes `postgresql://`.

    Errors: sa.exc.ArgumentError, ValueError.
    """
    found = sa.make_url(text)
    return found.set(drivername="postgresql") if found.drivername == "postgres" else found


def _engine(parsed: sa.URL) -> sa.Engine:
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _sqlite(parsed)
    if backend == "postgresql":
        engine = sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            max_overflow=MAX_OVERFLOW,
            hide_parameters=True,
            connect_args=dict(PG_WAITS),
        )
        settings = [setting.partition("=") for setting in PG_SETTINGS]
        text = "; ".join(f"SET LOCAL {name} = '{value}'" for name, _, value in settings)
        sa.event.listen(engine, "begin", lambda connection: _begin_with(connection, text))
        sa.event.listen(engine, "connect", _never_prepare_temp_names)
        sa.event.listen(engine, "handle_error", _say_no_values)
        return engine
    raise UsageError(f"{NAMED_BY} names a {backend} database: expected {FORMS}")


def _login(url: str) -> dict[str, str]:
    found = sa.make_url(url)
    named = {"user": found.username, "password": found.password}
    return {name: str(text) for name, text in named.items() if text}


def _begin_with(connection: sa.Connection, settings: str) -> None:
    """Begin each transaction with its settings, in the transaction itself.

    If the connection or its engine has the option `lock_wait_ms`, this is the longest wait for each lock.

    A pooler refuses settings at the start of a connection, or drops them silently (pgbouncer's
    `ignore_startup_parameters`). Then P1 would not hold. BEGIN and the settings take one round trip. The driver's
    autocommit mode prevents its own BEGIN, which would take another round trip. Errors: DatabaseNotReady if no
    transaction began, because the settings then do not hold.
    """
    options = connection.get_execution_options()
    level = options.get("isolation_level", "READ COMMITTED")
    if level == "AUTOCOMMIT":
        return
    if "lock_wait_ms" in options:
        settings = f"{settings}; SET LOCAL lock_timeout = {int(options['lock_wait_ms'])}"
    driver: Any = connection.connection.dbapi_connection
    driver.autocommit = True
    connection.exec_driver_sql(f"BEGIN ISOLATION LEVEL {level}; {settings}")
    if driver.info.transaction_status.name != "INTRANS":
        raise DatabaseNotReady(
            "the database did not begin a transaction. If a pooler is in front of it, set the pooler to pool "
            "transactions"
        )


def _never_prepare_temp_names(connection: Any, _record: object) -> None:
    # Each seal makes a new temporary work table. A plan that was prepared for the old table would be wrong.
    connection.prepare_threshold = None


def _say_no_values(context: sa.engine.ExceptionContext) -> None:
    """Remove a statement's values from its error.

    Errors appear in reports, logs and responses, which must not have these values.

    The error keeps the first line of the database's message. The statement, its values, and details that repeat a row
    are removed.
    """
    error, original = context.sqlalchemy_exception, context.original_exception
    state = getattr(original, "sqlstate", None)
    if error is None or (state is None and not isinstance(original, sqlite3.Error)):
        return  # not an error of a statement, such as a failed connection
    first = str(original).partition("\n")[0]
    if (state or "").startswith("22"):  # invalid data, which the first line would quote
        first = f"bad data ({state})"
    original.args = (first,)
    error.statement = None
    error.args = (f"({type(original).__module__}.{type(original).__qualname__}) {first}",)


def _sqlite(url: sa.URL) -> sa.Engine:
    memory = url.database in (None, "", ":memory:")
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        connect_args={"cached_statements": SQLITE_PREPARED},
        **({"poolclass": sa.StaticPool} if memory else {"max_overflow": MAX_OVERFLOW}),
    )
    sa.event.listen(engine, "handle_error", _say_no_values)

    @sa.event.listens_for(engine, "connect")
    def _setup(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # Drawdown sends BEGIN itself
        connection.text_factory = _LENIENT  # SQLite stores any bytes as text, which must not stop a tick (S8)
        for pragma in (
            f"busy_timeout = {SQLITE_BUSY_S * 1000}",
            "synchronous = FULL",
            f"cache_size = -{SQLITE_CACHE_KIB}",
            "foreign_keys = ON",
            "recursive_triggers = ON",  # otherwise `INSERT OR REPLACE` would delete a row without its guard
        ):
            connection.execute(f"PRAGMA {pragma}")
        if not memory and os.access(Path(str(url.database)).resolve().parent, os.W_OK):
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if "readonly" not in str(error) and "locked" not in str(error):
                    raise

    if not memory:
        _follow_the_file(engine, Path(str(url.database)))
        _read_a_copy(engine, Path(str(url.database)))

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN DEFERRED" if reading else "BEGIN IMMEDIATE")

    return engine


def _read_a_copy(engine: sa.Engine, file: Path) -> None:
    """Open a read-only copy as an immutable file.

    The function applies if this user can write neither the file nor its folder. SQLite would otherwise have to write a
    log beside it.
    """

    @sa.event.listens_for(engine, "do_connect")
    def _as_it_is(_dialect: object, _record: object, arguments: list[Any], named: dict[str, Any]) -> None:
        whole = file.resolve()
        beside = any(whole.with_name(whole.name + end).exists() for end in ("-wal", "-shm"))
        if whole.exists() and not beside and not os.access(whole, os.W_OK) and not os.access(whole.parent, os.W_OK):
            arguments[0] = f"file:{quote(str(whole))}?immutable=1"
            named["uri"] = True


def _follow_the_file(engine: sa.Engine, file: Path) -> None:
    """Drop a connection if another file has the name of its database.

    The other file may be a restored backup. So a process that runs for days sees the same file as other processes.
    """

    def identity() -> tuple[int, int] | None:
        try:
            found = file.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    @sa.event.listens_for(engine, "connect")
    def _note(_connection: object, record: Any) -> None:
        record.info["file"] = identity()

    @sa.event.listens_for(engine, "checkout")
    def _compare(_connection: object, record: Any, _proxy: object) -> None:
        if record.info["file"] != identity():
            raise sa.exc.DisconnectionError("another file now has the name of the database file")


_LENIENT: Final = partial(str, encoding="utf-8", errors="replace")  # C code, because it is called for each text


def sqlite_file(engine: sa.Engine) -> Path | None:
    """Return the file of a SQLite engine.

    Return None for PostgreSQL and for a database in memory.
    """
    name = engine.url.database
    return Path(name) if engine.dialect.name == "sqlite" and name not in (None, "", ":memory:") else None


def _require_file(engine: sa.Engine) -> None:
    """Check that a SQLite file exists.

    SQLite would create a missing file, which only `init` may. Errors: DatabaseNotReady.
    """
    file = sqlite_file(engine)
    if file is not None and not file.exists():
        raise DatabaseNotReady(
            f"the database {file.resolve()} does not exist. {ANOTHER}. Otherwise run `drawdown init`"
        )


def write(engine: sa.Engine, work: Callable[[sa.Connection], T], *, rollback: bool = False) -> T:
    """Run `work` in one write transaction and commit it.

    With `rollback`, roll the transaction back (a dry run). Deadlocks and serialisation failures provably did not
    commit, so the function tries up to CONFLICT_TRIES times.

    Errors: AnswerLost if it is unknown whether the transaction committed. DatabaseBusy and DatabaseNotReady if it did
    not commit. Any error of `work`.
    """
    _require_file(engine)

    def once() -> T:
        with engine.connect() as connection, connection.begin() as transaction:
            result = work(connection)
            if rollback:
                transaction.rollback()
            else:
                _commit(transaction)
            return result

    with clear_errors(engine):
        for left in range(CONFLICT_TRIES - 1, -1, -1):
            try:
                return once()
            except Exception as error:
                if not left or not is_conflict(error):
                    raise
    raise AssertionError("the last try returns or raises")


def _commit(transaction: sa.RootTransaction) -> None:
    try:
        transaction.commit()
    except DBAPIError as error:
        if not _is_unanswered(error):
            raise
        said = re.sub(r"\s+", " ", str(error.orig)).strip()
        raise AnswerLost(said) from error


def _is_unanswered(error: DBAPIError) -> bool:
    """Return True if it is unknown whether a transaction was committed.

    This is the case if the result never came, or came from a server that was shutting down. If SQLite reports a failed
    commit, or PostgreSQL refuses the commit, the transaction was not committed.
    """
    if isinstance(error.orig, sqlite3.Error):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state[:2] in ("08", "57") or state == "40003"


def read(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    """Run `work` in one read transaction.

    All statements of `work` read the database at one moment. On SQLite, this function does not wait for a writer.
    Errors: DatabaseBusy, DatabaseNotReady, and any error of `work`.
    """
    _require_file(engine)
    one_moment = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    options = {"reading": True, **one_moment}
    with clear_errors(engine), engine.connect().execution_options(**options) as connection, connection.begin():
        return work(connection)


@contextmanager
def waiting_at_most(connection: sa.Connection, ms: int) -> Iterator[None]:
    """Limit the wait for locks in a part of a transaction to `ms` milliseconds.

    After the limit, only this part is rolled back. On SQLite this function does not limit a wait, because SQLite has
    one writer. Errors: LockHeld, after which the transaction can continue.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(ms)}")
            yield
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
    except DBAPIError as error:
        meaning = explain(error)
        if not isinstance(meaning, LockHeld):
            raise  # after a deadlock, the whole transaction must be retried
        raise meaning from error


@contextmanager
def clear_errors(engine: sa.Engine) -> Iterator[None]:
    """Turn a driver's error about the database into one clear DrawdownError.

    A DatabaseNotReady also has the place of the database (`where`).
    """
    try:
        yield
    except (DBAPIError, DatabaseNotReady) as error:
        meaning = explain(error)
        if isinstance(meaning, DatabaseNotReady):
            meaning.where = place_of(engine.url)
        if meaning is None or meaning is error:
            raise
        raise meaning from error


CONFLICT_TRIES: Final = 5
"""Most attempts of a transaction that conflicts with another transaction."""


_CONFLICTS: Final = frozenset({"40001", "40P01"})


LOCK_NOT_AVAILABLE: Final = "55P03"


DISK_FULL: Final = "53100"
FULL: Final = "the disk of the database is full, and uncommitted changes are lost. Free some space, then try again"


ANOTHER: Final = "If you mean another database, set DRAWDOWN_DATABASE_URL"


NOT_READY: Final = {
    "3D000": f"the database does not exist. {ANOTHER}. Otherwise create the database, then run `drawdown init`",
    "42P01": f"the database does not have Drawdown tables. {ANOTHER}. Otherwise run `drawdown init`",
    "42703": "the database is of another version. Run `drawdown init` to upgrade it",
    "25006": "the database is read-only. Connect to the primary, or grant write access",
    "42501": "the database refuses this user. Grant the user access to the tables",
    "28P01": "the database refuses the password. Check DRAWDOWN_DATABASE_URL",
    "28000": "the database refuses this user. Check DRAWDOWN_DATABASE_URL",
}


UNSTORABLE: Final = (DBAPIError, ValueError, OverflowError)
"""Errors that the values of one row can cause.

The database rejects such values, or the driver cannot send them.
"""


def explain(error: Exception) -> DrawdownError | None:
    """Return a driver's error as a message for a person.

    Return None if it is not about the database.
    """
    if isinstance(error, DrawdownError):
        return error
    if not isinstance(error, DBAPIError):
        return None
    original = error.orig
    text = re.sub(r"\s+", " ", str(original)).strip()
    if isinstance(original, sqlite3.Error):
        return _explain_sqlite(text)
    state = getattr(original, "sqlstate", None)
    if state == DISK_FULL:
        return StorageFull(f"{FULL} ({text})")
    if state in NOT_READY:
        return DatabaseNotReady(NOT_READY[state])
    if state is None and "does not exist" in text and "database" in text:
        return DatabaseNotReady(NOT_READY["3D000"])
    if state is None and ("authentication failed" in text or "no password supplied" in text):
        return DatabaseNotReady(NOT_READY["28P01"])
    if state is None and "role" in text and "does not exist" in text:
        return DatabaseNotReady(NOT_READY["28000"])
    if state == LOCK_NOT_AVAILABLE:
        return LockHeld(f"another program locks these rows, so nothing was changed. Try again ({text})")
    lost = error.connection_invalidated or (state is None and isinstance(error, sa.exc.OperationalError))
    if lost or (state or "")[:2] in ("08", "53", "57") or state in _CONFLICTS:
        return DatabaseBusy(
            f"the database does not answer or is busy, and uncommitted changes are lost. Try again ({text})"
        )
    return None


def _explain_sqlite(text: str) -> DrawdownError | None:
    if "locked" in text or "busy" in text:
        return DatabaseBusy("another program locks the database, so nothing was changed. Try again")
    if "readonly" in text:
        return DatabaseNotReady("the database is read-only. Make the file and its folder writable")
    if "no such table" in text or "no such column" in text:
        return DatabaseNotReady(
            f"the database does not have Drawdown tables of this version. {ANOTHER}. Otherwise run `drawdown init`"
        )
    if "unable to open" in text:
        return DatabaseNotReady("the database file cannot be opened. Check the path and its permissions")
    if "not a database" in text or "malformed" in text:
        return DatabaseNotReady(
            f"the file is not a valid SQLite database. {ANOTHER}. Otherwise restore the file from a backup"
        )
    if "is full" in text:
        return StorageFull(f"{FULL} ({text})")
    if "disk" in text:
        return DatabaseBusy(f"Drawdown cannot write the database: {text}. Check the disk, then try again")
    return None


def is_conflict(error: BaseException) -> bool:
    """Return True if PostgreSQL proved that the transaction did not commit.

    Then it can be retried.
    """
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _CONFLICTS


def place_of(url: sa.URL) -> str:
    """Return the place of a database without secrets.

    The place is a file's absolute path, or a server and a name.
    """
    if url.get_backend_name() == "sqlite":
        return str(Path(url.database).resolve()) if url.database not in (None, "", ":memory:") else "in memory"
    host = url.host or url.query.get("host")
    where = sa.URL.create("postgresql", host=host if isinstance(host, str) else None, port=url.port)
    return where.set(database=url.database).render_as_string()
