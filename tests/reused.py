"""Reuse SQLite connections, with all that they have prepared, from one test's database for the next one's.

A new connection reads a schema of 463 objects, and compiles each statement: more than half of the CPU of a short test.

Guarantee: each test gets the content that it asks for, under a new database id, in a file that this process alone uses.
A connection is reused if the test before left the file, its log and its schema as SQLite leaves them. Otherwise file
and connections are given up. Only connections that SQLAlchemy closed are reused.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite as Dialect

from tests import leftovers

MOST_FREE: Final = 4
"""Files that wait for a test. A test rarely has two databases."""
MOST_IDLE: Final = 4
"""Connections that a file keeps. Each holds up to a thousand statements."""
SHARED: Final = 510, 0x40000002
"""How many bytes, and from which, SQLite locks of a file with a write-ahead log while it is open."""
FOREIGN_KEYS: Final = "PRAGMA foreign_keys = ON"
"""As `schema.database` says it."""
OF_SQLALCHEMY: Final = frozenset({"regexp", "floor"})
"""The functions that SQLAlchemy adds to each connection."""
INDEX: Final = struct.Struct("=IIIBBHIIIIIIII")
"""The header of a log's index, twice at its start: the eighth number counts pages, the last two are a sum."""
COOKIE: Final = slice(40, 44)
"""The number of a schema in a file's header: SQLite compares it before it runs what it has prepared."""
Terms = tuple[tuple[str, Any], ...]


class _Connection(sqlite3.Connection):
    """Set nothing that is set already: SQLite forgets what it prepared, whatever the value was before."""

    functions = frozenset[str]()

    def execute(self, text: str, *given: Any) -> sqlite3.Cursor:
        if text == FOREIGN_KEYS and super().execute("PRAGMA foreign_keys").fetchone() == (1,):
            return self.cursor()
        return super().execute(text, *given)

    def create_function(self, name: str, *given: Any, **named: Any) -> None:
        if name not in self.functions:
            super().create_function(name, *given, **named)
        self.functions |= {name} & OF_SQLALCHEMY


@dataclass
class _Kept:
    """A file, and the connections to it."""

    path: Path
    descriptor: int
    index: int
    """A descriptor of the log's index, open as long as the file is lent: closing it would drop SQLite's locks."""
    keeper: sqlite3.Connection
    """It reads nothing, so that it sees each other connection's pages change."""
    cookie: bytes
    identities: tuple[tuple[int, ...], ...]
    idle: dict[Terms, list[sqlite3.Connection]] = field(default_factory=lambda: defaultdict(list))
    out: dict[int, tuple[Terms, sqlite3.Connection]] = field(default_factory=dict)

    def is_whole(self) -> bool:
        """Whether the file, its log and its schema are those that the connections know."""
        return (
            not self.out
            and self.identities == _identities(self.path)
            and os.pread(self.descriptor, 100, 0)[COOKIE] == self.cookie
        )

    def empty_log(self) -> bool:
        """Put all that is committed into the file. False: somebody still reads or writes."""
        try:
            return bool(self.keeper.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0))
        except sqlite3.Error:
            return False

    def close(self) -> None:
        for connection in (one for some in self.idle.values() for one in some):
            connection.close()
        self.idle.clear()
        self.keeper.close()
        os.close(self.descriptor)
        os.close(self.index)


_of_path: Final[dict[str, _Kept]] = {}
_of_connection: Final[dict[int, _Kept]] = {}
_free: Final[list[_Kept]] = []
_names = iter(range(1_000_000))
_PID: Final = os.getpid()
_MEMORY: Final = sqlite3.connect(":memory:")
_AS_NEW: Final = {
    name: _MEMORY.execute(f"PRAGMA {name}").fetchone()
    for name in ("query_only", "max_page_count", "ignore_check_constraints", "writable_schema", "defer_foreign_keys")
}
"""What a test may set on a connection, as a new one has it."""
_FOLDER: Final = leftovers.folder("dd-reused-")


def _identities(path: Path) -> tuple[tuple[int, ...], ...]:
    found = list[tuple[int, ...]]()
    for end in ("", "-wal", "-shm"):
        try:
            stat = path.with_name(path.name + end).stat()
        except OSError:
            return ()
        found.append((stat.st_dev, stat.st_ino, stat.st_mode))
    return tuple(found)


