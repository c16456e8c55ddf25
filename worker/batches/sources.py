"""Add, change and list sources of batches, and record the state of their files.

Guarantee: a folder belongs to one source. Once a source has taken a batch, its folder or query never changes. Only a
person can skip a period of a query. The source stores the first period that Drawdown may still query. After the last
read of that period, when its rows are taken, the source moves to the next period. If a file kills the process that
reads it, or takes too long, Drawdown reads the file at most MAX_READINGS times. If a read fails for another reason,
each tick retries it, after all other files.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, in_turn, record
from drawdown.schema.errors import Refused, UsageError, explain_race
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value, typed
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.batches.file_sums import FILE_FIELDS
from drawdown.worker.batches.files import FoundFile
from drawdown.worker.batches.objects import is_prefix, prefix_of
from drawdown.worker.batches.query_source import SCHEME, Question, closed_periods, period_name, require_question
from drawdown.worker.sources.field_map import OWN_NAMES, FieldMap, from_text

SQL = queries(__file__)

MAX_SOURCES: Final = 100
"""Most watched folders and queries in total."""
MAX_LISTED_PERIODS: Final = 1_000
"""Periods of a query that one statement looks up."""
MAX_DUE: Final = 24
"""Due periods of a query that one tick reads."""
MAX_PERIODS_BACK: Final = 10_000
"""Most periods before now from which a query can start."""


@dataclass(frozen=True)
class BatchSource:
    """A watched folder, or a query on another database.

    `batches`: the number of its batches in force. `asked_of`: the name of the query's database in the settings.
    `next_ms`: the start of the first period that Drawdown may still query. `paused_ms`: the start of its pause (None:
    it is not paused). `period_ms`: the length of a query's period. `closes_after_ms`: the delay after the end of a
    period before Drawdown queries it. `field_map`: the map of columns to fields as JSON (None: the columns have the
    names of the fields). If the source is a folder, the fields of a query are None.
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
        """Return the column of each field in its files."""
        return from_text(self.field_map)

    @property
    def question(self) -> Question | None:
        if self.query is None or self.asked_of is None or self.period_ms is None or self.closes_after_ms is None:
            return None
        return Question(self.query, self.asked_of, self.period_ms, self.closes_after_ms)


