"""Import samples from files.

This module converts files to lines, lines to records, and records to rows.

Guarantee: if an import fails half-way, a repeated import ends in the same rows. A sample is inserted once by its id,
and the same id with different content is quarantined (S7). Every row counts exactly once: as inserted, already there,
rejected, or in conflict. Every line that is not blank, with any bytes, becomes a part of exactly one record, under its
own number. A broken record is refused with all its lines, because they may be inside a field. The memory depends on the
longest record, not on the size of the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, BinaryIO, Final, cast

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.errors import DrawdownError, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import quote_value
from drawdown.worker.sources.samples.rows import (
    ID_FIELDS,
    REASONS,
    RESERVED_IDS,
    BadRow,
    ImportOptions,
    RowReader,
    Sample,
    meaning,
)
from drawdown.worker.sources.samples.store import store, withdrawn_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FIRST_FEW: Final = 20
MAX_SHOWN_CHARS: Final = 120
"""Characters of a refused row that the report shows."""

OnProgress = Callable[[str, int, int], None]
"""A function that gets a file's name, the bytes read of the file, and the rows read in all files so far."""


@dataclass(frozen=True)
class RefusedRow:
    """A row that was not imported, and the reason."""

    file: str
    line: int
    column: str
    """The invalid column; empty if the whole row is invalid."""
    reason: str
    text: str
    """The invalid text, shortened to MAX_SHOWN_CHARS."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: {self.column} {meaning(self.reason)}".replace(":  ", ": ")
        return f"{where}: {self.text!r}" if self.text else where


@dataclass
class ImportReport:
    """The outcome of an import.

    The numbers add up: `read = inserted + already_there + rejected + conflicts`.
    """

    read: int = 0
    inserted: int = 0
    already_there: int = 0
    withdrawn: int = 0
    """Rows with samples that were withdrawn before, so they are never billed."""
    rejected: int = 0
    conflicts: int = 0
    committed: bool = True
    """False: a strict import found a rejected or conflicting row, and was rolled back."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Numbers of rejected rows, by reason."""
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
    """Import files in this order (`-`: standard input).

    Each transaction imports `options.chunk_rows` rows. With `options.strict`, one transaction imports all rows, or is
    rolled back. That transaction begins after pipes are read.

    Errors: UsageError for invalid files and options before any change, and for an invalid pipe when it is read.
    DatabaseBusy; DatabaseNotReady. DrawdownError if a file cannot be read to its end. In these cases, committed rows
    stay, and a repeated import adds the other rows.
    """
    _check(sources, options, now_ms)
    run = _ImportRun(sources, options, now_ms, on_progress, stdin)
    if not options.strict:
        return run.load_all(lambda chunk: write(engine, chunk))
    with run.pipes_kept():
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
    """Check all files and options before the first row is imported.

    Errors: UsageError; DrawdownError.
    """
    if not sources:
        raise UsageError("missing file. Name the files to import, or - for standard input")
    prefixes = [prefix_of(name, options) for name in sources]
    if options.id_from_line and len(set(prefixes)) < len(prefixes):
        raise UsageError(
            "two files would give the same ids. If they have the same rows, import only one of them. Otherwise, import "
            "them one by one, each with its own --id-prefix"
        )
    for name in sources:
        format_of(name, options)
        path = Path(name)
        if options.rejects is not None and options.rejects.resolve() == path.resolve():
            raise UsageError(f"--rejects {options.rejects} would overwrite a file to import. Name another file")
        if _is_repeatable(name) or (name != STDIN and not path.exists()):
            with open_lines(name) as lines:
                read_records(lines, options, now_ms)


def _is_repeatable(name: str) -> bool:
    """Return True if a source can be read twice.

    A pipe, such as standard input, would be empty the second time.
    """
    return name != STDIN and Path(name).is_file()


