"""How a database would do each statement of a run: explained right before it runs, with its own values.

Guarantee: what is read from end to end is told by table: PostgreSQL's sequential scans, and SQLite's cursors that start
at the beginning of a table or of an index on all of its rows. A partial index holds only what it is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

Plans = dict[str, str]

STATEMENT = re.compile(r"(WITH|SELECT|INSERT|UPDATE|DELETE)\b")


@contextmanager
def explained(engine: sa.Engine) -> Iterator[Plans]:
    """The plan of each statement, by its text. In its own transaction: it sees what the statement sees."""
    found: Plans = {}
    sqlite = engine.dialect.name == "sqlite"

    def explain(_c: object, cursor: object, text: str, values: object, _x: object, many: bool) -> None:
        name = " ".join(text.split())
        if name in found or not STATEMENT.match(name):
            return
        found[name] = ""
        beside = cursor.connection.cursor()  # type: ignore[attr-defined]
        one = values[0] if many else values  # type: ignore[index]
        rows = beside.execute(f"EXPLAIN {text}", one).fetchall()
        found[name] = "\n".join(_whole(beside, rows)) if sqlite else "\n".join(row[0] for row in rows)

    sa.event.listen(engine, "before_cursor_execute", explain)
    yield found
    sa.event.remove(engine, "before_cursor_execute", explain)


def _whole(cursor: object, program: list[tuple[object, ...]]) -> Iterator[str]:
    """From SQLite's program: which cursor stands on which root page, and which of them begin at the beginning."""
    roots = {
        root: (table, " ".join((sql or "").split()))
        for root, table, sql in cursor.execute("SELECT rootpage, tbl_name, sql FROM sqlite_master")  # type: ignore[attr-defined]
    }
    standing = {row[2]: roots.get(row[3], ("", "")) for row in program if row[1] == "OpenRead"}
    for row in program:
        table, sql = standing.get(row[2], ("", ""))
        if row[1] == "Rewind" and table and " WHERE " not in sql:
            yield f"Seq Scan on {table}"


def plan_of(plans: Plans, *marks: str) -> str:
    """The plan of the one statement that holds all the marks."""
    found = [plan for text, plan in plans.items() if all(mark in text for mark in marks)]
    assert len(found) == 1, f"{len(found)} statements hold {marks}"
    return found[0]


def conditions(plan: str, index: str) -> list[str]:
    """What an index is asked for, each time a plan reads it. What is compared afterwards is a filter, and no part."""
    return re.findall(rf"(?:using|on) {index} .*\n\s*Index Cond: (.*)", plan)


def sequential(plan: str) -> set[str]:
    """The tables that a plan reads from end to end."""
    return set(re.findall(r"Seq Scan on (\w+)", plan))
