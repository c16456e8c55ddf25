"""Convert one row of a file, or one JSON object of a host, to one sample.

If the row or object is refused, the error has the reason.

Guarantee: this module is pure, and exact (integers and Decimals, never a float). A row always gives the same sample or
the same reason, and the database never quarantines such a sample. The time to read a text is at most proportional to
its length, even if the text is a huge number. A reason is the code in the column `usage_samples.problem`, if the
database has a code for it. If a sender is bound to a value, the value fills a missing field of the object, and any
other value is refused. An id cannot be that of a sample of an event, an execution or a batch.

This module also splits a quantity of a feature into samples. The samples add up to the quantity exactly, or the
quantity is refused. A repeated call returns the same ids.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import ROUND_FLOOR, Context, Decimal
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from drawdown.events.body_items import Item
from drawdown.events.envelope import Unfit
from drawdown.events.fields import MOMENT_SCHEMA, from_iso, moment_of
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.ids import ID_SCHEMA, is_clean_id
from drawdown.schema.tables.columns import sample_columns
from drawdown.schema.text import counted, quote_value
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS, MAX_ID_CHARS, MAX_INTERVAL_S, MAX_MEMORY_MB
from drawdown.worker.sources.field_map import FieldMap

T = TypeVar("T")

Sample = tuple[str, str, str, str, int, str | None, int, int, int]
"""One row of `usage_samples`, in the order of COLUMNS."""
FIELDS: Final = tuple(column.name for column in sample_columns())
COLUMNS: Final = (*FIELDS, "ingested_at")
FORMATS: Final = ("csv", "jsonl")
ID_FIELDS: Final = tuple(column.name for column in sample_columns() if isinstance(column.type, sa.Text))

_CACHE_LIMIT: Final = 65_536
"""Values of one field that the cache holds."""
_INDEXED_BYTES: Final = 1_600
"""Most bytes of a conflict's content. PostgreSQL can index at most 2,704 bytes, including the sample's id."""


@dataclass(frozen=True)
class ImportOptions:
    """The options of an import. Errors: UsageError for invalid options."""

    format: str | None = None
    """`csv` or `jsonl` (None: by each file's suffix)."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The column's name, by field (`--map org_id=groupId`)."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """The text for every row, by field (`--set cell_id=c1`)."""
    id_from_line: bool = False
    """True: ids are `PREFIX:LINE`, with lines counted from 1, including a CSV's header."""
    id_prefix: str | None = None
    """The prefix of ids from lines (None: the file's base name without its suffixes)."""
    time_format: str = "iso"
    """The format of times: `iso`, `s`, `ms`, or a strptime pattern."""
    zone: str = "UTC"
    """The time zone of times without an offset (see `time_reader`)."""
    strict: bool = False
    """True: import all rows of all files, or roll back."""
    rejects: Path | None = None
    """A CSV file (file, line, column, reason, text) for the refused rows.

    Each call overwrites the file. None: refused rows are not written.
    """
    chunk_rows: int = 10_000
    """Rows that one transaction imports."""

    def __post_init__(self) -> None:
        FieldMap(self.columns, self.constants).require(FIELDS)
        if "id" in self.constants:
            raise UsageError("--set id=… would give every row the same id. Use --id-from-line")
        if self.id_from_line and "id" in self.columns:
            raise UsageError("the field id has two sources. Specify either --map id=COLUMN or --id-from-line, not both")
        if self.format not in (None, *FORMATS):
            raise UsageError(f"invalid --format {quote_value(self.format)}: expected {' or '.join(FORMATS)}")
        if self.id_prefix is not None and not self.id_from_line:
            raise UsageError(
                "--id-prefix needs --id-from-line. If the rows do not have ids, pass both. Otherwise, omit --id-prefix"
            )
        if self.chunk_rows < 1:
            raise UsageError(f"invalid chunk_rows {self.chunk_rows}: expected 1 or more rows")
        time_reader(self.time_format, self.zone)

    def source_of(self, name: str) -> str:
        """Return the name of a field's column in the file."""
        return self.columns.get(name, name)

    def sources(self) -> list[str]:
        """Return the names of the columns that are read from the file, each once."""
        read = [name for name in FIELDS if name not in self.constants and not (name == "id" and self.id_from_line)]
        return list(dict.fromkeys(self.source_of(name) for name in read))


class _Remembered(dict[str, T], Generic[T]):
    """A bounded cache of values by their text.

    Rows have few different texts, and the conversion is slow.
    """

    def __init__(self, read: Callable[[str], T]) -> None:
        self._read = read

    def __missing__(self, text: str) -> T:
        value = self._read(text)
        if len(self) >= _CACHE_LIMIT:
            self.clear()
        self[text] = value
        return value


class RowReader:
    """A reader of the rows of one file with one header.

    Errors: UsageError if the header lacks a field, or a constant is invalid.
    """

    def __init__(self, name: str, header: Sequence[str], options: ImportOptions, prefix: str | None, now_ms: int):
        self._now_ms = now_ms
        self._prefix = prefix
        self.width = len(header)
        self._id = read_sample_id
        self._org, self._sandbox, self._cell, self._memory, self._cpu, self._interval = (
            _Remembered(SAMPLE_FIELDS[name].read) for name in FIELDS if name not in ("id", "ts")
        )
        self._time = time_reader(options.time_format, options.zone)
        self._given = list(options.constants.values())
        self._given.append("")  # the value of a field that the file may omit
        self.positions = [_position(name, field, header, options) for field in FIELDS]
        self._pick = itemgetter(*self.positions)
        self._check_constants(options.constants)

    def __call__(self, fields: list[str], line: int) -> Sample:
        """Return the sample of a row. Errors: BadRow.

        `line`: the number of its first line.
        """
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
        """Return True if a used field contains a line break.

        Such a field is invalid, and shows that a quote was not closed.
        """
        return any("\n" in fields[at] for at in self.positions if at < len(fields))

    def _ts(self, text: str) -> int:
        ts = self._time(text)
        if ts < EARLIEST_TS:
            raise BadRow("ts", "ts_before_2000", text)
        if ts > self._now_ms + FUTURE_SLACK_MS:
            raise BadRow("ts", "ts_in_the_future", text)
        return ts

    def _check_constants(self, constants: Mapping[str, str]) -> None:
        for name, text in constants.items():
            try:
                (self._ts if name == "ts" else SAMPLE_FIELDS[name].read)(text)
            except BadRow as bad:
                raise UsageError(f"--set {name}={text}: {name} {meaning(bad.reason)}") from bad


def _position(name: str, field: str, header: Sequence[str], options: ImportOptions) -> int:
    """Return the position of a field in a row.

    The constants and an empty text follow the row. Errors: UsageError if the header lacks the field.
    """
    if field in options.constants:
        return len(header) + list(options.constants).index(field)
    source = options.source_of(field)
    is_omitted = SAMPLE_FIELDS[field].optional and source == field and field not in header
    if is_omitted or (field == "id" and options.id_from_line):
        return len(header) + len(options.constants)
    if source not in header:
        raise UsageError(
            f"{name}: missing column {source!r} for {field}: the file has {', '.join(header)}. If another column "
            f"holds {field}, pass --map {field}=COLUMN. Otherwise, "
            f"{'use --id-from-line' if field == 'id' else f'pass --set {field}=VALUE'}"
        )
    return list(header).index(source)


def meaning(reason: str) -> str:
    """Return the text of a reason, to follow the column's name in a sentence."""
    return REASONS["bad_id" if reason.startswith("bad_") else reason]


def content(sample: Sample) -> str:
    """Return a sample's content as canonical JSON.

    Equal content has equal texts. The time of arrival is omitted.
    """
    return content_of(dict(zip(FIELDS[1:], sample[1:-1], strict=True)))


def content_of(values: Mapping[str, object]) -> str:
    """Return values as canonical JSON, of a length that the database can index."""
    text = _canonical(values)
    if len(text.encode()) > _INDEXED_BYTES:
        text = _canonical({key: _shortened(value) for key, value in values.items()})
    return text


def _canonical(values: Mapping[str, object]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _shortened(value: object) -> object:
    """Return a long text cut, with a hash of the whole text.

    With the hash, different texts stay different.
    """
    if not isinstance(value, str) or len(value) <= 80:
        return value
    return f"{value[:60]}…sha256:{hashlib.sha256(value.encode()).hexdigest()[:32]}"


MAX_CPU_COUNT: Final = 100_000
"""Most CPUs of one sample."""
_MAX_NUMBER_CHARS: Final = 100
"""Most characters of a number in a file of samples."""

OF_EVENTS: Final = "event:"
OF_RUNS: Final = "run:"
OF_BATCHES: Final = "batch:"
RESERVED_IDS: Final = (OF_EVENTS, OF_RUNS, OF_BATCHES)
"""Prefixes of the sample ids of events, executions and batches.

Drawdown and the database refuse a host's sample with such an id.
"""
REASONS: Final = {
    "bad_id": "must have 1 to 200 characters and no control characters",
    "reserved_id": f"begins with {', '.join(RESERVED_IDS[:-1])} or {RESERVED_IDS[-1]}, which Drawdown reserves. "
    "Choose another id",
    "memory_missing": "is missing",
    "memory_not_a_number": "is not a number",
    "memory_fractional": "must be whole megabytes",
    "memory_out_of_bounds": f"must be between 0 and {MAX_MEMORY_MB}",
    "interval_missing": "is missing",
    "interval_not_a_number": "is not a number",
    "interval_negative": "is negative",
    "interval_fractional": "must be whole seconds",
    "interval_over_a_day": f"is more than a day ({MAX_INTERVAL_S} s)",
    "ts_missing": "is missing",
    "ts_unreadable": "does not have the time format given (--time-format)",
    "ts_not_in_zone": "does not exist in its zone: the clocks were put forward over it",
    "ts_before_2000": "is before the year 2000. Check the unit (--time-format s, or ms)",
    "ts_in_the_future": "is more than 5 minutes ahead of now",
    "cpu_not_a_number": "is not a number",
    "cpu_out_of_bounds": f"must be between 0 and {MAX_CPU_COUNT}",
    "too_few_columns": "the row has fewer fields than the header",
    "too_many_columns": "the row has more fields than the header",
    "csv_syntax": "the row is not well-formed CSV (a quote left open?)",
    "not_json": "the row is not JSON",
    "not_an_object": "the row is not a JSON object",
    "duplicate_keys": "the row names a key twice",
    "not_utf8": "the row is not UTF-8",
    "line_too_long": "the line is longer than 1 MiB",
    "conflict": "the same id exists with different content",
}
"""The text of each reason by its code, to follow the column's name in a sentence."""


class BadRow(Exception):
    """Raised if a row is refused.

    `column`: the invalid column (empty: the whole row is invalid). `reason`: the code. `text`: the invalid text.
    """

    def __init__(self, column: str, reason: str, text: str = "") -> None:
        super().__init__(column, reason, text)
        self.column, self.reason, self.text = column, reason, text


_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_EXACT: Final = Context(prec=2 * _MAX_NUMBER_CHARS)


def id_reader(column: str) -> Callable[[str], str]:
    """Return a reader of ids for one column. The reader raises BadRow `bad_{column}`."""

    def read(text: str) -> str:
        if not is_clean_id(text):
            raise BadRow(column, f"bad_{column}", text)
        return text

    return read


_READ_ID: Final = id_reader("id")


def read_sample_id(text: str) -> str:
    """Read the id of a host's sample. Errors: BadRow `bad_id`, `reserved_id`."""
    if text.startswith(RESERVED_IDS):  # the database would refuse all rows of the statement
        raise BadRow("id", "reserved_id", text)
    return _READ_ID(text)


def _number(column: str, word: str, text: str) -> Decimal:
    stripped = text.strip()
    if not stripped:
        raise BadRow(column, f"{word}_missing", text)
    if len(stripped) > _MAX_NUMBER_CHARS or not _NUMBER.fullmatch(stripped):
        raise BadRow(column, f"{word}_not_a_number", text)
    return Decimal(stripped)


def _is_whole(number: Decimal) -> bool:
    return number == number.to_integral_value()


def read_memory_mb(text: str) -> int:
    """Read a memory size in whole megabytes. Errors: BadRow."""
    number = _number("memory_mb", "memory", text)
    if not 0 <= number <= MAX_MEMORY_MB:
        raise BadRow("memory_mb", "memory_out_of_bounds", text)
    if not _is_whole(number):
        raise BadRow("memory_mb", "memory_fractional", text)
    return int(number)


def read_interval_s(text: str) -> int:
    """Read whole seconds: "32", "32.0" and "3.2e1" are 32. Errors: BadRow."""
    number = _number("interval_s", "interval", text)
    if number < 0:
        raise BadRow("interval_s", "interval_negative", text)
    if number > MAX_INTERVAL_S:
        raise BadRow("interval_s", "interval_over_a_day", text)
    if not _is_whole(number):
        raise BadRow("interval_s", "interval_fractional", text)
    return int(number)


def read_cpu_count(text: str) -> str | None:
    """Read a number of CPUs to nine decimals, which SQLite stores exactly.

    Return the shortest text of the number; None for an empty text. Drawdown does not bill CPUs, but stores the number
    for other programs. Errors: BadRow.
    """
    if not text.strip():
        return None
    number = _number("cpu_count", "cpu", text)
    if not 0 <= number <= MAX_CPU_COUNT:
        raise BadRow("cpu_count", "cpu_out_of_bounds", text)
    return plain(number)


def plain(number: Decimal) -> str:
    """Return the shortest text of a number of CPUs, without an exponent."""
    rounded = number.quantize(Decimal("1e-9"), context=_EXACT)
    return f"{rounded:f}".rstrip("0").rstrip(".")


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_PROBE: Final = datetime(2024, 11, 25, 16, 57, 50, tzinfo=UTC)
_MAX_MS_DIGITS: Final = 18
"""Most digits of a time in a file of samples."""


def time_reader(style: str, zone: str) -> Callable[[str], int]:
    """Return a reader of times.

    The reader returns milliseconds since 1970, rounded down, and raises BadRow.

    `style`: `iso`, `s` or `ms` (since 1970, with decimals), or a strptime pattern. Times without an offset are local in
    `zone`. If clocks showed a time twice, because they were put back, the first moment counts. A time that clocks
    skipped is refused.

    Errors: UsageError for an invalid style or zone.
    """
    if style in ("s", "ms"):
        return _counted(1000 if style == "s" else 1)
    place = _zone(zone)
    if style == "iso":
        return _dated(from_iso, place)
    if "%" not in style:
        raise UsageError(
            f"invalid --time-format {quote_value(style)}: expected iso, s, ms, or a pattern such as '%d.%m.%Y %H:%M:%S'"
        )
    try:
        datetime.strptime(_PROBE.strftime(style), style).astimezone(UTC)
    except (ValueError, re.error) as error:
        raise UsageError(
            f"invalid --time-format {quote_value(style)}: the pattern cannot read times ({error}). Pass another pattern"
        ) from error
    return _dated(lambda text: datetime.strptime(text, style), place)  # noqa: DTZ007 -- _dated gives it its zone


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise UsageError(f"unknown --zone {quote_value(name)}: expected a name such as UTC or Europe/Berlin") from error


def _counted(factor: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if text.isdecimal() and text.isascii() and len(text) <= _MAX_MS_DIGITS:
            return int(text) * factor
        try:
            number = _number("ts", "ts", text)
        except BadRow as bad:
            raise BadRow("ts", bad.reason.replace("not_a_number", "unreadable"), text) from bad
        if number and number.adjusted() > _MAX_MS_DIGITS:  # check first, because 1e999999 has a million digits
            raise BadRow("ts", "ts_before_2000" if number < 0 else "ts_in_the_future", text)
        return int(_EXACT.multiply(number, Decimal(factor)).to_integral_value(ROUND_FLOOR))

    return read


def _dated(parse: Callable[[str], datetime], zone: tzinfo) -> Callable[[str], int]:
    def read(text: str) -> int:
        stripped = text.strip()
        if not stripped:
            raise BadRow("ts", "ts_missing", text)
        try:
            moment = parse(stripped)
            if moment.tzinfo is None:
                moment = _local(moment, zone)
            return (moment - _EPOCH) // _MS
        except (ValueError, OverflowError) as error:
            raise BadRow("ts", "ts_unreadable", text) from error
        except LookupError as error:
            raise BadRow("ts", "ts_not_in_zone", text) from error

    return read


def _local(moment: datetime, zone: tzinfo) -> datetime:
    """Return the first moment at which the clocks of `zone` showed a time.

    Errors: LookupError if they skipped it.
    """
    first = moment.replace(tzinfo=zone)
    if zone is UTC:
        return first
    before, after = first.utcoffset(), first.replace(fold=1).utcoffset()
    assert before is not None and after is not None, "a zone knows its offset"
    if before < after:
        raise LookupError("skipped")
    return first


class Field(NamedTuple):
    """A field of a sample.

    `read`: the reader of its text, which raises BadRow. An import reads `ts` in the format of its options instead.
    `schema`: the JSON schema. `optional`: True if a file or an object may omit the field.
    """

    read: Callable[[str], Any]
    schema: dict[str, Any]
    optional: bool = False


SAMPLE_FIELDS: Final[Mapping[str, Field]] = {
    "id": Field(read_sample_id, ID_SCHEMA),
    "org_id": Field(id_reader("org_id"), ID_SCHEMA),
    "sandbox_id": Field(id_reader("sandbox_id"), ID_SCHEMA),
    "cell_id": Field(id_reader("cell_id"), ID_SCHEMA),
    "memory_mb": Field(read_memory_mb, {"type": "integer", "minimum": 0, "maximum": MAX_MEMORY_MB}),
    "cpu_count": Field(read_cpu_count, {"type": ["number", "null"], "minimum": 0}, optional=True),
    "interval_s": Field(read_interval_s, {"type": "integer", "minimum": 0, "maximum": MAX_INTERVAL_S}),
    "ts": Field(time_reader("iso", "UTC"), MOMENT_SCHEMA),
}
"""The fields of a sample by their names, in the order of FIELDS."""


def sample_of(item: Item, org_id: str | None, cell_id: str | None, now_ms: int) -> Sample:
    """Convert a host's JSON object to a sample.

    `org_id`, `cell_id`: the values to which the sender is bound, or None.

    Errors: Unfit `unknown_field`, `foreign_org`, `foreign_cell`, `…_missing` or `bad_…` of an id, or a reason of
    `REASONS`.
    """
    for name in item:
        if name not in FIELDS:
            raise Unfit("unknown_field", f"unknown field {quote_value(name)}: expected {', '.join(FIELDS)}", name)
    given = {
        **_bound("org_id", org_id),
        **_bound("cell_id", cell_id),
        **{n: v for n, v in item.items() if v is not None},
    }
    try:
        return (
            _id(given, "id"),
            _own(given, "org_id", org_id, "foreign_org"),
            _id(given, "sandbox_id"),
            _own(given, "cell_id", cell_id, "foreign_cell"),
            _given_number(given, "memory_mb", read_memory_mb),
            _given_number(given, "cpu_count", read_cpu_count),
            _given_number(given, "interval_s", read_interval_s),
            _moment(given, now_ms),
            now_ms,
        )
    except BadRow as bad:
        raise Unfit(bad.reason, f"{bad.column} {meaning(bad.reason)}", bad.column) from None


def _bound(name: str, to: str | None) -> Item:
    return {} if to is None else {name: to}


def _id(item: Item, name: str) -> str:
    if name not in item:
        raise Unfit(f"{name}_missing", f"{name} is missing", name)
    found = item[name]
    if not isinstance(found, str):
        raise Unfit(f"bad_{name}", f"invalid {name}: expected a string", name)
    read: Callable[[str], str] = SAMPLE_FIELDS[name].read
    return read(found)


def _own(item: Item, name: str, bound: str | None, code: str) -> str:
    found = _id(item, name)
    if bound is not None and found != bound:
        raise Unfit(code, f"this key is bound to {bound}. Send {bound}, or use another key", name)
    return found


def _given_number(item: Item, name: str, read: Callable[[str], T]) -> T:
    """Read a number, or the text of a number."""
    found = item.get(name, "")
    if isinstance(found, str):
        return read(found)
    plain = isinstance(found, int | Decimal) and not isinstance(found, bool)
    return read(str(found) if plain else json.dumps(None))


def _moment(item: Item, now_ms: int) -> int:
    if "ts" not in item:
        raise BadRow("ts", "ts_missing")
    try:
        found = moment_of(item["ts"], "ts")
    except Unfit as error:
        raise Unfit("ts_unreadable", str(error), "ts") from None
    if found < EARLIEST_TS:
        raise Unfit(
            "ts_before_2000",
            f"ts {quote_value(item['ts'])} is before the year 2000. If it is a number, send milliseconds, not seconds",
            "ts",
        )
    if found > now_ms + FUTURE_SLACK_MS:
        raise BadRow("ts", "ts_in_the_future")
    return found


MOST_SAMPLES: Final = 1_000
"""Samples that one quantity of an execution may become, enough for 86,400,000 seconds at any memory size."""
MAX_UNITS: Final = 10**11
"""Most units of one sample of an execution or a batch.

Their product with the meter fits in 64 bits.
"""
CELL: Final = "runs"
"""The cell of samples that belong to executions and batches."""


def own_sample(
    name: str, org_id: str, sandbox_id: str, memory_mb: int, interval_s: int, ts: int, now_ms: int
) -> Sample:
    """Return a sample that Drawdown makes for an execution or a batch.

    `sandbox_id`: the id of the execution or batch.
    """
    return (name, org_id, sandbox_id, CELL, memory_mb, None, interval_s, ts, now_ms)


class NotMade(Refused):
    """Raised if a quantity cannot be split into samples."""


def sizes_of(quantity: int, unit: str, lo: int, hi: int) -> Iterator[tuple[int, int]]:
    """Yield (memory in MB, seconds) of samples that add up to a quantity.

    The quantity is in base units, and the sizes are from `lo` to `hi`. If the unit is `units`, yield (meter, units)
    instead.

    It uses the largest size and one rest, or else only the smallest size, or else two sizes that differ by 1 MB.
    Errors: NotMade if no sizes add up to the quantity, or for more than MOST_SAMPLES samples.
    """
    if unit == "units":
        yield from _in_parts(lo, quantity, MAX_UNITS)
        return
    least, most = max(lo, 1), min(hi, MAX_MEMORY_MB)
    parts = [(least, quantity)]
    if unit == "mb_s":
        largest = min(most, quantity)
        seconds, rest = divmod(quantity, largest) if largest >= least else (0, quantity)
        parts = [(largest, seconds), (rest, 1 if rest else 0)]
        if 0 < rest < least:
            seconds, rest = divmod(quantity, least)
            parts = [(least, seconds)]
            if rest:
                seconds = -(-quantity // most)
                size, larger = divmod(quantity, seconds)
                parts = [(size, seconds - larger), (size + 1, larger)]
                if size < least:
                    raise NotMade(
                        f"Drawdown cannot split {counted(quantity, 'MB-second')} into sizes from {least} to {most} MB. "
                        "Draw another quantity"
                    )
    if sum(-(-seconds // MAX_INTERVAL_S) for _, seconds in parts) > MOST_SAMPLES:
        raise NotMade(f"{quantity:,} base units take more than {MOST_SAMPLES:,} samples. Draw the quantity in parts")
    for size, seconds in parts:
        yield from _in_parts(size, seconds, MAX_INTERVAL_S)


def _in_parts(size: int, quantity: int, most: int) -> Iterator[tuple[int, int]]:
    whole, rest = divmod(quantity, most)
    if whole + (rest > 0) > MOST_SAMPLES:
        raise NotMade(f"{quantity:,} base units take more than {MOST_SAMPLES:,} samples. Draw the quantity in parts")
    yield from [(size, most)] * whole
    yield from [(size, rest)] if rest else []


def id_of(*parts: object) -> str:
    """Return an id of `run:` and the parts.

    If that id would be too long, return its beginning and a hash of the whole id.
    """
    whole = OF_RUNS + ":".join(map(str, parts))
    if len(whole) <= MAX_ID_CHARS:
        return whole
    return f"{whole[:100]}…{hashlib.sha256(whole.encode()).hexdigest()[:32]}"
