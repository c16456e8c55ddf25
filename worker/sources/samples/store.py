"""Store samples.

Guarantee: a sample is inserted once by its id. The same id with different content goes to `sample_conflicts`, once, and
is never billed (S7). Both inserts are in the caller's transaction, and can be repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Literal

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.worker.sources.samples.rows import COLUMNS, Sample, content

SQL = queries(__file__)

StoredSamples = tuple[int, list[int]]
"""The number of inserted rows, and the positions of rows in conflict. The other rows existed already."""


def store(connection: sa.Connection, rows: list[Sample], origins: list[str]) -> StoredSamples:
    """Insert a chunk of samples. `origins`: the origin of each sample (file:line)."""
    assert rows and len(rows) == len(origins)
    inserted = _insert(connection, rows)
    if inserted == len(rows):
        return inserted, []
    stored = _stored(connection, rows)
    conflicts = [at for at, row in enumerate(rows) if not _same(stored.get(row[0]), row)]
    if conflicts:
        said = [(rows[at], origins[at]) for at in conflicts]
        keep_conflicts(connection, [(row[0], origin, content(row), row[-1]) for row, origin in said])
    return inserted, conflicts


def store_each(
    connection: sa.Connection, rows: list[Sample], origin: str
) -> list[Literal["accepted", "duplicate", "conflict"]]:
    """Insert samples as `store` does, and return the outcome of each.

    If several samples have the same id, the first of them is inserted.
    """
    assert rows
    new = _insert_each(connection, rows)
    if len(new) == len(rows):
        return ["accepted"] * len(rows)
    stored = _stored(connection, rows)
    found: list[Literal["accepted", "duplicate", "conflict"]] = []
    conflicts: list[Sample] = []
    for row in rows:
        is_new, is_same = row[0] in new, _same(stored.get(row[0]), row)
        new.discard(row[0])
        found.append("accepted" if is_new else "duplicate" if is_same else "conflict")
        if found[-1] == "conflict":
            conflicts.append(row)
    if conflicts:
        keep_conflicts(connection, [(row[0], origin, content(row), row[-1]) for row in conflicts])
    return found


def _insert_each(connection: sa.Connection, rows: list[Sample]) -> set[str]:
    """Insert the samples with new ids, and return these ids."""
    if connection.dialect.name == "postgresql":
        arrays = map(list, zip(*rows, strict=True))
        return set(SQL.run(connection, "insert_each", dict(zip(COLUMNS, arrays, strict=True))).scalars())
    unknown = list(_unknown(connection, rows))
    if unknown:
        connection.exec_driver_sql(SQL.text("insert", "sqlite"), unknown)
    return {row[0] for row in unknown}


def _insert(connection: sa.Connection, rows: list[Sample]) -> int:
    """Insert the samples with new ids, and return their number."""
    if connection.dialect.name == "postgresql":
        arrays = map(list, zip(*rows, strict=True))
        return SQL.run(connection, "insert", dict(zip(COLUMNS, arrays, strict=True))).rowcount
    unknown = list(_unknown(connection, rows))
    # Call the driver directly, because a mapping for each row would take longer than the row's insert.
    return connection.exec_driver_sql(SQL.text("insert", "sqlite"), unknown).rowcount if unknown else 0


def _unknown(connection: sa.Connection, rows: list[Sample]) -> Iterator[Sample]:
    """Return the samples with new ids. If ids are equal, return only the first.

    SQLite has one writer at a time, so the ids stay new until the insert. A trigger could also store repeated samples
    as conflicts, but it does not know their file and line.
    """
    names = [row[0] for row in rows]
    there = set(SQL.run(connection, "there", {"sample_ids": json.dumps(names)}).scalars())
    if not there and len(set(names)) == len(names):
        return iter(rows)
    first = {row[0]: row for row in reversed(rows) if row[0] not in there}
    return reversed(first.values())


def _stored(connection: sa.Connection, rows: list[Sample]) -> dict[str, tuple[object, ...]]:
    return {row[0]: tuple(row) for row in SQL.run(connection, "stored", _ids(connection, rows))}


def differing(connection: sa.Connection, rows: list[Sample]) -> set[str]:
    """Return the ids of those samples that are stored with different content."""
    stored = _stored(connection, rows)
    return {row[0] for row in rows if not _same(stored.get(row[0]), row)}


def withdrawn_of(connection: sa.Connection, rows: list[Sample]) -> set[str]:
    """Return the ids of those samples that are stored, but were withdrawn."""
    return set(SQL.run(connection, "withdrawn", _ids(connection, rows)).scalars())


def _ids(connection: sa.Connection, rows: list[Sample]) -> dict[str, object]:
    ids = [row[0] for row in rows]
    return {"sample_ids": ids if connection.dialect.name == "postgresql" else json.dumps(ids)}


def _same(stored: tuple[object, ...] | None, row: Sample) -> bool:
    """Return True if the stored sample has the content of this row.

    Numbers are compared as numbers, whatever their type.
    """
    if stored is None:  # the sample was just pruned, so it is below the floor, where usage no longer changes
        return True
    cpu, wanted = stored[5], row[5]
    if (cpu is None) != (wanted is None) or (wanted is not None and Decimal(str(cpu)) != Decimal(wanted)):
        return False
    return stored[:5] == row[:5] and stored[6:] == row[6:-1]


def keep_conflicts(connection: sa.Connection, found: Iterable[tuple[str, str, str, int]]) -> None:
    """Store conflicts, each once.

    A conflict has the sample's id, the origin, the content, and the time in milliseconds.
    """
    fields = ("sample_id", "source", "content", "seen_ms")
    values = [dict(zip(fields, one, strict=True)) for one in found]
    values.sort(key=lambda value: (value["sample_id"], value["content"]))  # in one order, to avoid deadlocks
    SQL.run(connection, "keep_conflict", values)