def _copy(lines: NumberedLines) -> BinaryIO:
    """Copy lines into a temporary file, unpacked and within the bounds of a file.

    Each line gets an end. Errors: DrawdownError if the file cannot be created or written.
    """
    try:
        with ExitStack() as opened:
            file = opened.enter_context(TemporaryFile())
            for _, raw in lines:
                file.write(raw if raw.endswith(b"\n") else raw + b"\n")
            file.flush()
            opened.pop_all()
    except OSError as error:  # closing the file may fail, too, because it writes the buffer again
        raise DrawdownError(
            f"{lines.name}: cannot be stored in a temporary file ({error.strerror}). Set TMPDIR to a folder with "
            "enough space, and repeat the import"
        ) from error
    return cast(BinaryIO, file)


_Reject = Callable[[RefusedRow, bytes], None]


@contextmanager
def _rejects_file(path: Path | None) -> Iterator[_Reject]:
    if path is None:
        yield lambda _row, _raw: None
        return
    try:
        file = path.open("w", encoding="utf-8", newline="", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"--rejects {path}: {error.strerror}. Name a file that Drawdown can write") from error
    with file:
        out = csv.writer(file)
        out.writerow(("file", "line", "column", "reason", "text"))

        def reject(row: RefusedRow, raw: bytes) -> None:
            text = raw.decode(errors="backslashreplace").rstrip("\r\n")
            out.writerow((row.file, row.line, row.column, row.reason, text))

        yield reject


_Stored = tuple[int, list[int], int]
"""The number of inserted rows, the positions of rows in conflict, and the number of withdrawn rows."""
_Load = Callable[[Callable[[sa.Connection], _Stored]], _Stored]
"""A function that runs the work of one chunk in a transaction."""


class _ImportRun:
    """The files of one import, and its report."""

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
        self._kept: dict[int, BinaryIO] = {}
        """Copies of sources that can be read only once, by their places."""

    @contextmanager
    def pipes_kept(self) -> Iterator[None]:
        """Copy pipes into temporary files.

        Without the copy, the transaction would keep its locks while the programs that write to the pipes pause.

        Errors: UsageError for an empty pipe. DrawdownError if a pipe cannot be read to its end, or cannot be copied.
        """
        with ExitStack() as opened:
            for place, name in enumerate(self._sources):
                if not _is_repeatable(name):
                    with open_lines(name, self._stdin) as lines:
                        self._kept[place] = opened.enter_context(_copy(lines))
            yield

    @contextmanager
    def _open(self, place: int, name: str) -> Iterator[NumberedLines]:
        if place not in self._kept:
            with open_lines(name, self._stdin) as lines:
                yield lines
            return
        self._kept[place].seek(0)
        yield NumberedLines(name, self._kept[place])

    def load_all(self, load: _Load) -> ImportReport:
        """Import all files in their order. Return the report."""
        self._load, self._report = load, ImportReport()
        with _rejects_file(self._options.rejects) as self._reject:
            for place, name in enumerate(self._sources):
                with self._open(place, name) as lines:
                    self._load_file(lines)
        return self._report

    def all_or_nothing(self, connection: sa.Connection) -> ImportReport:
        """Import all files in one transaction, which the caller may retry.

        Errors: _Undone if a row is rejected or in conflict, so that the transaction is rolled back.
        """
        report = self.load_all(lambda chunk: chunk(connection))
        if report.rejected or report.conflicts:
            report.committed = False
            raise _Undone(report)
        return report

    def _load_file(self, lines: NumberedLines) -> None:
        records = read_records(lines, self._options, self._now_ms)
        while self._load_chunk(lines.name, islice(records, self._options.chunk_rows)):
            self._on_progress(lines.name, lines.bytes_read, self._report.read)

    def _load_chunk(self, file: str, records: Iterator[Record]) -> bool:
        """Import one chunk. Return False at the end of the file."""
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


MAX_RECORD_LINES: Final = 256
"""Lines that one quoted field may span.

If a field has more, its closing quote is probably missing.
"""
MAX_PREFIX_CHARS: Final = 180
"""Characters of an id prefix. The rest of an id is for the line number."""


