"""Query another database as a source of usage.

The result of the query for one closed period is a file.

Guarantee: a period is read by one statement, in one read-only transaction, on one snapshot. The same rows in any order
make the same file. Drawdown reads at most MAX_RESULT_ROWS rows, in portions. If the database fails, the error is
temporary (`NotNow`). If a value has an invalid type, the content is refused (`Refused`).

You must ensure that rows of a closed period no longer change. Drawdown reads each period twice, `ASKED_AGAIN_MS` apart,
or once if the first read is later than that. If rows came late, the second read has different content with the same
name, which is a conflict.
"""

from __future__ import annotations

import csv
import io
import os
import socket
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final
from urllib.parse import quote

import sqlalchemy as sa

from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.text import clean
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS
from drawdown.worker.batches.duck import READING_TIME_S, explained, shut_in, text
from drawdown.worker.batches.file_sums import FILE_FIELDS
from drawdown.worker.batches.files import FoundFile, NotNow, Unreadable, found_file
from drawdown.worker.engine.stores import Databases

SCHEME: Final = "query:"
PERIODS_MS: Final = {"hour": 60 * MINUTE_MS, "day": DAY_MS}
ASKED_AGAIN_MS: Final = DAY_MS
"""Milliseconds from the first query of a period to the second.

The second query finds late rows.
"""
MAX_CLOSES_AFTER_MS: Final = 35 * DAY_MS
"""Longest delay after a period before Drawdown queries it, in milliseconds."""
MAX_QUERY_CHARS: Final = 20_000
"""Most characters of a source's query."""
MAX_RESULT_ROWS: Final = 5_000_000
"""Most rows that a query may return for one period."""
MAX_RESULT_BYTES: Final = 2 * 1024**3
"""Bytes of CSV that a query returns for one period.

The spill folder has two copies: as received, and sorted.
"""
ROWS_AT_ONCE: Final = 1_000
"""Rows of a query's result that Drawdown holds in memory at a time."""
DATABASE_CONNECT_S: Final = 5
"""Longest wait for a connection to a queried database, in seconds."""
DATABASE_SILENT_S: Final = 30
"""Most seconds without an acknowledgement from a queried database.

Afterwards Drawdown closes the connection.
"""
END_EVERY_S: Final = 0.1
"""Interval between two tries to end a statement that is out of time, in seconds."""
MAX_SAID_CHARS: Final = 300
"""Characters of a queried database's error message that Drawdown stores."""
_READ: Final = (*FILE_FIELDS, "id", "event_id")
_TEXTS: Final = ("org_id", "event_type")
_NUMBERS: Final = ("ts", "memory_mb", "interval_s", "quantity")
_BOUND: Final = ("from_ms", "until_ms")
_KINDS: Final = ("postgresql", "sqlite")


@dataclass(frozen=True)
class Question:
    """A query, the name of its database in the settings, and its periods.

    `period_ms`: the length of a period. `closes_after_ms`: the delay after the end of a period before Drawdown queries
    it.
    """

    query: str
    database: str
    period_ms: int
    closes_after_ms: int


def is_asked(place: str) -> bool:
    return place.startswith(SCHEME)


def require_question(question: Question) -> None:
    """Refuse an invalid query or a delay that is too long.

    A query is invalid if it is too long or lacks the two ends of a period. Errors: UsageError.
    """
    if len(question.query) > MAX_QUERY_CHARS:
        raise UsageError(
            f"invalid query of {len(question.query):,} characters: expected at most {MAX_QUERY_CHARS:,} characters"
        )
    if question.closes_after_ms > MAX_CLOSES_AFTER_MS:
        raise UsageError(
            f"invalid --closed-after {question.closes_after_ms // SECOND_MS:,} s: expected at most "
            f"{MAX_CLOSES_AFTER_MS // DAY_MS} days"
        )
    names = sorted(sa.text(question.query).compile().params)
    if names != sorted(_BOUND):
        raise UsageError(
            f"invalid query: expected the parameters :from_ms and :until_ms, found {names or 'none'}. "
            "Write any other colon as \\:"
        )


def period_name(start_ms: int, period_ms: int) -> str:
    return datetime.fromtimestamp(start_ms / 1000, UTC).strftime("%Y-%m-%d" if period_ms == DAY_MS else "%Y-%m-%dT%H")


