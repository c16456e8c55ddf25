"""One value of one row changed behind the guards: each column of each table, and what `verify` says of it.

Guarantee: the rows and the new values are chosen by a seed. Nothing is left changed, but the guards are gone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.tables.whole import metadata
from drawdown.worker.verify.verify import verify

LEAP_MS: Final = 400 * 24 * 3_600_000
"""Longer than any wait of Drawdown's own."""
MOST_ROWS: Final = 4
"""Of one column: some rows bill nothing, so that no figure of theirs matters."""


@dataclass(frozen=True)
class Corruption:
    """One value that was changed. `found`: the texts of what `verify` says."""

    column: str
    had: object
    has: object
    found: tuple[str, ...]


def columns_of() -> list[str]:
    """Each column that may be changed, as `table.column`."""
    return sorted(
        f"{table.name}.{column.name}" for table in metadata.tables.values() for column in table.columns
        if column.computed is None
    )  # fmt: skip


def corruptions(connection: sa.Connection, column: str, now_ms: int, seed: int) -> Iterator[Corruption]:
    """Values of some rows of a column, changed in turn. SQLite."""
    chosen = random.Random(f"{seed} {column}")
    table = metadata.tables[column.partition(".")[0]]
    field = table.columns[column.partition(".")[2]]
    keys = list(table.primary_key.columns) or list(table.columns)
    rows = connection.execute(sa.select(*table.columns)).mappings().all()
    connection.rollback()
    for row in chosen.sample(rows, min(MOST_ROWS, len(rows))):
        had = row[field.name]
        others = sorted({other[field.name] for other in rows} - {had, None}, key=str)
        has = _other(field, had, others, chosen)
        where = sa.and_(*(key.is_not_distinct_from(row[key.name]) for key in keys))
        try:
            connection.execute(sa.update(table).where(where).values({field.name: has}))
        except (
            sa.exc.IntegrityError,
            sa.exc.OperationalError,
        ):  # a key of another row, a column made of others
            connection.rollback()
            continue
        found = tuple(breach.text for breach in verify(connection, now_ms=now_ms).breaches)
        connection.rollback()
        yield Corruption(column, had, has, found)


def drop_guards(connection: sa.Connection) -> None:
    """As somebody would who first switches them off."""
    for name in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars().all():
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    connection.commit()
    for pragma in ("ignore_check_constraints = ON", "foreign_keys = OFF"):
        connection.exec_driver_sql(f"PRAGMA {pragma}")
        connection.commit()


def _other(column: sa.Column[object], had: object, others: list[object], chosen: random.Random) -> object:
    """Another row's value if it is a text: names and states stay possible ones."""
    if isinstance(column.type, sa.Boolean):
        return not had
    if isinstance(column.type, sa.Numeric):
        return float(had or 0) + 1  # type: ignore[arg-type]
    if isinstance(column.type, sa.Integer):
        if column.name.endswith(("_ms", "_at", "ts")):
            return int(had or 0) + LEAP_MS  # type: ignore[call-overload]
        return int(had or 0) + chosen.choice((1, 7, 1_000_000))  # type: ignore[call-overload]
    return chosen.choice(others) if others else f"{had or ''}x"
