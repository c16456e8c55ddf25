"""The creation of a new database.

A database has tables, guards, and parts that only SQLite or only PostgreSQL has.

Guarantee: a new database has the whole schema of this program. `schema/migrations` upgrades an older database to the
same schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from drawdown.schema.guards import GUARDS, NEVER_TRUNCATED, never_truncated, statements
from drawdown.schema.tables.columns import sample_columns
from drawdown.schema.tables.fleet import action_chain, incarnation
from drawdown.schema.tables.orgs import buckets, watch_state
from drawdown.schema.tables.usage import usage_samples
from drawdown.schema.tables.whole import metadata
from drawdown.schema.units import BUCKETS

NAMED: Final = {"postgresql": "replace(gen_random_uuid()::text, '-', '')", "sqlite": "lower(hex(randomblob(16)))"}
"""SQL for the name of a new database.

A copy of the database has the same name, so a machine remembers the history of the name (R1).
"""


def create_schema(connection: sa.Connection) -> None:
    """Create the schema in a database without tables."""
    dialect = connection.dialect.name
    metadata.create_all(connection, [table for table in metadata.sorted_tables if table is not usage_samples])
    for statement in (*_blocks(_by_hand(connection.dialect)), *_guards(dialect)):
        _run(connection, statement)
    if dialect == "postgresql":
        connection.execute(sa.schema.SetTableComment(usage_samples))
    _first_rows(connection)


def _by_hand(dialect: sa.Dialect) -> str:
    """Return the SQL that is written by hand, with the columns of samples filled in."""
    columns = [usage_samples.c[column.name] for column in sample_columns()[1:]]
    names = sorted(column.name for column in columns)
    whole = "'{0}', CASE typeof(NEW.{0}) WHEN 'blob' THEN quote(NEW.{0}) ELSE NEW.{0} END"
    same = ["id = NEW.id", *(f"{name} IS NEW.{name}" for name in names)]
    slots = {
        "{columns}": ",\n    ".join(str(sa.schema.CreateColumn(column).compile(dialect=dialect)) for column in columns),
        "{content}": ",\n            ".join(map(whole.format, names)),
        "{same}": "\n                AND ".join(" AND ".join(same[at : at + 3]) for at in range(0, len(same), 3)),
    }
    script = (Path(__file__).parent / f"by_hand.{dialect.name}.sql").read_text(encoding="utf-8")
    for slot, text in slots.items():
        script = script.replace(slot, text)
    return script


def _run(connection: sa.Connection, statement: str) -> None:
    """Run a statement that has no bound values, with each colon escaped."""
    connection.execute(sa.text(statement.replace(":", "\\:")))


def _blocks(script: str) -> Iterator[str]:
    """Yield the statements of a script. An empty line separates them."""
    for block in script.split("\n\n"):
        if any(line and not line.startswith("--") for line in block.splitlines()):
            yield block.strip().removesuffix(";")


def _guards(dialect: str) -> Iterator[str]:
    for guard in GUARDS:
        yield from statements(guard, dialect)
    if dialect == "postgresql":
        yield from map(never_truncated, NEVER_TRUNCATED)


def _first_rows(connection: sa.Connection) -> None:
    """Insert the tables' single rows, and the buckets."""
    database_id: sa.ColumnElement[str] = sa.literal_column(NAMED[connection.dialect.name])
    connection.execute(incarnation.insert().values(id=1, database_id=database_id, number=1))
    connection.execute(watch_state.insert().values(id=1))
    connection.execute(action_chain.insert().values(id=1, actions=0, hash=""))
    in_flight: list[int] | str = [] if connection.dialect.name == "postgresql" else ""
    zero = {"in_flight": in_flight, "watermark_ms": 0, "cursor": 0, "sweep_began_ms": 0, "sweep_next_ms": 0}
    connection.execute(buckets.insert(), [{"id": number, **zero} for number in range(BUCKETS)])
