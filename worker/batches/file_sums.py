"""Add up a file by organisation, window, and memory size or event type.

DuckDB computes the sums.

Guarantee: sums are exact, because they are integers of 128 bits. Every row counts once, in a sum or as a refused row.
If a file has unexpected columns, types or syntax, the whole file is refused, and the error names the column. A packed
file is unpacked completely. It is refused if it is truncated, has content after its last frame, exceeds the bounds of
this module, or needs too much memory. DuckDB alone would read a truncated zstd file as if it were complete. If a read
was killed and left files on the disk, the next read removes them.
"""

from __future__ import annotations

import base64
import csv
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final

from drawdown.events.envelope import MAX_QUANTITY
from drawdown.schema.errors import Refused
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.text import clean, quote_value
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS, MAX_ID_CHARS, MAX_INTERVAL_S, MAX_MEMORY_MB, WINDOW_MS
from drawdown.worker.batches.duck import READING_TIME_S, explained, identifier, shut_in, text, time_limit
from drawdown.worker.batches.files import HASH_CHARS, FoundFile, NotNow, TimeUp, Unreadable, unchanged
from drawdown.worker.sources.field_map import OWN_NAMES, FieldMap
from drawdown.worker.sources.samples.rows import MAX_UNITS

if TYPE_CHECKING:
    import duckdb

SQL = queries(__file__)

MAX_UNCLEAN: Final = 1_000
"""Invalid organisation ids that one file may have.

Drawdown refuses their rows. It refuses a file with more invalid ids as a whole.
"""
MAX_BATCH_SAMPLES: Final = 5_000_000
"""Most samples of one file.

One transaction stores all of its sums.
"""
MAX_BATCH_SAMPLES_SQLITE: Final = 500_000
"""Samples of one file on SQLite.

Other processes cannot write while Drawdown stores the file.
"""
MAX_SAID_CHARS: Final = 120
"""Characters of one refused value that Drawdown stores."""
MAX_ROWS_COMPARED: Final = 200_000
"""Rows of one file that Drawdown compares with earlier rows.

If a file has more rows, Drawdown compares about this many of them.
"""
MAX_ROWS_KEPT: Final = 4_096
"""Rows of a batch for which Drawdown stores hashes, to compare later files."""
_HASHES: Final = 1 << 64
AT_ONCE: Final = 5_000
"""Rows of a file's sums that one statement fetches and stores."""


@dataclass(frozen=True)
class RefusedRow:
    """A refused row, which is not in a sum.

    `number`: the number of the row in the file, from 1, without the header. `column`: the column with the invalid
    value. `said`: that value.
    """

    number: int
    column: str
    said: str


Part = tuple[int, str, int, int | str, int]
"""The fields of one sample of a batch.

They are the number, organisation, start of the window, memory size in MB or event type, and seconds or units.
"""
Shared = tuple[str, str, str, int, int]
"""The fields of one sum of shared rows.

They are the earlier batch, organisation, memory size or event type, number of rows, and seconds or units.
"""


