"""Run DuckDB in isolation, to read one file.

DuckDB can access one file and its own spill folder, but not the network or extensions. This module sets its limits of
memory, disk and time.

Guarantee: an error of DuckDB becomes one line about the file. If the content is invalid, the error is Refused. If
memory, disk space or time runs out, the error is NotNow, so that a later tick retries.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from threading import Event, Thread, Timer
from typing import TYPE_CHECKING, Final

from drawdown.schema.errors import Refused
from drawdown.schema.text import clean
from drawdown.worker.batches.files import FoundFile, NotNow, TimeUp, Unreadable

if TYPE_CHECKING:
    import duckdb

READING_MEMORY_MB: Final = 512
READING_SPILL_MB: Final = 8_192
READING_THREADS: Final = 2
"""Threads that read one file."""
READING_TIME_S: Final = 120
"""Longest read of one file, or of one query's result, in seconds.

A tick with less time left reads for less time.
"""
INTERRUPT_EVERY_S: Final = 0.01
"""Interval between two interrupts of a read that is out of time, in seconds."""
_SAID_OF_ERROR: Final = 300
_NO_TEXT: Final = re.compile(r"Error on Line: ([0-9]+)\b.*\bis not utf-8", re.DOTALL)


def shut_in(file: FoundFile, spill: str, *, in_order: bool) -> duckdb.DuckDBPyConnection:
    """Open DuckDB with access to one file only.

    Errors: Unreadable if DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise Unreadable("reading a batch needs DuckDB. Install drawdown[columnar]") from error
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_unsigned_extensions": "false",
        "memory_limit": f"{READING_MEMORY_MB}MiB",
        "threads": str(READING_THREADS),
        "temp_directory": spill,
        "max_temp_directory_size": f"{READING_SPILL_MB}MiB",
        "preserve_insertion_order": "true" if in_order else "false",
    }
    connection = duckdb.connect(":memory:", config=config)
    for statement in (
        "SET TimeZone = 'UTC'",
        f"SET allowed_paths = [{text(os.fspath(file.path))}]",
        "SET enable_external_access = false",
        "SET lock_configuration = true",
    ):
        connection.execute(statement)
    return connection


@contextmanager
def time_limit(seconds: float) -> Iterator[Event]:
    """Yield an event that is set after this many seconds."""
    over = Event()
    timer = Timer(seconds, over.set)
    timer.daemon = True
    timer.start()
    try:
        yield over
    finally:
        timer.cancel()


@contextmanager
def explained(file: FoundFile, connection: duckdb.DuckDBPyConnection, time_is_up: Event) -> Iterator[None]:
    """Convert DuckDB's errors to one line, and end a query that takes too long.

    Errors: Refused if the content is invalid; NotNow for any other error.
    """
    import duckdb  # DuckDB needs 60 MB, so only programs that take a batch import it

    over = Event()
    watching = Thread(target=_watch, args=(connection, over, time_is_up), daemon=True)
    watching.start()
    try:
        yield
    except duckdb.InterruptException as error:
        raise TimeUp(f"{file.name}: the time limit ended before Drawdown had read the file. Split the file") from error
    except duckdb.Error as error:
        said = clean(_about_the_file(error).replace(file.opened, file.name).replace(str(file.path), file.name))
        kind, then = (Refused, "Correct the file") if _of_content(error) else (NotNow, "Try again")
        raise kind(f"{file.name}: cannot be read: {said[:_SAID_OF_ERROR].rstrip('.')}. {then}") from error
    finally:
        over.set()
        watching.join()


def _about_the_file(error: duckdb.Error) -> str:
    """Return the first lines of DuckDB's message, without the failed statement.

    The result omits the lines that quote the statement (`LINE 1: CREATE …`). If a line is not UTF-8 text, return only
    its number, because its content would not help a reader.
    """
    at = _NO_TEXT.search(str(error))
    if at is not None:
        return f"line {at[1]} is not UTF-8 text"
    about = takewhile(lambda line: not line.startswith("LINE "), str(error).splitlines()[:3])
    return " ".join(line.strip() for line in about if line.strip())


def _of_content(error: duckdb.Error) -> bool:
    """Return True if the file's content causes an error, so a retry fails, too.

    DuckDB raises one error for a broken zip and for a failed disk. Only the error of a failed disk has a message of the
    operating system.
    """
    import duckdb

    if isinstance(error, duckdb.IOException):
        return not any(os.strerror(number) in str(error) for number in errno.errorcode)
    return isinstance(error, duckdb.ProgrammingError | duckdb.DataError | duckdb.NotSupportedError)


def _watch(connection: duckdb.DuckDBPyConnection, over: Event, time_is_up: Event) -> None:
    """Interrupt a connection repeatedly once time is up.

    One interrupt is not enough, because an interrupt between two statements is lost.
    """
    while not over.wait(INTERRUPT_EVERY_S):
        if time_is_up.is_set():
            connection.interrupt()


def text(value: str) -> str:
    """Return a text as a quoted string of DuckDB."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return a column's name as a quoted identifier of DuckDB."""
    return '"' + name.replace('"', '""') + '"'
