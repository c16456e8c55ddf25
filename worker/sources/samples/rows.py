"""From one row of a file to one sample, or the reason why not.

Guarantee: pure (no files, no clock). A row gives exactly one sample or one reason, the same each time, and a sample it
gives is never quarantined by the database. A mistake of the caller is a UsageError before the first row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Final, Generic, TypeVar

from drawdown.schema.errors import UsageError
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS
from drawdown.worker.sources.samples.values import (
    REASONS,
    BadRow,
    id_reader,
    read_cpu_count,
    read_interval_s,
    read_memory_mb,
    read_sample_id,
    time_reader,
)

T = TypeVar("T")

Sample = tuple[str, str, str, str, int, str | None, int, int, int]
"""One row of `usage_samples`, in the order of COLUMNS."""
FIELDS: Final = ("id", "org_id", "sandbox_id", "cell_id", "memory_mb", "cpu_count", "interval_s", "ts")
COLUMNS: Final = (*FIELDS, "ingested_at")
FORMATS: Final = ("csv", "jsonl")
ID_FIELDS: Final = FIELDS[:4]

_CACHE_LIMIT: Final = 65_536
_INDEXED_BYTES: Final = 1_600
"""A conflict's content is indexed, and PostgreSQL indexes rows of 2,704 bytes at most, its sample's id included."""


@dataclass(frozen=True)
class ImportOptions:
    """How files are read and what becomes of them. Errors: UsageError."""

    format: str | None = None
    """`csv` or `jsonl`; None: by each file's suffix."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field -> the file's own name for it (`--map org_id=groupId`)."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Field -> its text for every row (`--set cell_id=c1`)."""
    id_from_line: bool = False
    """Ids are `PREFIX:LINE`, lines counted from 1, a CSV's header included."""
    id_prefix: str | None = None
    """None: the file's base name without its suffixes."""
    time_format: str = "iso"
    """`iso`, `s`, `ms`, or a strptime pattern."""
    zone: str = "UTC"
    """Where times that name no offset were taken; see `time_reader`."""
    strict: bool = False
    """All files of the call, every row, or nothing."""
    rejects: Path | None = None
    """A CSV file (file, line, column, reason, text) for the refused rows; written anew by each call."""
    chunk_rows: int = 10_000
    """Rows per transaction."""

    def __post_init__(self) -> None:
        given = [*self.columns, *self.constants, *(["id"] if self.id_from_line else [])]
        for name in given:
            if name not in FIELDS:
                raise UsageError(f"no field {name!r} to fill with --map or --set; the fields are {', '.join(FIELDS)}")
            if given.count(name) > 1:
                raise UsageError(f"{name} is given twice; use one of --map, --set and --id-from-line for it")
        if "id" in self.constants:
            raise UsageError("--set id=… would give every row the same id; use --id-from-line")
        if self.format not in (None, *FORMATS):
            raise UsageError(f"--format {self.format}: use {' or '.join(FORMATS)}")
        if self.id_prefix is not None and not self.id_from_line:
            raise UsageError("--id-prefix goes with --id-from-line: without it, each row has an id of its own")
        if self.chunk_rows < 1:
            raise UsageError("a chunk has at least one row")
        time_reader(self.time_format, self.zone)

    def source_of(self, name: str) -> str:
        """What the file calls this field."""
        return self.columns.get(name, name)

    def sources(self) -> list[str]:
        """What the file calls the fields that are read from it, each once."""
        read = [name for name in FIELDS if name not in self.constants and not (name == "id" and self.id_from_line)]
        return list(dict.fromkeys(self.source_of(name) for name in read))


class _Remembered(dict[str, T], Generic[T]):
    """Texts already read: few differ from row to row, and reading is what costs. Bounded."""

    def __init__(self, read: Callable[[str], T]) -> None:
        self._read = read

    def __missing__(self, text: str) -> T:
        value = self._read(text)
        if len(self) >= _CACHE_LIMIT:
            self.clear()
        self[text] = value
        return value


