"""Many rows in one statement, bound as one value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import sqlalchemy as sa


def rows_sql(connection: sa.Connection, columns: Mapping[str, str]) -> str:
    """A SELECT that turns the JSON array bound as `:rows` into rows, so that a whole batch is one statement.

    `columns` maps names to SQL types (text, bigint).
    """
    if connection.dialect.name == "postgresql":
        shape = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        return f"SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r({shape})"
    fields = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
    return f"SELECT {fields} FROM json_each(:rows)"


def insert_rows(
    connection: sa.Connection,
    table: str,
    columns: Mapping[str, str],
    rows: Sequence[Mapping[str, object]],
    *,
    same: Mapping[str, object] = MappingProxyType({}),
    end: str = "",
) -> None:
    """Insert a whole batch in one statement, in its order; `same` is what all its rows hold, `end` what follows the
    rows, as ON CONFLICT."""
    names = ", ".join([*columns, *same])
    values = ", ".join([*columns, *(f":{name}" for name in same)])
    connection.execute(
        sa.text(
            f"INSERT INTO {table} ({names}) SELECT {values} FROM ({rows_sql(connection, columns)}) r WHERE 1 = 1 {end}"
        ),
        {**same, "rows": json.dumps(list(rows))},
    )
