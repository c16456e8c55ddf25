"""From lines to records: the content of a CSV file, and the format of any file.

Guarantee: every line that is not blank becomes part of exactly one record, under its own number, for any bytes it
holds. A broken record is refused with all its lines, for they may be the inside of a field. Memory is bounded by the
longest record, not by the file.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from typing import Final

from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.worker.sources.samples.jsonl import jsonl_records
from drawdown.worker.sources.samples.lines import MAX_LINE_BYTES, STDIN, Lines, Record, is_blank, text_of, unzipped
from drawdown.worker.sources.samples.made import RESERVED_IDS
from drawdown.worker.sources.samples.rows import ImportOptions, RowReader, Sample
from drawdown.worker.sources.samples.values import REASONS, BadRow

MAX_RECORD_LINES: Final = 256
"""A quoted field may span lines, but not the rest of the file: then its quote was left open."""
MAX_PREFIX_CHARS: Final = 180
"""Leaves room for a line number within an id."""


_SUFFIXES: Final = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def format_of(name: str, options: ImportOptions) -> str:
    """`csv` or `jsonl`. Errors: UsageError where neither the option nor the suffix says."""
    found = options.format or _SUFFIXES.get(unzipped(name).suffix.lower())
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
        path = unzipped(name)
        prefix = path.stem if path.suffix.lower() in _SUFFIXES else path.name
    if len(prefix) > MAX_PREFIX_CHARS or not is_clean_id(prefix):
        raise UsageError(f"--id-prefix {prefix!r}: use 1 to {MAX_PREFIX_CHARS} characters without control characters")
    if f"{prefix}:" in RESERVED_IDS:
        raise UsageError(f"--id-prefix {prefix}: ids of samples made here begin with it; choose another")
    return prefix


def read_records(lines: Lines, options: ImportOptions, now_ms: int) -> Iterator[Record]:
    """Each record of a file, refused or not. The header is read at once.

    Errors: UsageError for a header without the fields needed; DrawdownError where the file breaks off.
    """
    prefix = prefix_of(lines.name, options)
    if format_of(lines.name, options) == "jsonl":
        keys = options.sources()
        return jsonl_records(lines, keys, RowReader(lines.name, keys, options, prefix, now_ms), options)
    header = _header(lines)
    return _csv_records(lines, RowReader(lines.name, header, options, prefix, now_ms))


def _header(lines: Lines) -> list[str]:
    for number, raw in lines:
        if is_blank(raw):
            continue
        header = _quoted(lines, number, raw)[1]
        if isinstance(header, BadRow):
            why = REASONS[header.reason] + (f": {header.text}" if header.text else "")
            raise UsageError(f"{lines.name}: line {number} is no CSV header ({why})")
        twice = sorted(column for column, times in Counter(header).items() if times > 1)
        if twice:
            raise UsageError(f"{lines.name}: the header names {', '.join(map(repr, twice))} twice; rename one of them")
        return header
    raise UsageError(f"{lines.name}: has only blank lines; give a file with a header")


def _csv_records(lines: Lines, read: RowReader) -> Iterator[Record]:
    inside = False  # of a quote that a refused record left open
    for number, raw in lines:
        if is_blank(raw):
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
                outcome = read(text_of(raw).split(","), number)
        except BadRow as bad:
            outcome = bad
        yield number, whole, outcome


def _turns(raw: bytes) -> bool:
    """Whether a quote is open after these lines that was closed before them, or the other way round."""
    return raw.count(b'"') % 2 == 1


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