_SUFFIXES: Final = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def format_of(name: str, options: ImportOptions) -> str:
    """Return the format of a file, `csv` or `jsonl`.

    Errors: UsageError if neither option nor suffix determines it.
    """
    found = options.format or _SUFFIXES.get(unzipped(name).suffix.lower())
    if found is None:
        raise UsageError(f"{name}: unknown format. Pass --format csv or --format jsonl")
    return found


def prefix_of(name: str, options: ImportOptions) -> str | None:
    """Return the prefix of ids made from line numbers; None if the file contains ids.

    Errors: UsageError for an invalid prefix, or if standard input needs one.
    """
    if not options.id_from_line:
        return None
    prefix = options.id_prefix
    if prefix is None:
        if name == STDIN:
            raise UsageError("cannot make ids, because standard input does not have a name. Pass --id-prefix")
        path = unzipped(name)
        prefix = path.stem if path.suffix.lower() in _SUFFIXES else path.name
    if len(prefix) > MAX_PREFIX_CHARS or not is_clean_id(prefix):
        raise UsageError(
            f"invalid prefix of ids {quote_value(prefix)}: expected 1 to {MAX_PREFIX_CHARS} characters without control "
            "characters. Pass another --id-prefix"
        )
    if f"{prefix}:".startswith(RESERVED_IDS):
        raise UsageError(
            f"invalid prefix of ids {quote_value(prefix)}: Drawdown reserves ids that begin with "
            f"{quote_value(prefix + ':')}. Choose another --id-prefix"
        )
    return prefix


def read_records(lines: NumberedLines, options: ImportOptions, now_ms: int) -> Iterator[Record]:
    """Return an iterator over the records of a file, including refused records.

    The call reads the header immediately, and the iterator reads the records.

    Errors: UsageError for a header without the required fields; DrawdownError if the file cannot be read to its end.
    """
    prefix = prefix_of(lines.name, options)
    if format_of(lines.name, options) == "jsonl":
        keys = options.sources()
        return jsonl_records(lines, keys, RowReader(lines.name, keys, options, prefix, now_ms), options)
    header = _header(lines)
    return _csv_records(lines, RowReader(lines.name, header, options, prefix, now_ms))


def _header(lines: NumberedLines) -> list[str]:
    for number, raw in lines:
        if is_blank(raw):
            continue
        header = _quoted(lines, number, raw)[1]
        if isinstance(header, BadRow):
            why = REASONS[header.reason] + (f": {header.text}" if header.text else "")
            raise UsageError(f"{lines.name}: line {number} is not a CSV header ({why}). Name the columns in this line")
        twice = sorted(column for column, times in Counter(header).items() if times > 1)
        if twice:
            raise UsageError(
                f"{lines.name}: the header repeats {', '.join(map(repr, twice))}. Give each column its own name"
            )
        return header
    raise UsageError(f"{lines.name}: the file has only blank lines. Name a file with a header")


def _csv_records(lines: NumberedLines, read: RowReader) -> Iterator[Record]:
    inside = False  # True inside a quote that a refused record left open
    for number, raw in lines:
        if is_blank(raw):
            continue
        if inside:
            inside ^= _flips_quote(raw)
            yield number, raw, BadRow("", "csv_syntax", "inside a quote that an earlier line left open")
            continue
        whole = raw
        outcome: Sample | BadRow
        try:
            if b'"' in raw:
                whole, found = _quoted(lines, number, raw, read)
                outcome = found if isinstance(found, BadRow) else read(found, number)
                inside = isinstance(found, BadRow) and _flips_quote(whole)
            else:  # without quotes, a comma always separates fields
                outcome = read(text_of(raw).split(","), number)
        except BadRow as bad:
            outcome = bad
        yield number, whole, outcome


def _flips_quote(raw: bytes) -> bool:
    """Return True if these lines open a closed quote, or close an open quote."""
    return raw.count(b'"') % 2 == 1