@dataclass(frozen=True)
class Sums:
    """The sums of a file.

    `rows`: the number of rows in the sums. `refused`: the number of refused rows. `samples`: the number of samples that
    the sums become. `total`: the sum of all samples, in seconds or units. `from_ms`, `to_ms`: the start of the first
    window and the end of the last. `rows_hash`: a hash of the rows that does not depend on their order. If `rows` is 0,
    these three are None. `labels`: the columns that distinguish rows. `is_whole`: Drawdown compares all rows with
    earlier batches, not only a part of the rows. `of_events`: the file has events, not samples of sandboxes. `kinds`:
    its memory sizes in MB, or its event types. `first_refused`: the first refused rows. `fields`: the column of each
    field. `connection`: DuckDB, with the samples. `opened`: the stack that closes the connection and the file.
    """

    batch: str
    file: FoundFile
    of_events: bool
    rows: int
    refused: int
    samples: int
    total: int
    from_ms: int | None
    to_ms: int | None
    first_refused: Sequence[RefusedRow]
    kinds: Sequence[int | str]
    rows_hash: str | None
    labels: str
    is_whole: bool
    fields: FieldMap
    connection: duckdb.DuckDBPyConnection
    opened: ExitStack

    def close(self) -> None:
        """Release the memory and the spilled files of the read."""
        self.opened.close()

    def parts(self) -> Iterator[list[Part]]:
        """Yield lists of up to AT_ONCE samples to insert, always in the same order."""
        cursor = self.connection.cursor()
        cursor.execute(SQL.text("parts", "duckdb"))
        while found := cursor.fetchmany(AT_ONCE):
            yield found

    def kept_rows(self) -> str:
        """Return the hashes of up to MAX_ROWS_KEPT rows as text.

        For a later file, `shared` compares its rows with these hashes.
        """
        rows = self.connection.execute(SQL.text("kept_rows", "duckdb"), {"most": MAX_ROWS_KEPT}).fetchall()
        return base64.b64encode(array("Q", [number for row in rows for number in row]).tobytes()).decode()

    def shared(self, earlier: Sequence[tuple[str, str, str]]) -> list[Shared]:
        """Return the sums of the rows that this file shares with earlier batches.

        `earlier`: the id, labels and `kept_rows` of each earlier batch.
        """
        self.connection.execute(SQL.text("forget_earlier", "duckdb"))
        for batch, labels, kept in earlier:
            hashes = array("Q", base64.b64decode(kept)).tolist()
            its = {"plain": hashes[::2], "whole": hashes[1::2], "labelled_alike": labels == self.labels}
            self.connection.execute(SQL.text("earlier", "duckdb"), {"batch": batch, **its})
        return list(self.connection.execute(SQL.text("shared", "duckdb")).fetchall())


def add_up(
    file: FoundFile,
    now_ms: int,
    most: int = MAX_BATCH_SAMPLES,
    time_s: float = READING_TIME_S,
    fields: FieldMap = OWN_NAMES,
) -> Sums:
    """Add up a file in at most `time_s` seconds. The caller must close the sums.

    The file must not change while it is read. `most`: the maximum number of samples. `fields`: the column of each
    field.

    Errors: Unreadable if a package to read the file is not installed. NotNow if memory, disk space or time runs out, or
    the file changes. UsageError for an unknown field, or a field with two sources. OSError if this machine's disk
    fails. Refused if the file does not have the format of its name, has unexpected columns, has ids, is broken, or
    becomes too many samples. Refused if all of its rows are invalid, or for an invalid event type or too many invalid
    organisations. For a remote file, also the errors of its `bring`.
    """
    fields.require(FILE_FIELDS)
    with ExitStack() as opened:
        spill = opened.enter_context(spill_folder())
        over = opened.enter_context(time_limit(min(time_s, READING_TIME_S)))
        here = file if file.bring is None else file.bring(Path(spill), over)
        with unchanged(here, over) as (batch, same):
            reading = _Reading(unpacked(same, Path(spill), over), now_ms, spill, over, fields)
            connection, facts, refused = reading.whole(most)
        opened.callback(connection.close)
        rows, bad, first, last, samples, total, hash_sum, hash_xor = facts
        with explained(file, connection, over):
            kinds = [row[0] for row in connection.execute(SQL.text("part_kinds", "duckdb")).fetchall()]
        if strange := [kind for kind in kinds if isinstance(kind, str) and not is_clean_id(kind)]:
            raise Refused(
                f"{file.name}: invalid event type {clean(strange[0])[:MAX_SAID_CHARS]!r}: "
                "expected 1 to 200 characters without control characters"
            )
        to_ms = None if last is None else int(last) + WINDOW_MS
        counts = (int(rows), int(bad), int(samples), int(total))
        labels = ",".join(reading.columns.labels)
        said = f"{reading.columns.of_events}:{labels}:{rows}:{hash_sum}:{hash_xor}"
        rows_hash = hashlib.sha256(said.encode()).hexdigest()[:HASH_CHARS] if rows else None
        known = (rows_hash, labels, rows <= MAX_ROWS_COMPARED, fields)
        sums = partial(Sums, batch, file, reading.columns.of_events, *counts, first, to_ms, refused, kinds, *known)
        return sums(connection, opened.pop_all())


