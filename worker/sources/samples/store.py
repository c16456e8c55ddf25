"""Samples into the database.

Guarantee: a sample goes in once by its id; the same id with other content goes to `sample_conflicts`, once, and is
never billed (S7). Both happen in the transaction given, and may be repeated.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa

from drawdown.worker.sources.samples.rows import COLUMNS, FIELDS, Sample, content

Stored = tuple[int, list[int]]
"""How many rows went in, and the positions of those in conflict; the others were there already."""

_NAMES: Final = ", ".join(COLUMNS)
# The database fills `arrival` and `problem`. Of equal ids in one chunk the first wins.
_INSERT: Final = {
    "sqlite": f"INSERT INTO usage_samples ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))})",
    # One statement from arrays, without a temporary table. In the order of ids, because two imports of the same
    # samples would otherwise wait for each other crosswise.
    "postgresql": f"INSERT INTO usage_samples ({_NAMES}) SELECT {_NAMES} FROM unnest("
    "%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::numeric[], %s::bigint[], %s::bigint[], "
    f'%s::bigint[]) WITH ORDINALITY AS incoming ({_NAMES}, n) ORDER BY id COLLATE "C", n ON CONFLICT (id) DO NOTHING',
}
_THERE: Final = "SELECT id FROM usage_samples WHERE id IN (SELECT value FROM json_each(?))"
_SELECT: Final = {
    dialect: f"SELECT {', '.join(FIELDS)} FROM usage_samples WHERE id {among}"
    for dialect, among in (("sqlite", "IN (SELECT value FROM json_each(?))"), ("postgresql", "= ANY (%s)"))
}
_QUARANTINE: Final = sa.text(
    "INSERT INTO sample_conflicts (sample_id, source, content, seen_ms) "
    "VALUES (:sample_id, :source, :content, :seen_ms) ON CONFLICT DO NOTHING"
)


def store(connection: sa.Connection, rows: list[Sample], origins: list[str]) -> Stored:
    """Insert a chunk of samples; `origins` says of each where it came from (file:line)."""
    assert rows and len(rows) == len(origins)
    inserted = _insert(connection, rows)
    if inserted == len(rows):
        return inserted, []
    stored = _stored(connection, rows)
    conflicts = [at for at, row in enumerate(rows) if not _same(stored.get(row[0]), row)]
    if conflicts:
        _quarantine(connection, [(rows[at], origins[at]) for at in conflicts])
    return inserted, conflicts


def _insert(connection: sa.Connection, rows: list[Sample]) -> int:
    """Insert those whose ids are new; how many."""
    if connection.dialect.name == "postgresql":
        arrays = tuple(map(list, zip(*rows, strict=True)))
        return connection.exec_driver_sql(_INSERT["postgresql"], arrays).rowcount
    # Looked up before, as nobody else writes meanwhile: a trigger would keep second ones aside as well, and does not
    # know their file and line.
    names = [row[0] for row in rows]
    there = set(connection.exec_driver_sql(_THERE, (json.dumps(names),)).scalars())
    if there or len(set(names)) < len(names):
        first = {row[0]: row for row in reversed(rows) if row[0] not in there}
        rows = list(reversed(first.values()))
    return connection.exec_driver_sql(_INSERT["sqlite"], rows).rowcount if rows else 0


def _stored(connection: sa.Connection, rows: list[Sample]) -> dict[str, tuple[Any, ...]]:
    dialect = connection.dialect.name
    ids = [row[0] for row in rows]
    found = connection.exec_driver_sql(_SELECT[dialect], (json.dumps(ids) if dialect == "sqlite" else ids,))
    return {row[0]: tuple(row) for row in found}


def _same(stored: tuple[Any, ...] | None, row: Sample) -> bool:
    """Whether the stored sample says what this row says; numbers are compared as numbers, whatever their type."""
    if stored is None:  # it was there a moment ago, and was pruned since: below the floor nothing changes any more
        return True
    cpu, wanted = stored[5], row[5]
    if (cpu is None) != (wanted is None) or (wanted is not None and Decimal(str(cpu)) != Decimal(wanted)):
        return False
    return stored[:5] == row[:5] and stored[6:8] == row[6:8]


def _quarantine(connection: sa.Connection, found: list[tuple[Sample, str]]) -> None:
    values = [
        {"sample_id": row[0], "source": origin, "content": content(row), "seen_ms": row[8]} for row, origin in found
    ]
    values.sort(key=lambda value: (value["sample_id"], value["content"]))  # as for the samples: no crosswise waiting
    connection.execute(_QUARANTINE, values)