def _quoted(
    lines: NumberedLines, number: int, raw: bytes, read: RowReader | None = None
) -> tuple[bytes, list[str] | BadRow]:
    """Return the bytes of a record with quotes, and its fields or its refusal.

    If the record cannot be a row, refuse all its lines. The lines may be inside a field, and the author of that field
    must not be able to write samples. If a quote stays open, the lines after it are refused, too. The reason names the
    open quote.
    """
    taken, clean = [(number, raw)], True

    def feed() -> Iterator[str]:
        nonlocal clean
        size, line = 0, raw
        while size < MAX_LINE_BYTES and len(taken) <= MAX_RECORD_LINES:
            size += len(line)
            clean = clean and _is_utf8(line)
            yield line.decode("utf-8", "replace").rstrip("\r\n") + "\n"
            following = next(lines, None)
            if following is None:
                return
            taken.append(following)
            line = following[1]

    csv.field_size_limit(2 * MAX_LINE_BYTES)  # above our own limit, so that our check refuses the whole record
    try:
        fields = next(csv.reader(feed(), strict=True))
    except csv.Error as error:
        return b"".join(line for _, line in taken), BadRow("", "csv_syntax", str(error))
    whole = b"".join(line for _, line in taken)
    if len(raw) > MAX_LINE_BYTES:
        return whole, BadRow("", "line_too_long")
    if not clean:
        return whole, BadRow("", "not_utf8")
    if len(taken) > 1 and read is not None and (len(fields) != read.width or read.has_line_break(fields)):
        return whole, BadRow("", "csv_syntax", "it spans lines and is not a row")
    return whole, fields


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRow("", "duplicate_keys")
    return found


# Numbers stay texts until a field's reader converts them, so they are exact, and a huge number does not cost more.
_decode: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_float=str, parse_int=str, parse_constant=str, strict=True
).decode


def jsonl_records(lines: NumberedLines, keys: list[str], read: RowReader, options: ImportOptions) -> Iterator[Record]:
    ids = {options.source_of(name): name for name in reversed(ID_FIELDS)}
    for number, raw in lines:
        if is_blank(raw):
            continue
        outcome: Sample | BadRow
        try:
            row = _object(text_of(raw))
            outcome = read([_scalar(row.get(key), ids.get(key)) for key in keys], number)
        except BadRow as bad:
            outcome = bad
        yield number, raw, outcome


def _object(text: str) -> dict[str, object]:
    try:
        row = _decode(text)
    except (ValueError, RecursionError) as error:
        raise BadRow("", "not_json") from error
    if not isinstance(row, dict):
        raise BadRow("", "not_an_object")
    return row


def _scalar(value: object, id_field: str | None) -> str:
    """Return the text of a JSON value for a field's reader. null counts as missing.

    Errors: BadRow for an id.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if id_field:
        raise BadRow(id_field, f"bad_{id_field}", json.dumps(value))
    return json.dumps(value)  # the reader refuses true, [] and {}


STDIN: Final = "-"


MAX_LINE_BYTES: Final = 1 << 20
"""Largest size of a line in a file of samples."""


MAX_PASSED_OVER_BYTES: Final = 64 << 20
"""Bytes of an overlong line that the import skips.

A longer line, such as that of /dev/zero, ends the import.
"""


MAX_BLANK_BYTES: Final = 1 << 20
"""Unpacked bytes of successive blank lines in a file of samples.

A small packed file may unpack to so many that they take hours to read.
"""


MAX_FILE_LINES: Final = 10**9
"""Lines of one file of samples.

Split a larger file. The limit also ends an endless stream.
"""


Record = tuple[int, bytes, Sample | BadRow]
"""The number of a record's first line, its bytes, and its sample or the reason of its refusal."""


_BOM: Final = b"\xef\xbb\xbf"
_AGAIN: Final = "Fix the file, and import all of it again, because each row counts once"


def unzipped(name: str) -> Path:
    path = Path(name)
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