class _Reading:
    """One read of one file by DuckDB."""

    def __init__(self, file: FoundFile, now_ms: int, spill: str, over: Event, fields: FieldMap) -> None:
        self.file, self.spill, self.over, self.columns = file, spill, over, Columns(file, now_ms, fields)

    def whole(self, most: int) -> tuple[duckdb.DuckDBPyConnection, Sequence[Any], Sequence[RefusedRow]]:
        """Return a connection with the samples, the file's totals and first refused rows."""
        connection = self._open(in_order=False)
        try:
            with explained(self.file, connection, self.over):
                connection.execute(SQL.text("add_up", "duckdb"))
                with_ids = connection.execute(SQL.text("with_ids", "duckdb")).fetchone()
                if with_ids and with_ids[0]:
                    raise self._with_ids()
                unclean = self._set_unclean_aside(connection)
                facts = connection.execute(SQL.text("facts", "duckdb")).fetchone()
                assert facts is not None
                if facts[4] > most:
                    raise Refused(f"{self.file.name}: the file has more than {most:,} samples. Split the file")
                connection.execute(SQL.text("cut", "duckdb"))
                largest = min(_HASHES - 1, _HASHES * MAX_ROWS_COMPARED // max(int(facts[0]), 1))
                connection.execute(f"CREATE MACRO largest_hash() AS CAST({largest} AS UBIGINT)")
                connection.execute(SQL.text("compared", "duckdb"))
                refused = self._refused(unclean) if facts[1] else ()
            if refused and not facts[0]:
                first = refused[0]
                raise Refused(
                    f"{self.file.name}: all rows are invalid, such as a row with {first.column} {first.said!r}. "
                    "Correct the file, and take it again"
                )
        except BaseException:
            connection.close()
            raise
        return connection, facts, refused

    def _with_ids(self) -> Refused:
        """Return the error for rows with ids.

        The function reads the file again, in its order, up to the first such row.
        """
        connection = self._open(in_order=True)
        with connection, explained(self.file, connection, self.over):
            found = connection.execute(SQL.text("first_id", "duckdb")).fetchone()
        assert found is not None
        return self.columns.with_ids(f"its row {found[0]:,} has an id", str(found[1]))

    def _set_unclean_aside(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        """Set aside rows of organisations with invalid names, and return these names.

        Each name is checked once. Errors: Refused for more than MAX_UNCLEAN names.
        """
        names = connection.execute(SQL.text("names", "duckdb"))
        unclean: list[str] = []
        while found := names.fetchmany(AT_ONCE):
            unclean += [name for (name,) in found if not is_clean_id(name)]
            if len(unclean) > MAX_UNCLEAN:
                raise Refused(
                    f"{self.file.name}: the file has more than {MAX_UNCLEAN:,} invalid organisation ids, such as "
                    f"{quote_value(unclean[0])}. Check the column of org_id"
                )
        if unclean:
            connection.executemany(SQL.text("unclean", "duckdb"), [{"name": name} for name in unclean])
            connection.execute(SQL.text("set_unclean_aside", "duckdb"))
        return unclean

    def _refused(self, unclean: Sequence[str]) -> Sequence[RefusedRow]:
        """Return the first refused rows.

        The function reads the file again, in its order.
        """
        connection = self._open(in_order=True)
        with connection, explained(self.file, connection, self.over):
            if unclean:
                connection.executemany(SQL.text("unclean", "duckdb"), [{"name": name} for name in unclean])
            found = connection.execute(SQL.text("refused", "duckdb")).fetchall()
        return [RefusedRow(int(n), column, clean(str(said or ""))[:MAX_SAID_CHARS]) for n, column, said in found]

    def _open(self, *, in_order: bool) -> duckdb.DuckDBPyConnection:
        connection = shut_in(self.file, self.spill, in_order=in_order)
        try:
            with explained(self.file, connection, self.over):
                self.columns.prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection


SQL = queries(__file__)

MAX_ROW_BYTES: Final = 1_048_576
"""Largest size of one row of CSV or JSON lines."""
NAMES_SAY_NOTHING: Final = "hive_partitioning = false"
"""An option of DuckDB.

Without it, a folder called `org_id=globex` would replace the organisation of the rows.
"""
MAX_REFUSED_KEPT: Final = 100
"""Refused rows of one file that Drawdown stores with the reason.

Drawdown counts refused rows above this number, but does not store them.
"""
_SIZES: Final = ("org_id", "ts", "memory_mb", "interval_s")
_EVENTS: Final = ("org_id", "ts", "event_type", "quantity")
_IDS: Final = ("id", "event_id")
"""Columns of ids, which a batch cannot have.

If a row with an id were both imported and taken as a batch, its usage would be billed twice.
"""
_LABELS: Final = ("cell_id", "project", "sandbox_id", "source", "subject")
"""Columns that distinguish rows with the same billed fields."""
FILE_FIELDS: Final = tuple(dict.fromkeys((*_SIZES, *_EVENTS, *_LABELS)))
"""Fields for which `--map` can name a column, and `--set` a value for all rows."""
_INTEGERS: Final = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT",
                              "UINTEGER", "UBIGINT", "UHUGEINT"})  # fmt: skip
