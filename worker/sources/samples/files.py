"""From files to rows: opening, unpacking, decoding, and what CSV and JSON lines say.

Guarantee: every line that is not blank becomes part of exactly one record, under its own number, whatever bytes it
holds; a broken record is refused with all its lines, for they may be the inside of a field; memory is bounded by the
longest record, not by the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

from drawdown.schema.errors import DrawdownError, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.worker.sources.samples.rows import ID_FIELDS, ImportOptions, RowReader, Sample
from drawdown.worker.sources.samples.values import BadRow

STDIN: Final = "-"
MAX_LINE_BYTES: Final = 1 << 20
MAX_PASSED_OVER_BYTES: Final = 64 << 20
"""Of a line that is too long: one without an end, as /dev/zero or a packed file may hold, ends the import."""
MAX_FILE_LINES: Final = 10**9
"""Of one file: a stream without an end ends, too; a larger file can be given in parts."""
MAX_RECORD_LINES: Final = 256
"""A quoted field may span lines, but not the rest of the file: then its quote was left open."""
MAX_PREFIX_CHARS: Final = 180
"""Leaves room for a line number within an id."""

Record = tuple[int, bytes, Sample | BadRow]
"""The number of its first line, its bytes, and what came of it."""

_SUFFIXES: Final = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_BOM: Final = b"\xef\xbb\xbf"


def format_of(name: str, options: ImportOptions) -> str:
    """`csv` or `jsonl`. Errors: UsageError where neither the option nor the suffix says."""
    found = options.format or _SUFFIXES.get(_unzipped(name).suffix.lower())
    if found is None:
        raise UsageError(f"{name}: is it CSV or JSON lines? Give --format csv or --format jsonl")
    return found


def prefix_of(name: str, options: ImportOptions) -> str | None:
    """What ids made from line numbers begin with; None where the file has ids of its own. Errors: UsageError."""
    if not options.id_from_line:
        return None
    prefix = options.id_prefix
    if prefix is None:
        if name == STDIN:
            raise UsageError("standard input has no name to make ids from: give --id-prefix")
        path = _unzipped(name)
        prefix = path.stem if path.suffix.lower() in _SUFFIXES else path.name
    if len(prefix) > MAX_PREFIX_CHARS or not is_clean_id(prefix):
        raise UsageError(f"--id-prefix {prefix!r}: use 1 to {MAX_PREFIX_CHARS} characters without control characters")
    return prefix


def _unzipped(name: str) -> Path:
    path = Path(name)
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path


class _Counted(io.RawIOBase):
    """Counts the bytes that are read of a file before they are unpacked."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = cast(io.BufferedIOBase, self._raw).readinto(buffer)
        self.count += size
        return size


class Lines:
    """The lines of a file with their numbers; a line may be put back.

    Errors: DrawdownError where the file cannot be read to its end.
    """

    def __init__(self, name: str, raw: BinaryIO) -> None:
        self.name = name
        self._number = 0
        self._back: deque[tuple[int, bytes]] = deque()
        self._counted = _Counted(raw)
        buffered = io.BufferedReader(self._counted, MAX_LINE_BYTES)
        packed = buffered.peek(2)[:2] == b"\x1f\x8b"
        self._stream: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=buffered)) if packed else buffered

    @property
    def bytes_read(self) -> int:
        """Bytes taken from the file itself, before they are unpacked."""
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
            raise DrawdownError(f"{self.name}: more than {MAX_FILE_LINES:,} lines; give the rest as a file of its own")
        if self._number == 1 and raw.startswith(_BOM):
            raw = raw[len(_BOM) :]
        return self._number, raw

    def put_back(self, lines: list[tuple[int, bytes]]) -> None:
        """These come next, in this order."""
        self._back.extendleft(reversed(lines))

    def _line(self) -> bytes:
        """The next line with its end; of one that is too long a byte too many, and the rest is passed over."""
        try:
            raw = rest = self._stream.readline(MAX_LINE_BYTES + 1)
            passed = 0
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = self._stream.readline(MAX_LINE_BYTES + 1)
                passed += len(rest)
                if passed > MAX_PASSED_OVER_BYTES:
                    raise DrawdownError(
                        f"{self.name}: line {self._number + 1} does not end within {MAX_PASSED_OVER_BYTES >> 20} MiB: "
                        "it is no file of samples; what came before it is imported"
                    )
            return raw
        except (OSError, EOFError, zlib.error) as error:
            raise DrawdownError(
                f"{self.name}: cannot be read beyond line {self._number} ({error}); mend the file and import all of it "
                "again, nothing is counted twice"
            ) from error


