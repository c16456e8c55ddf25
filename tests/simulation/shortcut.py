"""Plain SQL straight to SQLite: more than half of a simulated tick was preparing statements that were seen before.

Guarantee: what is executed, in which transaction, and what it answers is the same.
`test_simulation_shortcut_does_not_change_trace` runs a seed with and without it. Whatever is not plain text with plain
values goes the long way.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData

KNOWN: Final = 4_000
"""Statements that are kept."""


class Answer(IteratorResult[Any]):
    """Rows that were all fetched at once."""

    rowcount: int = -1


class Connection(sa.Connection):
    """SQLAlchemy's, but for statements that need nothing of it. There is one, and a transaction after the other."""

    _cursor: sqlite3.Cursor | None = None

    def close(self) -> None:
        if self._transaction:
            self._transaction.close()
        self._execution_options = self.engine._execution_options

    def execute(self, statement: Any, parameters: Any = None, **options: Any) -> Any:
        raw = _plain(statement) if type(statement) is sa.TextClause else None
        return super().execute(statement, parameters, **options) if raw is None else self._run(raw, parameters or {})

    def exec_driver_sql(self, statement: str, parameters: Any = None, execution_options: Any = None) -> Any:
        return self._run(statement, parameters or {})

    def looked(self, text: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self._at().execute(text, values).fetchall()

    def _at(self) -> sqlite3.Cursor:
        if self._cursor is None:
            driver: Any = self.connection.driver_connection
            self._cursor = driver.cursor()
        return self._cursor

    def _run(self, raw: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Answer:
        cursor = self._at()
        try:
            if isinstance(parameters, Mapping):
                cursor.execute(raw, parameters)
            else:
                cursor.executemany(raw, parameters)
            rows = cursor.fetchall() if cursor.description else []
        except sqlite3.Error as error:
            self._cursor = None  # SQLAlchemy closes it, and lets the engine's listeners hide what the error quotes
            self._handle_dbapi_exception(error, raw, parameters, cursor, None)  # type: ignore[arg-type]
        names = tuple(one[0] for one in cursor.description) if cursor.description else ()
        found = Answer(_shape(names), iter(rows))
        found.rowcount = cursor.rowcount
        return found


def look(engine: sa.Engine, text: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of a question that is asked between two transactions: one of its own was most of what it cost."""
    with engine.connect() as connection:
        if not isinstance(connection, Connection):
            return [tuple(row) for row in connection.execute(sa.text(text), values)]
        assert not connection.in_transaction()
        return connection.looked(text.replace("\\:", ":"), values)  # as SQLAlchemy reads it


@lru_cache(KNOWN)
def _plain(statement: sa.TextClause) -> str | None:
    """The text of a statement whose values need no treatment."""
    values = statement._bindparams.values()
    plain = all(isinstance(one.type, sa.types.NullType) and one.value is None and not one.expanding for one in values)
    return statement.text.replace("\\:", ":") if plain else None


@lru_cache(KNOWN)
def _shape(names: tuple[str, ...]) -> SimpleResultMetaData:
    return SimpleResultMetaData(names)


def shorten(engine: sa.Engine) -> None:
    """Let all that uses an engine of a database in memory take the short cut."""
    kept = Connection(engine)
    engine._connection_cls = lambda _: kept  # type: ignore[assignment]


@contextmanager
def texts_kept() -> Iterator[None]:
    """`sa.text` gives the statement it made of the same words before: taking words apart took a tenth of the time."""
    right = sa.text
    sa.text = lru_cache(KNOWN)(right)
    try:
        yield
    finally:
        sa.text = right
