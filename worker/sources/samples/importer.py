"""Loading samples from files into the database.

Guarantee: after any failure half-way, importing again ends in the same rows. A sample goes in once by its id, and the
same id with other content is quarantined (S7). Every row read is counted as exactly one of inserted, already there,
rejected, conflict.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.errors import DatabaseBusy, UsageError
from drawdown.worker.sources.samples.files import format_of, prefix_of, read_records
from drawdown.worker.sources.samples.lines import STDIN, Lines, Record, open_lines
from drawdown.worker.sources.samples.rows import ImportOptions, Sample, meaning
from drawdown.worker.sources.samples.store import store, withdrawn_of
from drawdown.worker.sources.samples.values import BadRow

FIRST_FEW: Final = 20
MAX_SHOWN_CHARS: Final = 120

OnProgress = Callable[[str, int, int], None]
"""Called with the file's name, the bytes read of it so far, and the rows read so far in all files."""


@dataclass(frozen=True)
class RefusedRow:
    """Why a row is not among the samples."""

    file: str
    line: int
    column: str
    """Empty where the whole row is meant."""
    reason: str
    text: str
    """The offending text, cut short."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: {self.column} {meaning(self.reason)}".replace(":  ", ": ")
        return f"{where}: {self.text!r}" if self.text else where


@dataclass
class ImportReport:
    """What became of the rows. read = inserted + already_there + rejected + conflicts."""

    read: int = 0
    inserted: int = 0
    already_there: int = 0
    withdrawn: int = 0
    """Of those: billed no more, and never again."""
    rejected: int = 0
    conflicts: int = 0
    committed: bool = True
    """False: a strict import met a refused or conflicting row, and nothing of it is in the database."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejected rows by reason."""
    first_rejects: list[RefusedRow] = field(default_factory=list)
    first_conflicts: list[RefusedRow] = field(default_factory=list)


def import_samples(
    engine: sa.Engine,
    sources: Sequence[str],
    options: ImportOptions,
    now_ms: int,
    on_progress: OnProgress = lambda _file, _bytes, _rows: None,
    stdin: BinaryIO | None = None,
) -> ImportReport:
    """Import files (`-`: standard input) in this order, in transactions of `options.chunk_rows` rows.

    With `options.strict` all of them go in within one transaction, or nothing does.
    Errors: UsageError (files and options; nothing was changed), DatabaseBusy, DatabaseNotReady, and DrawdownError
    where a file breaks off; what was committed before it stays, and importing again completes it.
    """
    _check(sources, options, now_ms)
    run = _ImportRun(sources, options, now_ms, on_progress, stdin)
    if not options.strict:
        return run.load_all(lambda chunk: write(engine, chunk))
    try:
        return write(engine, run.all_or_nothing)
    except _Undone as undone:
        return undone.report


def _store(connection: sa.Connection, rows: list[Sample], origins: list[str]) -> _Stored:
    inserted, conflicts = store(connection, rows, origins)
    if inserted + len(conflicts) == len(rows):
        return inserted, conflicts, 0
    withdrawn, apart = withdrawn_of(connection, rows), set(conflicts)
    return inserted, conflicts, sum(row[0] in withdrawn and at not in apart for at, row in enumerate(rows))


class _Undone(Exception):
    def __init__(self, report: ImportReport) -> None:
        self.report = report


def _check(sources: Sequence[str], options: ImportOptions, now_ms: int) -> None:
    """Find what is wrong with any file before a row of the first goes in."""
    if not sources:
        raise UsageError("no file to import; name files, or - for standard input")
    prefixes = [prefix_of(name, options) for name in sources]
    if options.id_from_line and len(set(prefixes)) < len(prefixes):
        raise UsageError("two files would give the same ids; import them one by one, each with its own --id-prefix")
    for name in sources:
        format_of(name, options)
        path = Path(name)
        if options.rejects is not None and options.rejects.resolve() == path.resolve():
            raise UsageError(f"--rejects {options.rejects} would overwrite a file to import; name another")
        if _is_repeatable(name) or (name != STDIN and not path.exists()):
            with open_lines(name) as lines:
                read_records(lines, options, now_ms)