class RowReader:
    """Reads the rows of one file under one header.

    Errors: UsageError where the header lacks a field or a constant is not a value.
    """

    def __init__(self, name: str, header: Sequence[str], options: ImportOptions, prefix: str | None, now_ms: int):
        self._now_ms = now_ms
        self._prefix = prefix
        self.width = len(header)
        self._id = read_sample_id
        self._org = _Remembered(id_reader("org_id"))
        self._sandbox = _Remembered(id_reader("sandbox_id"))
        self._cell = _Remembered(id_reader("cell_id"))
        self._memory = _Remembered(read_memory_mb)
        self._cpu = _Remembered(read_cpu_count)
        self._interval = _Remembered(read_interval_s)
        self._time = time_reader(options.time_format, options.zone)
        self._given = list(options.constants.values())
        self._given.append("")  # for what a file may leave out
        self.positions = [_position(name, field, header, options) for field in FIELDS]
        self._pick = itemgetter(*self.positions)
        self._check_constants(options.constants)

    def __call__(self, fields: list[str], line: int) -> Sample:
        """The sample of a row; `line` is the number of its first line. Raises BadRow."""
        if len(fields) != self.width:
            raise BadRow("", "too_few_columns" if len(fields) < self.width else "too_many_columns")
        id_, org, sandbox, cell, memory, cpu, interval, ts = self._pick(fields + self._given)
        return (
            f"{self._prefix}:{line}" if self._prefix is not None else self._id(id_),
            self._org[org],
            self._sandbox[sandbox],
            self._cell[cell],
            self._memory[memory],
            self._cpu[cpu],
            self._interval[interval],
            self._ts(ts),
            self._now_ms,
        )

    def has_line_break(self, fields: list[str]) -> bool:
        """Whether a field that is used holds a line break; none may, so a quote was left open."""
        return any("\n" in fields[at] for at in self.positions if at < len(fields))

    def _ts(self, text: str) -> int:
        ts = self._time(text)
        if ts < EARLIEST_TS:
            raise BadRow("ts", "ts_before_2000", text)
        if ts > self._now_ms + FUTURE_SLACK_MS:
            raise BadRow("ts", "ts_in_the_future", text)
        return ts

    def _check_constants(self, constants: Mapping[str, str]) -> None:
        readers: dict[str, Callable[[str], object]] = {
            **{name: id_reader(name) for name in ID_FIELDS},
            "memory_mb": read_memory_mb,
            "cpu_count": read_cpu_count,
            "interval_s": read_interval_s,
            "ts": self._ts,
        }
        for name, text in constants.items():
            try:
                readers[name](text)
            except BadRow as bad:
                raise UsageError(f"--set {name}={text}: {name} {meaning(bad.reason)}") from bad


def _position(name: str, field: str, header: Sequence[str], options: ImportOptions) -> int:
    """Where a row, with the constants and an empty text behind it, holds a field."""
    if field in options.constants:
        return len(header) + list(options.constants).index(field)
    source = options.source_of(field)
    if (field == "id" and options.id_from_line) or (field == "cpu_count" and source == field and field not in header):
        return len(header) + len(options.constants)
    if source not in header:
        raise UsageError(
            f"{name}: no column {source!r} for {field}; the file has {', '.join(header)}. Name its column with "
            f"--map {field}=COLUMN, or {'use --id-from-line' if field == 'id' else f'give --set {field}=VALUE'}"
        )
    return list(header).index(source)


def meaning(reason: str) -> str:
    """A reason as a person reads it."""
    return REASONS["bad_id" if reason.startswith("bad_") else reason]


def content(sample: Sample) -> str:
    """What a sample says, as canonical JSON: equal texts for equal content. When it came is no part of it."""
    return content_of(dict(zip(FIELDS[1:], sample[1:8], strict=True)))


def content_of(values: Mapping[str, object]) -> str:
    """As canonical JSON, of a length that the database can index."""
    text = _canonical(values)
    if len(text.encode()) > _INDEXED_BYTES:
        text = _canonical({key: _shortened(value) for key, value in values.items()})
    return text


def _canonical(values: Mapping[str, object]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _shortened(value: object) -> object:
    """Long ids cut, with a digest of the whole so that different ones stay different."""
    if not isinstance(value, str) or len(value) <= 80:
        return value
    return f"{value[:60]}…sha256:{hashlib.sha256(value.encode()).hexdigest()[:32]}"
