"""Drivers' errors, told apart: a conflict to try again, no database, a value that cannot be stored."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.schema.errors import DatabaseBusy, DatabaseNotReady, DrawdownError, LockHeld, StorageFull

CONFLICT_TRIES: Final = 5


_CONFLICTS: Final = frozenset({"40001", "40P01"})


LOCK_NOT_AVAILABLE: Final = "55P03"


DISK_FULL: Final = "53100"
FULL: Final = "the database's disk is full: free some space, then try again; nothing uncommitted was kept"


ANOTHER: Final = "if another one is meant, set DRAWDOWN_DATABASE_URL"


NOT_READY: Final = {
    "3D000": f"the database does not exist: {ANOTHER}, else create it, then run `drawdown init`",
    "42P01": f"the database has no Drawdown tables: {ANOTHER}, else run `drawdown init`",
    "42703": "the database is of another version: run `drawdown init` to upgrade it",
    "25006": "the database is read-only: connect to the primary, or grant write access",
    "42501": "the database refuses this user: grant it the tables",
    "28P01": "the database refuses the password",
    "28000": "the database refuses this user",
}


UNSTORABLE: Final = (DBAPIError, ValueError, OverflowError)
"""What a statement raises for the values of one row: the database's own no, or a driver's that could not send them."""


def explain(error: Exception) -> DrawdownError | None:
    """What a driver's error means for the person running the command; None where it is not about the database."""
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
        return LockHeld(f"another program holds a lock on what is wanted; nothing was kept, try again ({text})")
    lost = error.connection_invalidated or (state is None and isinstance(error, sa.exc.OperationalError))
    if lost or (state or "")[:2] in ("08", "53", "57") or state in _CONFLICTS:
        return DatabaseBusy(
            f"the database does not answer or is busy; nothing uncommitted was kept, try again ({text})"
        )
    return None


def _explain_sqlite(text: str) -> DrawdownError | None:
    if "locked" in text or "busy" in text:
        return DatabaseBusy("the database is locked by another program; nothing was done, try again")
    if "readonly" in text:
        return DatabaseNotReady("the database is read-only: make the file and its folder writable")
    if "no such table" in text or "no such column" in text:
        return DatabaseNotReady(
            f"the database has no Drawdown tables of this version: {ANOTHER}, else run `drawdown init`"
        )
    if "unable to open" in text:
        return DatabaseNotReady("the database file cannot be opened: check the path and its permissions")
    if "not a database" in text or "malformed" in text:
        return DatabaseNotReady(f"the file is no sound SQLite database: {ANOTHER}, else restore it from a backup")
    if "is full" in text:
        return StorageFull(f"{FULL} ({text})")
    if "disk" in text:
        return DatabaseBusy(f"the database cannot be written: {text}")
    return None


def is_conflict(error: BaseException) -> bool:
    """PostgreSQL proved that the transaction did not commit, and asks to run it again."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _CONFLICTS


def place_of(url: sa.URL) -> str:
    """Which database that is, in words that hold no secret: a file's whole path, or a server and a name."""
    if url.get_backend_name() == "sqlite":
        return str(Path(url.database).resolve()) if url.database not in (None, "", ":memory:") else "in memory"
    host = url.host or url.query.get("host")
    where = sa.URL.create("postgresql", host=host if isinstance(host, str) else None, port=url.port)
    return where.set(database=url.database).render_as_string()
