"""Watched folders and queries, the state of their files, and the lists of batches that people read.

Guarantee: a folder belongs to one source. Once a source took anything, it keeps its folder, or its query, for good.
Only a person can pass over a period of a query: the source keeps the first period that may still be queried, and moves
it once a period was queried for the last time and its rows are in. If a file ends the process that reads it, or takes
too long to read, it is read MAX_READINGS times at most. If a file could not be read for another reason, it is retried
for ever, after all others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, in_turn, record
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.batches.file_sums import FILE_FIELDS
from drawdown.worker.batches.files import FoundFile
from drawdown.worker.batches.objects import is_prefix, prefix_of
from drawdown.worker.batches.query_source import SCHEME, Question, closed_periods, period_name, require_question
from drawdown.worker.sources.field_map import OWN_NAMES, FieldMap, from_text

SQL = queries(__file__)

MAX_SOURCES: Final = 100
"""Watched folders and queries."""
MAX_LISTED_PERIODS: Final = 1_000
"""Periods of a query that are looked up together."""
MAX_DUE: Final = 24
"""Due periods that a tick looks for."""
MAX_PERIODS_BACK: Final = 10_000
"""Periods before now from which a query can start."""


@dataclass(frozen=True)
class BatchSource:
    """A watched folder, or a query on another database.

    `batches`: how many of its batches are in force. `next_ms`: the start of the first period that may still be queried.
    """

    source: str
    folder: str
    at_ms: int
    paused_ms: int | None
    batches: int
    actor: str
    reason: str
    query: str | None = None
    asked_of: str | None = None
    period_ms: int | None = None
    closes_after_ms: int | None = None
    next_ms: int | None = None
    field_map: str | None = None

    @property
    def fields(self) -> FieldMap:
        """In which columns of its files their fields are."""
        return from_text(self.field_map)

    @property
    def question(self) -> Question | None:
        if self.query is None or self.asked_of is None or self.period_ms is None or self.closes_after_ms is None:
            return None
        return Question(self.query, self.asked_of, self.period_ms, self.closes_after_ms)


@dataclass(frozen=True)
class BatchRow:
    """A file, and its outcome.

    If it was taken: `rows` are in its `samples`, others were refused; its windows; and when it was withdrawn.
    """

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


def add_source(
    connection: sa.Connection, source: str, folder: Path | str, by: By, fields: FieldMap = OWN_NAMES
) -> BatchSource:
    """Watch a folder, or a prefix of objects (s3://BUCKET/PREFIX); `fields` are the columns of its files.

    The same call again changes nothing.

    Errors: UsageError for an invalid name or folder, or an unknown field; Refused if the name or the folder belongs to
    another source, this source has other columns, or there are MAX_SOURCES.
    """
    fields.require(FILE_FIELDS)
    if not is_clean_id(source):
        raise UsageError("invalid source name: expected 1 to 200 characters without control characters")
    whole = prefix_of(str(folder)) if is_prefix(str(folder)) else _folder(Path(folder))
    sources = _there(connection, source)
    there = {name: row.folder for name, row in sources.items()}
    if there.get(source, whole) != whole:
        raise Refused(f"source {source} already watches {there[source]}. Use another source name for this folder")
    if source in there and sources[source].field_map != fields.text:
        has = str(sources[source].fields) or "no --map or --set"
        raise Refused(f"source {source} was added with {has}, which cannot change. Pause it, and use another folder")
    if other := next((name for name, its in there.items() if its == whole and name != source), None):
        raise Refused(f"source {other} already watches {whole}")
    if source not in there:
        _add(connection, source, {"folder": whole, "field_map": fields.text}, by)
    return _source(connection, source)


def add_query(
    connection: sa.Connection, source: str, question: Question, by: By, from_ms: int | None = None
) -> BatchSource:
    """Run a query for each closed period, from the first that begins at or after `from_ms`, which is now by default.

    A second call with a time starts again from there, and earlier periods are no longer read.

    Errors: UsageError for an invalid name, or a query that names no period; Refused if the name belongs to another
    source, for a time too long ago, or if there are MAX_SOURCES.
    """
    if not is_clean_id(source):
        raise UsageError("invalid source name: expected 1 to 200 characters without control characters")
    require_question(question)
    length, from_now_ms = question.period_ms, by.now_ms if from_ms is None else from_ms
    first_ms = -(-from_now_ms // length) * length
    if not by.now_ms - MAX_PERIODS_BACK * length <= first_ms <= by.now_ms + length:
        raise Refused(f"invalid --from: expected now, or at most {MAX_PERIODS_BACK:,} periods ago")
    there = _there(connection, source)
    if source not in there:
        its = {"query": question.query, "asked_of": question.database, "period_ms": length}
        more = {"closes_after_ms": question.closes_after_ms, "next_ms": first_ms}
        _add(connection, source, {"folder": f"{SCHEME}{source}", **its, **more}, by)
    elif there[source].question != question:
        raise Refused(
            f"source {source} already watches {there[source].folder} with other terms. "
            "Use another source name for this query"
        )
    elif from_ms is not None:
        SQL.run(connection, "ask_from", {"source": source, "next_ms": first_ms})
        named = {"source": source, "first": period_name(first_ms, length)}
        SQL.run(connection, "unsee", named)
        SQL.run(connection, "passed_over", named)
        record(connection, "source_ask", source, {"from_ms": first_ms}, by)
    return _source(connection, source)


def due_periods(
    connection: sa.Connection, source: str, question: Question, now_ms: int
) -> list[tuple[bool, int, FoundFile]]:
    """Return the periods without an outcome, or to be read once more: if the last read failed, the start, and the file.

    Periods that are done are not looked at again. If the source was removed since the tick read it, there are none.
    """
    begins = SQL.run(connection, "hold_turn", {"source": source}).scalar_one_or_none()
    if begins is None:
        return []
    next_ms = at = int(begins)
    due: list[tuple[bool, int, FoundFile]] = []
    while len(due) < MAX_DUE and (page := closed_periods(source, question, at, now_ms, MAX_LISTED_PERIODS)):
        failed = {file.name: failed for failed, file in new_files(connection, source, [one[-1] for one in page])}
        due += [(failed[file.name], start_ms, file) for start_ms, _, file in page if file.name in failed]
        open_ = frozenset(left_open(connection, source))
        at = page[-1][0] + question.period_ms
        for start_ms, last, file in page:
            if next_ms == start_ms and last and file.name not in failed and file.name not in open_:
                next_ms = start_ms + question.period_ms
    SQL.run(connection, "ask_from", {"source": source, "next_ms": next_ms})
    return due


def _there(connection: sa.Connection, source: str) -> dict[str, BatchSource]:
    """Return all sources, by name.

    If this one is not among them, no other process adds any before this transaction ends.
    """
    there = {row.source: row for row in list_sources(connection)}
    if source in there:
        return there
    in_turn(connection)
    return {row.source: row for row in list_sources(connection)}


def _add(connection: sa.Connection, source: str, its: dict[str, object], by: By) -> None:
    if len(list_sources(connection)) >= MAX_SOURCES:
        raise Refused(f"cannot add a source: the limit of {MAX_SOURCES} is reached")
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    none = dict.fromkeys(("query", "asked_of", "period_ms", "closes_after_ms", "next_ms", "field_map"))
    SQL.run(connection, "add", {"source": source, **none, **its, **person})
    record(connection, "source_add", source, its, by)


def _source(connection: sa.Connection, source: str) -> BatchSource:
    """Return a source. Errors: Refused if another person removed it."""
    found = next((one for one in list_sources(connection) if one.source == source), None)
    if found is None:
        raise Refused(f"another call just removed the source {source}. Try again")
    return found


def _folder(folder: Path) -> str:
    if not folder.is_dir():
        raise UsageError(f"{folder}: not a folder that this machine can read")
    return str(folder.resolve())


def pause_source(connection: sa.Connection, source: str, by: By, *, resume: bool = False) -> None:
    """Take nothing from a folder until it is resumed; what was taken stays. Errors: UnknownId."""
    if not SQL.run(connection, "pause", {"source": source, "paused_ms": None if resume else by.now_ms}).rowcount:
        ids.require(connection, ids.BATCH_SOURCE, source)
        raise Refused(f"another call just created the source {source}. Try again")
    record(connection, "source_resume" if resume else "source_pause", source, {}, by)


def remove_source(connection: sa.Connection, source: str, by: By) -> None:
    """Forget a source that took nothing, and the notes about files in its folder.

    A tick that is reading one of the files now may still take it.

    Errors: UnknownId; Refused for a source that took a batch, withdrawn or not: the batch keeps the source's name.
    """
    folder = SQL.run(connection, "hold", {"source": source}).scalar()
    if folder is None:
        ids.require(connection, ids.BATCH_SOURCE, source)
        raise Refused(f"another call just created the source {source}. Try again")
    if batch := SQL.run(connection, "its_batch", {"source": source}).scalar():
        raise Refused(
            f"source {source} took the batch {batch}, so it cannot be removed. "
            f"Run `drawdown source pause {typed(source)}`"
        )
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


MOST_FILES: Final = 100
"""Latest files of one batch that are shown."""


def files_of(connection: sa.Connection, batch: str) -> list[BatchRow]:
    """The files of one content, the latest first."""
    values = {"batch": batch, "at_most": MOST_FILES}
    return [BatchRow(**row) for row in SQL.run(connection, "files", values, of_source="of_one_batch").mappings()]


def refused_rows(connection: sa.Connection, batch: str) -> list[RefusedRowOf]:
    """The first rows of a batch that are in no sum. Errors: UnknownId."""
    ids.require(connection, ids.BATCH, batch)
    return [RefusedRowOf(**row) for row in SQL.run(connection, "refused_rows", {"batch": batch}).mappings()]


MAX_READINGS: Final = 3
"""Reads of one file that no tick completed."""
READING_LEASE_MS: Final = 4 * MINUTE_MS
"""Lease of the tick that reads a file. It ends before the next tick."""
MAX_OPEN_LOOKED_AT: Final = 10_000
"""Files of a folder that wait for a person, and that a tick looks up."""


def begin_reading(connection: sa.Connection, source: str, file: FoundFile, now_ms: int) -> int | None:
    """Note, before a file is read, that it will be. Returns how many readings of it have begun and not ended, this one
    included; None while another tick reads it."""
    values = {**_its(source, file), "size_bytes": file.size_bytes, "modified_ns": file.modified_ns}
    found = SQL.run(connection, "begin", {**values, "now_ms": now_ms, "lease_ms": READING_LEASE_MS}).scalar()
    return None if found is None else int(found)


def end_reading(
    connection: sa.Connection, source: str, file: FoundFile, said: str, now_ms: int, *, counts: bool = False
) -> None:
    """Note why a file could not be read. If it had an outcome, `take` and `note` state it.

    `counts`: this reading is one of the MAX_READINGS.
    """
    SQL.run(connection, "end", {**_its(source, file), "said": said, "now_ms": now_ms, "counts": counts})


def new_files(connection: sa.Connection, source: str, found: Sequence[FoundFile]) -> list[tuple[bool, FoundFile]]:
    """Return those of a folder's files that have no outcome yet; for each first, if a read of it failed before."""
    asked = [{"name": file.name, "size_bytes": file.size_bytes, "modified_ns": file.modified_ns} for file in found]
    rows = SQL.run(connection, "unseen", {"source": source, "found": asked})
    failed = {str(row.name): bool(row.failed) for row in rows}
    return [(failed[file.name], file) for file in found if file.name in failed]


def forget_gone(connection: sa.Connection, source: str, there: Collection[str]) -> None:
    """Note that files left to a person are no longer there: the person has looked at them."""
    if gone := [{"name": name} for name in left_open(connection, source) if name not in there]:
        SQL.run(connection, "gone", {"source": source, "gone": gone})


def left_open(connection: sa.Connection, source: str) -> list[str]:
    """Files of a source that wait for a person, or for another try: the first ones by name."""
    names = SQL.run(connection, "open", {"source": source, "at_most": MAX_OPEN_LOOKED_AT}).scalars()
    return [str(name) for name in names]


def _its(source: str, file: FoundFile) -> dict[str, object]:
    return {"source": source, "name": file.name, "path": file.place}