def lend(content: bytes) -> Path:
    """Return a database of this content; `give_back` it."""
    while _free:
        kept = _free.pop()
        if kept.is_whole() and kept.cookie == content[COOKIE] and kept.empty_log():
            # SQLite's lock is lost if a test opened and closed the file itself.
            fcntl.lockf(kept.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, *SHARED)
            os.ftruncate(kept.descriptor, len(content))
            os.pwrite(kept.descriptor, content, 0)
            _count_pages(kept.index, content)
            assert kept.empty_log()  # which tells every other connection that the file has changed
            return kept.path
        give_up(kept)
    return _made(content).path


def _made(content: bytes) -> _Kept:
    path = _FOLDER / str(next(_names)) / "drawdown.db"
    path.parent.mkdir()
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDWR)
    keeper = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    keeper.execute("PRAGMA journal_mode = WAL")
    keeper.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index = os.open(path.with_name(path.name + "-shm"), os.O_RDWR)
    kept = _Kept(path, descriptor, index, keeper, content[COOKIE], _identities(path))
    _of_path[str(path)] = kept
    return kept


def _count_pages(index: int, content: bytes) -> None:
    """Write the pages of this content into the log's index, which has those of the database before: SQLite would go on
    behind them, and call a file that is far shorter malformed."""
    page = int.from_bytes(content[16:18], "big")
    *fields, _, _ = INDEX.unpack(os.pread(index, INDEX.size, 0))
    fields[7] = len(content) // (65536 if page == 1 else page)
    header = INDEX.pack(*fields, 0, 0)
    first = second = 0
    for one, two in struct.iter_unpack("=II", header[:-8]):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    header = INDEX.pack(*fields, first, second)
    os.pwrite(index, header * 2, 0)


def give_back(path: Path) -> None:
    """End the use of a database."""
    kept = _of_path[str(path)]
    if kept.is_whole() and len(_free) < MOST_FREE:
        _free.append(kept)
    else:
        give_up(kept)


def give_up(kept: _Kept) -> None:
    """Close all connections to a file, and remove it."""
    del _of_path[str(kept.path)]
    for number in kept.out:
        _of_connection.pop(number, None)
    kept.close()
    for file in kept.path.parent.iterdir():
        if file.is_file():
            file.unlink()


def _connect(dialect: Dialect, *given: Any, **named: Any) -> Any:
    kept = _of_path.get(str(given[0])) if os.getpid() == _PID else None
    if kept is None or kept.identities[:1] != _identities(kept.path)[:1]:
        return dialect.loaded_dbapi.connect(*given, **named)
    terms = tuple(sorted(named.items()))
    try:
        connection = kept.idle[terms].pop()
    except IndexError:
        connection = dialect.loaded_dbapi.connect(*given, factory=_Connection, **named)
    kept.out[id(connection)] = terms, connection
    _of_connection[id(connection)] = kept
    return connection


def _close(_dialect: Dialect, connection: Any) -> None:
    kept = _of_connection.pop(id(connection), None) if os.getpid() == _PID else None
    if kept is None:
        connection.close()
        return
    terms, _ = kept.out.pop(id(connection))
    idle = kept.idle[terms]
    if kept.path.exists() and len(idle) < MOST_IDLE and _as_new(connection):
        idle.append(connection)
    else:
        connection.close()
    if not kept.out:
        kept.empty_log()  # as whoever closes the last connection does


def _as_new(connection: sqlite3.Connection) -> bool:
    """Take back what was set on a connection. False: it cannot be taken back."""
    try:
        if connection.in_transaction:
            connection.rollback()
        connection.row_factory = None
        connection.text_factory = str
        connection.set_trace_callback(None)
        connection.set_progress_handler(None, 0)
        if any(connection.execute(f"PRAGMA {name}").fetchone() != value for name, value in _AS_NEW.items()):
            return False
        return len(connection.execute("PRAGMA database_list").fetchall()) <= 2
    except sqlite3.Error:
        return False


def install() -> None:
    """Let SQLAlchemy take and give connections here."""
    Dialect.connect = _connect  # type: ignore[assignment,method-assign]
    Dialect.do_close = _close  # type: ignore[assignment,method-assign]