_SEPARATORS: Final = {";": "semicolons", "\t": "tabs", "|": "bars"}
_LOCAL: Final = frozenset({"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"})


class Columns:
    """The columns of one file. `of_events` is valid after `prepare`."""

    def __init__(self, file: FoundFile, now_ms: int, fields: FieldMap = OWN_NAMES) -> None:
        self.file, self.now_ms, self.fields, self.of_events = file, now_ms, fields, False
        self.keys: frozenset[str] = frozenset()
        self.labels: tuple[str, ...] = ()

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Create the view `understood` of the file. Errors: Refused, and errors of DuckDB."""
        source, types = self._source(connection)
        connection.execute(f"CREATE VIEW file_columns AS FROM {source}")
        if self.file.format == "parquet":
            types = {row[0]: row[1] for row in connection.execute("DESCRIBE file_columns").fetchall()}
        self.of_events = "event_type" in self.fields.constants or self.fields.column_of("event_type") in types
        ids = [name for name in _IDS if name not in self.fields.columns.values()]
        if named := [name for name in ids if name in types or name in self.keys]:
            raise self.with_ids("its rows have ids", named[0])
        types = self._fields(connection, types, ids)
        wanted = _EVENTS if self.of_events else _SIZES
        asked = dict.fromkeys((*wanted, *(name for name in _LABELS if name in self.fields.columns)))
        if missing := [self.fields.column_of(name) for name in asked if name not in types]:
            other = ". If a column has another name, pass `--map FIELD=COLUMN`, or in a query, name it with AS"
            other = ". Check --map" if self.fields.columns else other
            raise Refused(
                f"{self.file.name}: missing {'column' if len(missing) == 1 else 'columns'} {', '.join(missing)}{other}"
            )
        of_lines = self.file.format == "jsonl"
        for piece in ("readers", "by_value" if of_lines else "by_column"):
            connection.execute(SQL.text(piece, "duckdb"))
        self._require_text(types, "org_id", *(["event_type"] if self.of_events else []))
        quantity = "quantity" if self.of_events else "interval_s"
        readers = {"quantity_of": f"whole_of_{self._kind(types, quantity)}", "moment_of": self._moment(types)}
        if not self.of_events:
            readers["size_of"] = f"whole_of_{self._kind(types, 'memory_mb')}"
        for name, reader in readers.items():
            connection.execute(f"CREATE MACRO {name}(x) AS {reader}(x)")
        for name, value in self._constants(quantity).items():
            connection.execute(f"CREATE MACRO {name}() AS {value}")
        of_ids = "id_of_line" if of_lines else "id_by_header"
        self.labels = tuple(name for name in _LABELS if name in types)
        values = ", ".join(f"COALESCE(said_of({name}), '')" for name in self.labels) or "''"
        connection.execute(
            f"CREATE VIEW labelled_rows AS SELECT *, concat_ws(chr(31), {values}) AS labels FROM file_rows"
        )
        connection.execute(SQL.text("events" if self.of_events else "sizes", "duckdb", id_column=of_ids))

    def _fields(
        self, connection: duckdb.DuckDBPyConnection, types: Mapping[str, str], ids: Sequence[str]
    ) -> dict[str, str]:
        """Create the view `file_rows`, with one column for each field of the file.

        Return the types of the columns, by the fields' names.
        """
        of_lines = self.file.format == "jsonl"
        found: dict[str, str] = {}
        sources: list[str] = []
        for name in FILE_FIELDS:
            column = self.fields.column_of(name)
            if name in self.fields.constants:
                value = text(self.fields.constants[name])
                source, found[name] = f"to_json({value})" if of_lines else value, "VARCHAR"
            elif column in types:
                source, found[name] = identifier(column), types[column]
            else:
                continue
            sources.append(f"{source} AS {name}")
        if of_lines:
            sources += [name if name in ids else f"CAST(NULL AS JSON) AS {name}" for name in _IDS]
        chosen = ", ".join(sources) or "*"
        connection.execute(f"CREATE VIEW file_rows AS SELECT {chosen} FROM file_columns")
        return found

    def with_ids(self, what: str, name: str) -> Refused:
        """Return the error for a file with ids in the column `name`.

        `what`: the first part of the message, such as "its rows have ids".
        """
        of_events = name == "event_id" or self.of_events
        by = "Send its rows to POST /v1/events" if of_events else "Use `drawdown import FILE`"
        why = f"{by}, which bills each id once. If these rows were never sent by id, you can omit that column instead"
        return Refused(f"{self.file.name}: {what} ({name}). {why}")

    def _constants(self, quantity: str) -> dict[str, object]:
        return {
            "most_quantity": MAX_QUANTITY if self.of_events else MAX_INTERVAL_S,
            "most_of_part": f"CAST({MAX_UNITS if self.of_events else MAX_INTERVAL_S} AS HUGEINT)",
            "earliest_ms": EARLIEST_TS,
            "latest_ms": self.now_ms + FUTURE_SLACK_MS,
            "largest_size": MAX_MEMORY_MB,
            "longest_id": MAX_ID_CHARS,
            "window_ms": WINDOW_MS,
            "most_refused": MAX_REFUSED_KEPT,
            "quantity_column": text(quantity),
            "kind_column": text("event_type" if self.of_events else "memory_mb"),
        }

    def _source(self, connection: duckdb.DuckDBPyConnection) -> tuple[str, dict[str, str]]:
        """Return the expression that reads the file, and the columns in its first line."""
        path = text(self.file.opened)
        if self.file.format != "parquet" and not self.file.size_bytes:
            return self._nothing()
        if self.file.format == "parquet":
            return f"read_parquet({path}, {NAMES_SAY_NOTHING})", {}
        self._require_utf8()
        packed = text(self.file.packed or "none")
        line = connection.execute(
            f"FROM read_csv({path}, {NAMES_SAY_NOTHING}, columns = {{'line': 'VARCHAR'}}, header = false, "
            f"auto_detect = false, delim = chr(1), quote = '', escape = '', max_line_size = {MAX_ROW_BYTES}, "
            f"compression = {packed}, parallel = false) LIMIT 1"  # two threads could return a later line
        ).fetchone()
        if line is None:
            return self._nothing()
        names = self._names(str(line[0] or "").removeprefix("\ufeff") if line else "")
        read, type_ = (dict.fromkeys((*names, *_IDS)), "JSON") if self.file.format == "jsonl" else (names, "VARCHAR")
        columns = "{" + ", ".join(f"{text(name)}: '{type_}'" for name in read) + "}"
        if self.file.format == "csv":
            how = (
                f"header = true, auto_detect = false, delim = ',', quote = '\"', escape = '\"', strict_mode = true, "
                f"max_line_size = {MAX_ROW_BYTES}, columns = {columns}, compression = {packed}"
            )
            return f"read_csv({path}, {NAMES_SAY_NOTHING}, {how})", dict.fromkeys(names, "VARCHAR")
        how = f"format = 'newline_delimited', maximum_object_size = {MAX_ROW_BYTES}, columns = {columns}"
        return f"read_json({path}, {NAMES_SAY_NOTHING}, {how}, compression = {packed})", dict.fromkeys(names, "VARCHAR")

    def _require_utf8(self) -> None:
        """Refuse a UTF-16 file by its first bytes.

        DuckDB's own error would only name a line. Errors: Refused.
        """
        if self.file.packed not in (None, "gzip"):
            return
        with suppress(OSError, EOFError, zlib.error):
            opened = gzip.open if self.file.packed else open
            with opened(self.file.opened, "rb") as content:
                start = content.read(4)
            if start.startswith((b"\xff\xfe", b"\xfe\xff")) or start[:1] == b"\0" or start[1:2] == b"\0":
                raise Refused(f"{self.file.name}: the file is UTF-16. Save it as UTF-8")

    def _nothing(self) -> tuple[str, dict[str, str]]:
        """Return the source of an empty file, such as the export of a time without use."""
        type_ = "JSON" if self.file.format == "jsonl" else "VARCHAR"
        of_events = "event_type" in (*self.fields.columns, *self.fields.constants)
        names = [self.fields.column_of(name) for name in (_EVENTS if of_events else _SIZES)]
        read = dict.fromkeys((*names, *_IDS) if self.file.format == "jsonl" else names)
        columns = ", ".join(f"CAST(NULL AS {type_}) AS {identifier(name)}" for name in read)
        return f"(SELECT {columns} WHERE false)", dict.fromkeys(names, "VARCHAR")

    def _names(self, line: str) -> list[str]:
        """Return the columns of a CSV's header, or the keys that a line of JSON needs.

        Errors: Refused.
        """
        if self.file.format == "jsonl":
            with suppress(ValueError, RecursionError):
                said = json.loads(line)
                self.keys = frozenset(said) if isinstance(said, dict) else frozenset()
                of_events = "event_type" in self.fields.constants or self.fields.column_of("event_type") in self.keys
                wanted = [self.fields.column_of(name) for name in (_EVENTS if of_events else _SIZES)]
                labels = [name for name in _LABELS if name in self.fields.columns or name in self.keys]
                return list(dict.fromkeys([*wanted, *(self.fields.column_of(name) for name in labels)]))
            raise Refused(f"{self.file.name}: its first line is not JSON. Write one JSON object a line")
        try:
            names = next(csv.reader([line]), [])
        except csv.Error as error:  # a field above the size limit of the csv module
            raise Refused(f"{self.file.name}: cannot read the header: {error}. Write shorter column names") from error
        if len(names) == 1 and (found := [one for one in _SEPARATORS if one in names[0]]):
            said = _SEPARATORS[found[0]]
            raise Refused(f"{self.file.name}: its columns are separated by {said}. Separate them by commas")
        if len(set(names)) < len(names):
            raise Refused(f"{self.file.name}: duplicate column in the header. Give each column a different name")
        return names

    def _require_text(self, types: dict[str, str], *names: str) -> None:
        for name in names:
            if types[name] != "VARCHAR":
                column = self.fields.column_of(name)
                raise Refused(
                    f"{self.file.name}: the column {column} has the type {types[name]}, not text. Write its values "
                    "as text"
                )

    def _kind(self, types: dict[str, str], name: str) -> str:
        type_ = types[name]
        if self.file.format == "jsonl":
            return "json"
        if type_ in _INTEGERS:
            return "integer"
        if type_ in ("FLOAT", "DOUBLE") or type_.startswith("DECIMAL"):
            return "number"
        if type_ == "VARCHAR":
            return "text"
        column = self.fields.column_of(name)
        raise Refused(f"{self.file.name}: the column {column} has the type {type_}. Write its values as whole numbers")

    def _moment(self, types: dict[str, str]) -> str:
        type_ = types["ts"]
        if type_ in _LOCAL:
            return "moment_of_local"
        if type_ == "TIMESTAMP WITH TIME ZONE":
            return "moment_of_zoned"
        kind = self._kind(types, "ts")
        return f"moment_of_{kind}" if kind in ("text", "json") else f"whole_of_{kind}"


MAX_UNPACKED_BYTES: Final = 8 * 1024**3
"""Largest unpacked size of a `.gz` or `.zst`.