def _is_repeatable(name: str) -> bool:
    """Standard input and other pipes can be read only once; a second reading would look like an empty file."""
    return name != STDIN and Path(name).is_file()


_Reject = Callable[[RefusedRow, bytes], None]


@contextmanager
def _rejects_file(path: Path | None) -> Iterator[_Reject]:
    if path is None:
        yield lambda _row, _raw: None
        return
    try:
        file = path.open("w", encoding="utf-8", newline="", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"--rejects {path}: {error.strerror}; name a file that can be written") from error
    with file:
        out = csv.writer(file)
        out.writerow(("file", "line", "column", "reason", "text"))

        def reject(row: RefusedRow, raw: bytes) -> None:
            text = raw.decode(errors="backslashreplace").rstrip("\r\n")
            out.writerow((row.file, row.line, row.column, row.reason, text))

        yield reject


_Stored = tuple[int, list[int], int]
"""How many rows went in, the positions of those in conflict, and how many of the others were withdrawn."""
_Load = Callable[[Callable[[sa.Connection], _Stored]], _Stored]
"""Runs the work of one chunk in a transaction."""


class _ImportRun:
    """The files of one call and what has become of them."""

    def __init__(
        self,
        sources: Sequence[str],
        options: ImportOptions,
        now_ms: int,
        on_progress: OnProgress,
        stdin: BinaryIO | None,
    ) -> None:
        self._sources = sources
        self._options = options
        self._now_ms = now_ms
        self._on_progress = on_progress
        self._stdin = stdin
        self._begun = False

    def load_all(self, load: _Load) -> ImportReport:
        """Every file, from the first."""
        self._begun, self._load, self._report = True, load, ImportReport()
        with _rejects_file(self._options.rejects) as self._reject:
            for name in self._sources:
                with open_lines(name, self._stdin) as lines:
                    self._load_file(lines)
        return self._report

    def all_or_nothing(self, connection: sa.Connection) -> ImportReport:
        """Every file within one transaction, which may be run again. Raises _Undone to have it rolled back."""
        if self._begun and not all(map(_is_repeatable, self._sources)):
            raise DatabaseBusy("another program holds the same samples; nothing was imported, try again")
        report = self.load_all(lambda chunk: chunk(connection))
        if report.rejected or report.conflicts:
            report.committed = False
            raise _Undone(report)
        return report

    def _load_file(self, lines: Lines) -> None:
        records = read_records(lines, self._options, self._now_ms)
        while self._load_chunk(lines.name, islice(records, self._options.chunk_rows)):
            self._on_progress(lines.name, lines.bytes_read, self._report.read)

    def _load_chunk(self, file: str, records: Iterator[Record]) -> bool:
        """False at the end of the file."""
        before = self._report.read
        rows: list[Sample] = []
        numbers: list[int] = []
        for number, raw, outcome in records:
            self._report.read += 1
            if isinstance(outcome, BadRow):
                self._refuse(file, number, raw, outcome)
            else:
                rows.append(outcome)
                numbers.append(number)
        if rows:
            origins = [f"{file}:{number}" for number in numbers]
            inserted, conflicts, withdrawn = self._load(lambda connection: _store(connection, rows, origins))
            self._count(file, rows, numbers, inserted, conflicts)
            self._report.withdrawn += withdrawn
        return self._report.read > before

    def _refuse(self, file: str, number: int, raw: bytes, bad: BadRow) -> None:
        report = self._report
        report.rejected += 1
        report.reasons[bad.reason] += 1
        text = bad.text or ("" if bad.column else raw.decode(errors="backslashreplace").strip())
        row = RefusedRow(file, number, bad.column, bad.reason, text[:MAX_SHOWN_CHARS])
        self._reject(row, raw)
        if len(report.first_rejects) < FIRST_FEW:
            report.first_rejects.append(row)

    def _count(self, file: str, rows: list[Sample], numbers: list[int], inserted: int, conflicts: list[int]) -> None:
        report = self._report
        report.inserted += inserted
        report.conflicts += len(conflicts)
        report.already_there += len(rows) - inserted - len(conflicts)
        for at in conflicts[: FIRST_FEW - len(report.first_conflicts)]:
            report.first_conflicts.append(RefusedRow(file, numbers[at], "id", "conflict", rows[at][0]))