def closed_periods(
    source: str, question: Question, first_ms: int, now_ms: int, most: int
) -> list[tuple[int, bool, FoundFile]]:
    """Return up to `most` closed periods from `first_ms` on.

    Each tuple has the start of a period, True if its second and last read is due, and its file.
    """
    length, found = question.period_ms, []
    for start_ms in range(first_ms, now_ms - length - question.closes_after_ms + 1, length)[:most]:
        asked_ms = start_ms + length + question.closes_after_ms
        again = now_ms >= asked_ms + ASKED_AGAIN_MS
        name = period_name(start_ms, length)
        modified_ns = (asked_ms + again * ASKED_AGAIN_MS) * 1_000_000
        file = FoundFile(Path(name), name, "csv", None, 0, modified_ns, at=f"{SCHEME}{source}/{name}")
        found.append((start_ms, again, file))
    return found


def brought(databases: Databases, question: Question, start_ms: int, file: FoundFile) -> FoundFile:
    """Return the file of a period. The query runs when the file is read."""
    bounds = {"from_ms": start_ms, "until_ms": start_ms + question.period_ms}
    return file.brought_by(partial(_bring, databases, question, bounds, file))


def reach(databases: Databases, question: Question) -> None:
    """Check that the database can be reached.

    Errors: Unreadable if its setting is missing or invalid. NotNow if it cannot be reached.
    """
    with _explained(question.database, Event()), _connected(databases, question.database, Event()):
        pass


def _bring(
    databases: Databases, question: Question, bounds: dict[str, int], file: FoundFile, folder: Path, over: Event
) -> FoundFile:
    """Run the query for a period.

    Return its sorted rows as a file. Errors: Refused, NotNow, Unreadable; OSError.
    """
    raw, path = folder / "asked.csv", folder / "ordered.csv"
    with (
        _explained(question.database, over),
        _connected(databases, question.database, over) as connection,
        closing(_said_of(connection, question.query, bounds)) as result,  # an open result keeps SQLite locked
    ):
        names, rows = _select_columns(result)
        _write(raw, file.name, names, (_format_row(names, row) for row in rows))
    _put_in_order(raw, path, names, folder, over, file.name)
    raw.unlink()
    return replace(found_file(path), name=file.name, at=file.at)


def _said_of(connection: sa.Connection, query: str, bounds: dict[str, int]) -> sa.CursorResult[Any]:
    typed = [sa.bindparam(name, value, type_=sa.BigInteger) for name, value in bounds.items()]
    streamed = connection.execution_options(stream_results=True, max_row_buffer=ROWS_AT_ONCE)
    return streamed.execute(sa.text(query).bindparams(*typed))


def _select_columns(result: sa.CursorResult[Any]) -> tuple[Sequence[str], Iterator[Sequence[Any]]]:
    """Return the columns that Drawdown reads, and the rows with only these columns.

    Errors: Refused.
    """
    if not result.returns_rows:
        raise Refused("the query cannot return rows. Use SELECT")
    wanted = [number for number, name in enumerate(result.keys()) if name in _READ]
    names = [list(result.keys())[number] for number in wanted]
    return names, ([row[number] for number in wanted] for some in result.partitions(ROWS_AT_ONCE) for row in some)


def _format_row(names: Sequence[str], row: Sequence[Any]) -> list[str]:
    return [_text_of(name, value) for name, value in zip(names, row, strict=True)]


