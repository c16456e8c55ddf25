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
NUMBER: Final = re.compile(r"(_ms|_micro)$|^(amount|uses|most|number|at_most|count|bucket|low|high)|^most_")
"""Names of values that are numbers: the driver says so where PostgreSQL cannot tell by what stands beside them."""
YES_OR_NO: Final = re.compile(r"^warned_")

ANOTHER: Final = ("seal/queries.sql: add_up",)
"""Pieces that the program runs on SQLite alone: see `seal_range`."""


def misunderstood(url: str) -> list[str]:
    """What PostgreSQL says of each that it does not understand."""
    found, said = list[str](), list(_said())
    with psycopg.connect(url) as connection:
        for text in {text for _, text in said if text.startswith(OF_ITS_OWN)}:
            connection.execute(text.encode())
        for name, text in said:
            if (
                name not in ANOTHER
                and PLANNED.match(text)
                and _refused(connection, _numbered(text))
                and (why := _refused(connection, _typed(text)))
            ):
                found.append(f"{name}: {why}")
        connection.rollback()
    return found


def _refused(connection: psycopg.Connection, statement: str) -> str:
    """Why it cannot be planned, if it cannot."""
    try:
        with connection.transaction():
            connection.execute(f"PREPARE asked{statement}; DEALLOCATE asked".encode())
    except psycopg.Error as error:
        return str(error).splitlines()[0]
    return ""


def _said() -> Iterator[tuple[str, str]]:
    """Each piece that SQLite was given, as PostgreSQL is given it."""
    files = [str(one.__file__) for name, one in list(sys.modules.items()) if name.startswith("drawdown.")]
    for queries in {id(one): one for one in map(sql.queries, files)}.values():
        for dialect, name, *slots in list(queries._ready):
            with suppress(sql.SqlError):  # a piece for SQLite alone
                statements = queries._statements("postgresql", str(name), dict(cast(Slots, slots)))
                for one in statements if dialect == "sqlite" else ():
                    yield f"{queries.path.parent.name}/{queries.path.name}: {name}", one.clause.text


def _numbered(text: str) -> str:
    """Its values as PostgreSQL names them, each of the type that it takes them for."""
    names = _names(text)
    text = sql._BIND.sub(lambda found: f"${names.index(found[1]) + 1}", text)
    return " AS " + text.replace("\\:", ":")


def _typed(text: str) -> str:
    kinds = (("bigint", NUMBER), ("boolean", YES_OR_NO))
    types = ", ".join(next((kind for kind, of in kinds if of.search(name)), "unknown") for name in _names(text))
    return f" ({types}){_numbered(text)}" if types else _numbered(text)


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(sql._BIND.findall(text)))
