"""Watched folders, and the lists of batches that people read.

Guarantee: a folder is one source's alone, and a source keeps its folder for good, once it took anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.worker.batches.objects import is_prefix, prefix_of

SQL = queries(__file__)

MAX_SOURCES: Final = 100


@dataclass(frozen=True)
class BatchSource:
    """A watched folder; `batches` of it stand."""

    source: str
    folder: str
    at_ms: int
    paused_ms: int | None
    batches: int
    actor: str
    reason: str


@dataclass(frozen=True)
class BatchRow:
    """A file, and what became of it. Of one that was taken: how many rows are in its `samples`, how many were refused,
    the windows that it is of, and when it was withdrawn."""

    source: str
    name: str
    batch: str
    outcome: str
    said: str
    seen_ms: int
    rows: int | None
    refused: int | None
    samples: int | None
    from_ms: int | None
    to_ms: int | None
    withdrawn_ms: int | None


@dataclass(frozen=True)
class RefusedRowOf:
    """A row of a batch that is in no sum."""

    batch: str
    number: int
    wrong_column: str
    said: str


def add_source(connection: sa.Connection, source: str, folder: Path | str, by: By) -> BatchSource:
    """Watch a folder, or a prefix of objects (s3://BUCKET/PREFIX). Given again, it is the same.

    Errors: UsageError for a name or a folder that is none; Refused where the name, or the folder, is another's already,
    or there are MAX_SOURCES.
    """
    if not is_clean_id(source):
        raise UsageError("a source's name has 1 to 200 characters, none of them control characters")
    whole = prefix_of(str(folder)) if is_prefix(str(folder)) else _folder(Path(folder))
    there = {row.source: row.folder for row in list_sources(connection)}
    if there.get(source, whole) != whole:
        raise Refused(f"{source} watches {there[source]}: give this folder a source of its own")
    if other := next((name for name, its in there.items() if its == whole and name != source), None):
        raise Refused(f"{whole} is watched already, as {other}")
    if source not in there:
        if len(there) >= MAX_SOURCES:
            raise Refused(f"there are {MAX_SOURCES} sources already")
        person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
        SQL.run(connection, "add", {"source": source, "folder": whole, **person})
        record(connection, "source_add", source, {"folder": whole}, by)
    return next(one for one in list_sources(connection) if one.source == source)


def _folder(folder: Path) -> str:
    if not folder.is_dir():
        raise UsageError(f"{folder}: is no folder that can be read from here")
    return str(folder.resolve())


def pause_source(connection: sa.Connection, source: str, by: By, *, resume: bool = False) -> None:
    """Take nothing from a folder until it is resumed; what was taken stays. Errors: UnknownId."""
    if not SQL.run(connection, "pause", {"source": source, "paused_ms": None if resume else by.now_ms}).rowcount:
        ids.require(connection, ids.BATCH_SOURCE, source)
        raise Refused(f"the source {source} appeared this moment: try again")
    record(connection, "source_resume" if resume else "source_pause", source, {}, by)


def remove_source(connection: sa.Connection, source: str, by: By) -> None:
    """Forget a source that took nothing, and what was said of files in its folder. A tick that reads one of them right
    now may still take it.

    Errors: UnknownId; Refused for one that took a batch, withdrawn or not: its name stands in that batch for good."""
    folder = SQL.run(connection, "hold", {"source": source}).scalar()
    if folder is None:
        ids.require(connection, ids.BATCH_SOURCE, source)
        raise Refused(f"the source {source} appeared this moment: try again")
    if batch := SQL.run(connection, "its_batch", {"source": source}).scalar():
        raise Refused(f"{source} took the batch {batch}, which names it for good: `drawdown source pause {source}`")
    SQL.run(connection, "forget_files", {"source": source})
    SQL.run(connection, "remove", {"source": source})
    record(connection, "source_remove", source, {"folder": folder}, by)


def list_sources(connection: sa.Connection) -> list[BatchSource]:
    """By name."""
    return [BatchSource(**row) for row in SQL.run(connection, "sources").mappings()]


def list_batches(connection: sa.Connection, *, source: str | None = None, most: int = 100) -> list[BatchRow]:
    """Files as they came, the latest first. Errors: UnknownId for a source there is not; '' is by hand."""
    if source:
        ids.require(connection, ids.BATCH_SOURCE, source)
    values = {"source": source, "at_most": most}
    rows = SQL.run(connection, "files", values, of_source="" if source is None else "of_one_source").mappings()
    return [BatchRow(**row) for row in rows]


def refused_rows(connection: sa.Connection, batch: str) -> list[RefusedRowOf]:
    """The first rows of a batch that are in no sum. Errors: UnknownId."""
    ids.require(connection, ids.BATCH, batch)
    return [RefusedRowOf(**row) for row in SQL.run(connection, "refused_rows", {"batch": batch}).mappings()]