def _text_of(name: str, value: object) -> str:
    """Return a value as CSV text. Different values have different texts.

    Errors: Refused for an invalid type of the column.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and name not in _TEXTS and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float | Decimal) and name not in _TEXTS:
        exact = Decimal(value)
        whole = exact.is_finite() and abs(exact) < 10**18 and exact == int(exact)
        return str(int(exact) if whole else value)
    if isinstance(value, date) and name == "ts":  # a datetime is also a date; without a zone, it is in UTC
        return value.isoformat()
    wanted = "a number" if name in _NUMBERS else "text"
    raise Refused(f"{name} has the type {type(value).__name__}, not {wanted}. Cast it in the query")


SMALLER: Final = (
    "Export this period to several smaller files, and take each with `drawdown batch take`. If later periods are too "
    "large, too, pause this source, and add sources with smaller results from the end of the last period that was taken"
)


def _write(path: Path, said: str, names: Sequence[str], rows: Iterable[Sequence[str | None]]) -> None:
    """Write rows as CSV.

    Errors: Refused for more rows or bytes than the bounds; OSError.
    """
    count, left = 0, MAX_RESULT_BYTES
    with path.open("wb") as file:
        line = io.StringIO()
        writer = csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_ALL)  # an unquoted \r would end a row
        writer.writerow(names)
        for row in rows:
            writer.writerow(row)
            count += 1
            if count > MAX_RESULT_ROWS:
                raise Refused(f"{said}: the query returned more than {MAX_RESULT_ROWS:,} rows. {SMALLER}")
            if line.tell() >= 65_536:
                left -= file.write(_drain(line))
            if left < 0:
                raise Refused(f"{said}: the query returned more than {MAX_RESULT_BYTES:,} bytes. {SMALLER}")
        file.write(_drain(line))


def _drain(line: io.StringIO) -> bytes:
    """Return the written text as bytes, and empty the buffer."""
    found = line.getvalue().encode("utf-8", "replace")
    line.seek(0)
    line.truncate()
    return found


def _put_in_order(raw: Path, path: Path, names: Sequence[str], folder: Path, over: Event, said: str) -> None:
    """Sort the rows by their bytes, because a database may return them in any order.

    Errors: Refused, NotNow; OSError.
    """
    whole = replace(found_file(raw), name=said)
    columns = "{" + ", ".join(f"{text(name)}: 'VARCHAR'" for name in names) + "}"
    connection = shut_in(whole, str(folder), in_order=False)
    with connection, explained(whole, connection, over):
        if len(set(names)) < len(names) or not names:
            raise Refused(
                f"{said}: invalid columns of the query: {', '.join(names) or 'none that Drawdown reads'}. Select "
                "columns that Drawdown reads, each once"
            )
        rows = connection.execute(
            f"FROM read_csv({text(str(raw))}, hive_partitioning = false, header = true, auto_detect = false, "
            f"delim = ',', quote = '\"', escape = '\"', strict_mode = true, columns = {columns}) ORDER BY ALL"
        )
        _write(path, said, names, (row for some in iter(partial(rows.fetchmany, ROWS_AT_ONCE), []) for row in some))


@contextmanager
def _connected(databases: Databases, name: str, over: Event) -> Iterator[sa.Connection]:
    """Yield a read-only connection, and end its statement when the time is up.

    Errors: Unreadable for a missing or invalid URL; errors of the database.
    """
    url = databases.urls.get(name.lower())
    if not url:
        raise Unreadable(f"{databases.setting(name)} is not set. Set it to the URL of the database {name}")
    engine = _engine(url, name, databases)
    with ExitStack() as opened:
        opened.callback(engine.dispose)
        connection = opened.enter_context(engine.connect())
        driver: Any = connection.connection.dbapi_connection
        opened.enter_context(_ended(_ender(driver, opened), over))
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(
                f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '{READING_TIME_S}s'; "
                "SET LOCAL timezone = 'UTC'"
            )
        yield connection


def _engine(url: str, name: str, databases: Databases) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        kind = parsed.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        raise Unreadable(
            f"invalid {databases.setting(name)}: expected a URL such as postgresql://USER:PASSWORD@HOST/NAME"
        ) from None
    if kind not in _KINDS:
        raise Unreadable(
            f"invalid {databases.setting(name)}: {kind} databases are not supported. Use postgresql or sqlite"
        )
    common: dict[str, Any] = {"poolclass": sa.NullPool, "hide_parameters": True}
    if kind == "sqlite":
        at = f"file:{quote(str(parsed.database))}?mode=ro"
        return sa.create_engine("sqlite://", creator=partial(_open_sqlite, at), **common)
    waits = {"connect_timeout": DATABASE_CONNECT_S, "tcp_user_timeout": DATABASE_SILENT_S * 1_000}
    return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), connect_args=waits, **common)


def _open_sqlite(at: str) -> sqlite3.Connection:
    made = sqlite3.connect(at, uri=True, timeout=DATABASE_CONNECT_S, check_same_thread=False)
    made.text_factory = partial(str, encoding="utf-8", errors="replace")
    return made


def _ender(driver: Any, opened: ExitStack) -> Callable[[], object]:
    """Return a function that stops a running statement.

    For PostgreSQL, the returned function closes the connection. The server then ends the statement when it notices the
    closed connection, or after its timeout.
    """
    if isinstance(driver, sqlite3.Connection):
        return driver.interrupt
    line = socket.socket(fileno=os.dup(driver.fileno()))
    opened.callback(line.close)
    return partial(line.shutdown, socket.SHUT_RDWR)


@contextmanager
def _ended(end: Callable[[], object], over: Event) -> Iterator[None]:
    done = Event()

    def watch() -> None:
        while not done.wait(END_EVERY_S):
            if over.is_set():
                try:
                    end()
                except OSError:  # the connection is already closed
                    return

    watching = Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()


@contextmanager
def _explained(name: str, over: Event) -> Iterator[None]:
    """Convert a database's error to one line. Errors: NotNow."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, sqlite3.Error, ValueError, OverflowError) as error:
        if over.is_set():
            raise NotNow(
                f"cannot query the database {name}: the time limit ended before the result was complete. {SMALLER}"
            ) from error
        said = clean(str(getattr(error, "orig", None) or error).strip().partition("\n")[0])[:MAX_SAID_CHARS]
        raise NotNow(
            f"cannot query the database {name}: {said}. The next tick retries. If it fails again, check the "
            "database and the query"
        ) from error
