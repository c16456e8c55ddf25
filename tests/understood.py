"""What tests say to SQLite alone, PostgreSQL understands, too: so a test whose statements are the same on both need not
run on both.

Guarantee: each statement of the product that this process said to SQLite was planned by a real PostgreSQL, with the
product's own schema: its names, types and functions are there. What it locks, and what it finds, is for tests on both.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, TypeAlias, cast

import psycopg

from drawdown.schema import sql

Slots: TypeAlias = Iterable[tuple[str, str]]
PLANNED: Final = re.compile(r"\s*\(*(SELECT|INSERT|UPDATE|DELETE|WITH|VALUES)\b")
"""Other statements have no plan."""
OF_ITS_OWN: Final = "CREATE TEMP TABLE"
"""What makes a table that the next ones name."""
UNTYPED: Final = ("commands/guard_counts.sql: move",)
"""Where PostgreSQL knows a value's type by its driver alone."""


def misunderstood(url: str) -> list[str]:
    """What PostgreSQL says of each that it does not understand."""
    found, said = [], [one for one in _said() if one[0] not in UNTYPED]
    with psycopg.connect(url) as connection:
        for text in {text for _, text in said if text.startswith(OF_ITS_OWN)}:
            connection.execute(text.encode())
        for name, text in said:
            try:
                with connection.transaction():
                    if PLANNED.match(text):
                        connection.execute(f"PREPARE asked AS {text}; DEALLOCATE asked".encode())
            except psycopg.Error as error:
                found.append(f"{name}: {str(error).splitlines()[0]}")
        connection.rollback()
    return found


def _said() -> Iterator[tuple[str, str]]:
    """Each piece that SQLite was given, as PostgreSQL is given it."""
    files = [str(one.__file__) for name, one in list(sys.modules.items()) if name.startswith("drawdown.")]
    for queries in {id(one): one for one in map(sql.queries, files)}.values():
        for dialect, name, *slots in list(queries._ready):
            with suppress(sql.SqlError):  # a piece for SQLite alone
                statements = queries._statements("postgresql", str(name), dict(cast(Slots, slots)))
                for text in (_numbered(one.clause.text) for one in statements if dialect == "sqlite"):
                    yield f"{queries.path.parent.name}/{queries.path.name}: {name}", text


def _numbered(text: str) -> str:
    """Its values as PostgreSQL names them."""
    numbers: dict[str, int] = {}
    text = sql._BIND.sub(lambda found: f"${numbers.setdefault(found[1], len(numbers) + 1)}", text)
    return text.replace("\\:", ":")