@dataclass(frozen=True)
class BatchRow:
    """A file and its outcome.

    `rows`, `refused`: the numbers of its taken and refused rows. `samples`: the number of samples that the taken rows
    became. `from_ms`, `to_ms`: the range of its windows. These five are None if its content was not taken.
    `withdrawn_ms`: the time of its withdrawal (None: it was not withdrawn). `said`: the outcome in words. `seen_ms`:
    the time when Drawdown last read it, in milliseconds.
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
    """A refused row of a batch.

    `number`: the number of the row. `wrong_column`: the column with the invalid value. `said`: that value.
    """

    batch: str
    number: int
    wrong_column: str
    said: str


def add_source(
    connection: sa.Connection, source: str, folder: Path | str, by: By, fields: FieldMap = OWN_NAMES
) -> BatchSource:
    """Watch a folder, or a prefix of objects (s3://BUCKET/PREFIX).

    `fields`: the columns of its files. The call is idempotent.

    Errors: UsageError for an invalid name or folder, an unknown field, or a field with two sources. Refused if the name
    or the folder belongs to another source, if this source has different columns, or if MAX_SOURCES exist.
    """
    fields.require(FILE_FIELDS)
    if not is_clean_id(source):
        raise UsageError(
            f"invalid source name {quote_value(source)}: expected 1 to 200 characters without control characters"
        )
    whole = prefix_of(str(folder)) if is_prefix(str(folder)) else _folder(Path(folder))
    sources = _there(connection, source)
    there = {name: row.folder for name, row in sources.items()}
    if there.get(source, whole) != whole:
        raise Refused(f"source {source} already watches {there[source]}. Use another source name for {whole}")
    if source in there and sources[source].field_map != fields.text:
        has = str(sources[source].fields) or "no --map or --set"
        raise Refused(
            f"source {source} was added with {has}, which cannot change. Pause source {source}, and add another "
            "folder with the new columns"
        )
    if other := next((name for name, its in there.items() if its == whole and name != source), None):
        raise Refused(f"source {other} already watches {whole}. Use that source, or name another folder")
    if source not in there:
        _add(connection, source, {"folder": whole, "field_map": fields.text}, by)
    return _source(connection, source)


def add_query(
    connection: sa.Connection, source: str, question: Question, by: By, from_ms: int | None = None
) -> BatchSource:
    """Add a query as a source, which a tick runs for each closed period.

    The first period begins at or after `from_ms` (None: now). A later call with `from_ms` starts again at that time,
    and skips all earlier periods.

    Errors: UsageError for an invalid name or query. Refused if the source has different terms, for a time in the future
    or too long ago, or if MAX_SOURCES exist.
    """
    if not is_clean_id(source):
        raise UsageError(
            f"invalid source name {quote_value(source)}: expected 1 to 200 characters without control characters"
        )
    require_question(question)
    length, from_now_ms = question.period_ms, by.now_ms if from_ms is None else from_ms
    first_ms = -(-from_now_ms // length) * length
    if not by.now_ms - MAX_PERIODS_BACK * length <= first_ms <= by.now_ms + length:
        raise Refused(
            f"invalid --from {show_time(from_now_ms)}: expected now, or at most {MAX_PERIODS_BACK:,} periods ago"
        )
    there = _there(connection, source)
    if source not in there:
        its = {"query": question.query, "asked_of": question.database, "period_ms": length}
        more = {"closes_after_ms": question.closes_after_ms, "next_ms": first_ms}
        _add(connection, source, {"folder": f"{SCHEME}{source}", **its, **more}, by)
    elif there[source].question != question:
        raise Refused(
            f"source {source} already watches {there[source].folder} with different terms. Use another source name for "
            "this query. If it returns the same usage, first pause the source, because two sources would bill it twice"
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
    """Return the closed periods of a query that are due.

    A period is due if it does not have an outcome yet, or if its second read is due. The call also stores the first
    period that is not completed.

    Each tuple has True if the last read failed, the start of the period, and its file. If the source was removed
    meanwhile, the list is empty.
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

    If `source` is not among them, lock the sources, so that another process cannot add a source until this transaction
    ends.
    """
    there = {row.source: row for row in list_sources(connection)}
    if source in there:
        return there
    in_turn(connection)
    return {row.source: row for row in list_sources(connection)}


def _add(connection: sa.Connection, source: str, its: dict[str, object], by: By) -> None:
    if len(list_sources(connection)) >= MAX_SOURCES:
        raise Refused(
            f"cannot add source {source}: the limit of {MAX_SOURCES} is reached. Run `drawdown source list`. "
            "To remove a source without batches, run `drawdown source remove SOURCE`"
        )
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    none = dict.fromkeys(("query", "asked_of", "period_ms", "closes_after_ms", "next_ms", "field_map"))
    SQL.run(connection, "add", {"source": source, **none, **its, **person})
    record(connection, "source_add", source, its, by)


def _source(connection: sa.Connection, source: str) -> BatchSource:
    """Return a source. Errors: Refused if another person removed it."""
    found = next((one for one in list_sources(connection) if one.source == source), None)
    if found is None:
        raise Refused(f"cannot add the source {source!r}: another call just removed it. Add it again")
    return found


def _folder(folder: Path) -> str:
    if not folder.is_dir():
        raise UsageError(f"{folder}: not a folder that this machine can read. Name another folder")
    return str(folder.resolve())


def pause_source(connection: sa.Connection, source: str, by: By, *, resume: bool = False) -> None:
    """Pause a source, or resume it.

    Ticks do not take files from a paused source. Taken batches stay in force.

    Errors: UnknownId.
    """
    if not SQL.run(connection, "pause", {"source": source, "paused_ms": None if resume else by.now_ms}).rowcount:
        ids.require(connection, ids.BATCH_SOURCE, source)
        raise Refused(explain_race("source", source))
    record(connection, "source_resume" if resume else "source_pause", source, {}, by)


def remove_source(connection: sa.Connection, source: str, by: By) -> None:
    """Remove a source that never took a batch.

    The call also removes the outcomes of files in its folder. If a tick reads one of the files now, the tick may still
    take it.

    Errors: UnknownId; Refused for a source that took a batch, even a withdrawn one, because the batch keeps the
    source's name.
    """
    folder = SQL.run(connection, "hold", {"source": source}).scalar()
    if folder is None:
        ids.require(connection, ids.BATCH_SOURCE, source)
        raise Refused(explain_race("source", source))
    if batch := SQL.run(connection, "its_batch", {"source": source}).scalar():
        raise Refused(
            f"cannot remove source {source}: it took the batch {batch}. "
            f"To stop the source, run `drawdown source pause {typed(source)}`"
        )
    SQL.run(connection, "forget_files", {"source": source})
    SQL.run(connection, "remove", {"source": source})
    record(connection, "source_remove", source, {"folder": folder}, by)


def list_sources(connection: sa.Connection) -> list[BatchSource]:
    """Return all sources, sorted by name."""
    return [BatchSource(**row) for row in SQL.run(connection, "sources").mappings()]


def list_batches(connection: sa.Connection, *, source: str | None = None, most: int = 100) -> list[BatchRow]:
    """Return files with their outcomes, newest first.

    `source`: the source of the files; None for all files, and '' for files of `drawdown batch take`.

    Errors: UnknownId for an unknown source.
    """
    if source:
        ids.require(connection, ids.BATCH_SOURCE, source)
    values = {"source": source, "at_most": most}
    rows = SQL.run(connection, "files", values, of_source="" if source is None else "of_one_source").mappings()
    return [BatchRow(**row) for row in rows]


MOST_FILES: Final = 100
"""Files with the content of one batch that a page lists, newest first."""


def files_of(connection: sa.Connection, batch: str) -> list[BatchRow]:
    """Return the files with the content of one batch, newest first."""
    values = {"batch": batch, "at_most": MOST_FILES}
    return [BatchRow(**row) for row in SQL.run(connection, "files", values, of_source="of_one_batch").mappings()]


def refused_rows(connection: sa.Connection, batch: str) -> list[RefusedRowOf]:
    """Return the first refused rows of a batch. Errors: UnknownId."""
    ids.require(connection, ids.BATCH, batch)
    return [RefusedRowOf(**row) for row in SQL.run(connection, "refused_rows", {"batch": batch}).mappings()]


MAX_READINGS: Final = 3
"""Incomplete reads after which ticks no longer read a file."""
READING_LEASE_MS: Final = 4 * MINUTE_MS
"""Lease of the tick that reads a file, in milliseconds.

The lease ends before the next tick.
"""
MAX_OPEN_LOOKED_AT: Final = 10_000
"""Waiting files of a source that one tick looks up.

They wait for a person or a retry.
"""


def begin_reading(connection: sa.Connection, source: str, file: FoundFile, now_ms: int) -> int | None:
    """Record that a read of a file begins.

    Return the number of its incomplete reads, including this one.

    Return None while another tick reads the file.
    """
    values = {**_its(source, file), "size_bytes": file.size_bytes, "modified_ns": file.modified_ns}
    found = SQL.run(connection, "begin", {**values, "now_ms": now_ms, "lease_ms": READING_LEASE_MS}).scalar()
    return None if found is None else int(found)


def end_reading(
    connection: sa.Connection, source: str, file: FoundFile, said: str, now_ms: int, *, counts: bool = False
) -> None:
    """Record why a file could not be read.

    `counts`: True if this read counts towards MAX_READINGS; False to reset that count. An outcome is recorded by `take`
    and `note`.
    """
    SQL.run(connection, "end", {**_its(source, file), "said": said, "now_ms": now_ms, "counts": counts})


def new_files(connection: sa.Connection, source: str, found: Sequence[FoundFile]) -> list[tuple[bool, FoundFile]]:
    """Return the files without an outcome, each with True if an earlier read failed."""
    asked = [{"name": file.name, "size_bytes": file.size_bytes, "modified_ns": file.modified_ns} for file in found]
    rows = SQL.run(connection, "unseen", {"source": source, "found": asked})
    failed = {str(row.name): bool(row.failed) for row in rows}
    return [(failed[file.name], file) for file in found if file.name in failed]


def forget_gone(connection: sa.Connection, source: str, there: Collection[str]) -> None:
    """Record that waiting files are gone from the folder.

    Such files no longer need a person.
    """
    if gone := [{"name": name} for name in left_open(connection, source) if name not in there]:
        SQL.run(connection, "gone", {"source": source, "gone": gone})


def left_open(connection: sa.Connection, source: str) -> list[str]:
    """Return the names of a source's open files, sorted.

    An open file waits for a person or a retry, or a tick reads it now. The call returns at most MAX_OPEN_LOOKED_AT
    names.
    """
    names = SQL.run(connection, "open", {"source": source, "at_most": MAX_OPEN_LOOKED_AT}).scalars()
    return [str(name) for name in names]


def _its(source: str, file: FoundFile) -> dict[str, object]:
    return {"source": source, "name": file.name, "path": file.place}