class _Counted(io.RawIOBase):
    """A file that counts the bytes read from it, before they are unpacked."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        size = cast(io.BufferedIOBase, self._raw).readinto(buffer)
        self.count += size
        return size


class NumberedLines:
    """An iterator over the lines of a file with their numbers. You can put lines back.

    Errors: DrawdownError if the file cannot be read to its end.
    """

    def __init__(self, name: str, raw: BinaryIO) -> None:
        self.name = name
        self._number = 0
        self._blank_bytes = 0
        self._back: deque[tuple[int, bytes]] = deque()
        self._counted = _Counted(raw)
        buffered = io.BufferedReader(self._counted, MAX_LINE_BYTES)
        packed = buffered.peek(2)[:2] == b"\x1f\x8b"
        self._stream: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=buffered)) if packed else buffered

    @property
    def bytes_read(self) -> int:
        """Return the number of bytes read from the file, before they are unpacked."""
        return self._counted.count

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return self

    def __next__(self) -> tuple[int, bytes]:
        if self._back:
            return self._back.popleft()
        raw = self._line()
        if not raw:
            raise StopIteration
        self._number += 1
        if self._number > MAX_FILE_LINES:
            raise DrawdownError(
                f"{self.name}: more than {MAX_FILE_LINES:,} lines. Split the file after the last whole row within "
                "this limit, and import all parts. With --id-from-line, keep the file name or the --id-prefix for "
                "the first part, and give each other part its own"
            )
        self._blank_bytes = self._blank_bytes + len(raw) if is_blank(raw) else 0
        if self._blank_bytes > MAX_BLANK_BYTES:
            raise DrawdownError(
                f"{self.name}: not a file of samples or events, because it has more than {MAX_BLANK_BYTES >> 20} MiB "
                f"of blank lines up to line {self._number}. {_AGAIN}"
            )
        if self._number == 1 and raw.startswith(_BOM):
            raw = raw[len(_BOM) :]
        return self._number, raw

    def put_back(self, lines: list[tuple[int, bytes]]) -> None:
        """Put lines back, so that the iterator returns them next, in this order."""
        self._back.extendleft(reversed(lines))

    def _line(self) -> bytes:
        """Return the next line with its end.

        If the line is too long, return one byte more than the bound, and skip the rest.
        """
        try:
            raw = rest = self._stream.readline(MAX_LINE_BYTES + 1)
            passed = 0
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = self._stream.readline(MAX_LINE_BYTES + 1)
                passed += len(rest)
                if passed > MAX_PASSED_OVER_BYTES:
                    raise DrawdownError(
                        f"{self.name}: not a file of samples or events, because line {self._number + 1} does not end "
                        f"within {MAX_PASSED_OVER_BYTES >> 20} MiB. {_AGAIN}"
                    )
            return raw
        except (OSError, EOFError, zlib.error) as error:
            raise DrawdownError(
                f"{self.name}: cannot be read beyond line {self._number} ({error}). {_AGAIN}"
            ) from error


@contextmanager
def open_lines(name: str, stdin: BinaryIO | None = None) -> Iterator[NumberedLines]:
    """Open the lines of a file, or of standard input for `-`.

    The first bytes show whether the content is gzip.

    Errors: UsageError if the file does not exist, cannot be opened, or is empty. DrawdownError if its first line cannot
    be read.
    """
    if name == STDIN:
        yield _begun(NumberedLines(name, stdin if stdin is not None else sys.stdin.buffer))
        return
    try:
        raw = Path(name).open("rb")  # noqa: SIM115 -- closed below
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name}: {getattr(error, 'strerror', None) or error}. Name a file that Drawdown can read"
        ) from error
    with raw:
        yield _begun(NumberedLines(name, raw))


def _begun(lines: NumberedLines) -> NumberedLines:
    first = next(lines, None)
    if first is None or (first[1] == b""):
        raise UsageError(f"{lines.name}: the file is empty. Name a file with samples or events")
    lines.put_back([first])
    return lines


def is_blank(raw: bytes) -> bool:
    return not raw.strip(b"\r\n")


def text_of(raw: bytes) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise BadRow("", "line_too_long")
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadRow("", "not_utf8") from error