The content of a `.zst` is in the spill folder while it is read.
"""
GZIP_RATIO: Final = 1_032
"""Most bytes to which one byte of gzip can unpack."""
MAX_WINDOW_LOG: Final = 27
"""Most memory for unpacking a file, as a power of two (128 MiB).

Files of `zstd --ultra` and `--long` may need more.
"""
_CHUNK_BYTES: Final = 1 << 20
"""Unpacked bytes of a `.gz` or `.zst` that one step reads."""
_PACKED_BYTES: Final = 1 << 16
"""Packed bytes of a `.gz` that one step reads."""
_GZIP: Final = 16 + zlib.MAX_WBITS


def unpacked(file: FoundFile, folder: Path, over: Event) -> FoundFile:
    """Return the file to read.

    For zstd, the result is the unpacked content in `folder`, and otherwise the file itself. DuckDB unpacks gzip, after
    this function has checked the unpacked size.

    Errors: Refused for a broken or too large file. Unreadable if zstd support is not installed. NotNow if the time is
    up or the disk fails.
    """
    if file.packed == "gzip":
        _measure_gzip(file, over)
    return _unpacked_zstd(file, folder, over) if file.packed == "zstd" else file


def _measure_gzip(file: FoundFile, over: Event) -> None:
    """Refuse a gzip file that unpacks to more than MAX_UNPACKED_BYTES.

    Drawdown measures the file before DuckDB reads it. The function skips a file that is too small to exceed this limit,
    and leaves a broken file to DuckDB. Errors: Refused; NotNow.
    """
    if file.size_bytes * GZIP_RATIO <= MAX_UNPACKED_BYTES:
        return
    left = MAX_UNPACKED_BYTES
    try:
        with Path(file.opened).open("rb") as packed:
            member, behind = zlib.decompressobj(_GZIP), b""
            while chunk := behind or packed.read(_PACKED_BYTES):
                left -= len(member.decompress(chunk, _CHUNK_BYTES))
                behind = member.unconsumed_tail or member.unused_data
                if left < 0:
                    raise _too_large(file)
                if over.is_set():
                    raise _too_late(file)
                if member.eof:
                    member = zlib.decompressobj(_GZIP)
    except zlib.error:
        return
    except OSError as error:
        raise NotNow(
            f"{file.name}: this machine cannot unpack the file: {error.strerror or error}. Fix the cause on this "
            "machine, then try again"
        ) from error


def _unpacked_zstd(file: FoundFile, folder: Path, over: Event) -> FoundFile:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise Unreadable("reading a .zst file needs backports.zstd. Install drawdown[columnar]") from error
    path = folder / f"unpacked.{file.format}"
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
    left = MAX_UNPACKED_BYTES
    try:
        with (
            Path(file.opened).open("rb") as packed,
            zstd.ZstdFile(packed, options=options) as frames,
            path.open("wb") as written,
        ):
            while chunk := frames.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise _too_large(file)
                if over.is_set():
                    raise _too_late(file)
                written.write(chunk)
    except EOFError as error:
        raise Refused(
            f"{file.name}: the file is truncated, because its last zstd frame does not end. Copy the file again"
        ) from error
    except zstd.ZstdError as error:
        raise Refused(f"{file.name}: cannot unpack the file: {error}. Copy or pack the file again") from error
    except OSError as error:
        raise NotNow(
            f"{file.name}: this machine cannot unpack the file: {error.strerror or error}. Fix the cause on this "
            "machine, then try again"
        ) from error
    return replace(file, path=path, packed=None, size_bytes=path.stat().st_size, number=None)


def _too_large(file: FoundFile) -> Refused:
    return Refused(f"{file.name}: the unpacked file has more than {MAX_UNPACKED_BYTES:,} bytes. Split the file")


def _too_late(file: FoundFile) -> TimeUp:
    return TimeUp(f"{file.name}: the time limit ended before the file was unpacked. Split the file")


PREFIX: Final = "drawdown-batch-"


@contextmanager
def spill_folder() -> Iterator[str]:
    """Yield a new folder for one read, and remove it afterwards. Errors: OSError."""
    _remove_left(Path(tempfile.gettempdir()))
    while True:
        made = tempfile.mkdtemp(prefix=PREFIX)
        lock = _locked(made)
        if lock is not None:
            break  # otherwise, another read removed the folder, because it looked abandoned
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _remove_left(folder: Path) -> None:
    """Remove spill folders of ended processes, which no longer lock them."""
    for left in folder.glob(f"{PREFIX}*"):
        lock = _locked(str(left))
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _locked(folder: str) -> int | None:
    """Lock a folder.

    Return None if another process has the lock, or if the folder belongs to another user or is gone.
    """
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_nlink:  # the folder was not removed before the lock
                    return lock
        except OSError:
            pass
        os.close(lock)
    return None