@contextmanager
def open_lines(name: str, stdin: BinaryIO | None = None) -> Iterator[Lines]:
    """The lines of a file, or of standard input for `-`; gzip is known by its first bytes.

    Errors: UsageError where there is no such file, it may not be read, or it is empty.
    """
    if name == STDIN:
        yield _begun(Lines(name, stdin if stdin is not None else sys.stdin.buffer))
        return
    try:
        raw = Path(name).open("rb")  # noqa: SIM115 -- closed below
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name}: {getattr(error, 'strerror', None) or error}; give a file that can be read"
        ) from error
    with raw:
        yield _begun(Lines(name, raw))


def _begun(lines: Lines) -> Lines:
    first = next(lines, None)
    if first is None or (first[1] == b""):
        raise UsageError(f"{lines.name}: is empty; give a file with samples")
    lines.put_back([first])
    return lines


def read_records(lines: Lines, options: ImportOptions, now_ms: int) -> Iterator[Record]:
    """Each record of a file, refused or not. The header is read at once.

    Errors: UsageError for a header without the fields needed; DrawdownError where the file breaks off.
    """
    prefix = prefix_of(lines.name, options)
    if format_of(lines.name, options) == "jsonl":
        keys = options.sources()
        return _jsonl_records(lines, keys, RowReader(lines.name, keys, options, prefix, now_ms), options)
    header = _header(lines)
    return _csv_records(lines, RowReader(lines.name, header, options, prefix, now_ms))


def _header(lines: Lines) -> list[str]:
    for number, raw in lines:
        if _is_blank(raw):
            continue
        header = _quoted(lines, number, raw)[1]
        if isinstance(header, BadRow):
            raise UsageError(f"{lines.name}: line {number} is no CSV header ({header.reason}: {header.text})")
        twice = sorted(column for column, times in Counter(header).items() if times > 1)
        if twice:
            raise UsageError(f"{lines.name}: the header names {', '.join(map(repr, twice))} twice; rename one of them")
        return header
    raise UsageError(f"{lines.name}: has only blank lines; give a file with a header")


def _csv_records(lines: Lines, read: RowReader) -> Iterator[Record]:
    inside = False  # of a quote that a refused record left open
    for number, raw in lines:
        if _is_blank(raw):
            continue
        if inside:
            inside ^= _turns(raw)
            yield number, raw, BadRow("", "csv_syntax", "inside a quote that an earlier line left open")
            continue
        whole = raw
        outcome: Sample | BadRow
        try:
            if b'"' in raw:
                whole, found = _quoted(lines, number, raw, read)
                outcome = found if isinstance(found, BadRow) else read(found, number)
                inside = isinstance(found, BadRow) and _turns(whole)
            else:  # then CSV is no more than this
                outcome = read(_text(raw).split(","), number)
        except BadRow as bad:
            outcome = bad
        yield number, whole, outcome


def _turns(raw: bytes) -> bool:
    """Whether a quote is open after these lines that was closed before them, or the other way round."""
    return raw.count(b'"') % 2 == 1


def _is_blank(raw: bytes) -> bool:
    return not raw.strip(b"\r\n")


def _text(raw: bytes) -> str:
    if len(raw) > MAX_LINE_BYTES:
        raise BadRow("", "line_too_long")
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadRow("", "not_utf8") from error


def _quoted(lines: Lines, number: int, raw: bytes, read: RowReader | None = None) -> tuple[bytes, list[str] | BadRow]:
    """A record that has quotes, with the lines it spans.

    Where it cannot be a row, all of its lines are refused with it: they are the inside of a field, and whoever wrote
    that text must not be able to write samples. So a quote left open costs what follows it, and says so.
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

    csv.field_size_limit(2 * MAX_LINE_BYTES)  # the bound on a record is ours, and refuses it whole
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
        return whole, BadRow("", "csv_syntax", "it spans lines and is no row")
    return whole, fields


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRow("", "duplicate_keys")
    return found


# Numbers stay the text they were written as: exact, and bounded however large, until a field's own reader has looked.
_decode: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_float=str, parse_int=str, parse_constant=str, strict=True
).decode


def _jsonl_records(lines: Lines, keys: list[str], read: RowReader, options: ImportOptions) -> Iterator[Record]:
    ids = {options.source_of(name): name for name in reversed(ID_FIELDS)}
    for number, raw in lines:
        if _is_blank(raw):
            continue
        outcome: Sample | BadRow
        try:
            row = _object(_text(raw))
            outcome = read([_scalar(row.get(key), ids.get(key)) for key in keys], number)
        except BadRow as bad:
            outcome = bad
        yield number, raw, outcome


def _object(text: str) -> dict[str, Any]:
    try:
        row = _decode(text)
    except (ValueError, RecursionError) as error:
        raise BadRow("", "not_json") from error
    if not isinstance(row, dict):
        raise BadRow("", "not_an_object")
    return row


def _scalar(value: Any, id_field: str | None) -> str:
    """What a field's reader is given; null is as good as missing."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if id_field:
        raise BadRow(id_field, f"bad_{id_field}", json.dumps(value))
    return json.dumps(value)  # true, [] and {} are no numbers and no times
