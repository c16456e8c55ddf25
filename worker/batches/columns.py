"""The columns of a file: which it has to have, and how each is read by the type that it has there.

Guarantee: a file of other columns or types is refused, with the name of the column.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from drawdown.events.envelope import MAX_QUANTITY
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.units import (
    EARLIEST_TS,
    FUTURE_SLACK_MS,
    MAX_ID_CHARS,
    MAX_INTERVAL_S,
    MAX_MEMORY_MB,
    WINDOW_MS,
)
from drawdown.worker.batches.duck import text
from drawdown.worker.batches.files import FoundFile
from drawdown.worker.sources.samples.made import MAX_UNITS

if TYPE_CHECKING:
    import duckdb

SQL = queries(__file__.replace("columns.py", "reading.py"))

MAX_ROW_BYTES: Final = 1_048_576
NAMES_SAY_NOTHING: Final = "hive_partitioning = false"
"""Else a folder called `org_id=globex` would overrule what the rows in it say."""
MAX_REFUSED_KEPT: Final = 100
"""Rows of one file that are kept with what was wrong; all are counted."""
_SIZES: Final = ("org_id", "ts", "memory_mb", "interval_s")
_EVENTS: Final = ("org_id", "ts", "event_type", "quantity")
_IDS: Final = ("id", "event_id")
"""What is imported by its ids, and taken as a batch too, would be billed twice."""
_LABELS: Final = ("cell_id", "project", "sandbox_id", "source", "subject")
"""Columns that tell two rows apart which are billed alike."""
_INTEGERS: Final = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT",
                              "UINTEGER", "UBIGINT", "UHUGEINT"})  # fmt: skip
_SEPARATORS: Final = {";": "semicolons", "\t": "tabs", "|": "bars"}
_LOCAL: Final = frozenset({"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"})


class Columns:
    """Of one file. `of_events` is known once they are prepared."""

    def __init__(self, file: FoundFile, now_ms: int) -> None:
        self.file, self.now_ms, self.of_events = file, now_ms, False
        self.keys: frozenset[str] = frozenset()
        self.labels: tuple[str, ...] = ()

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Have `understood` stand for the file. Errors: Refused, and DuckDB's own."""
        source, types = self._source(connection)
        connection.execute(f"CREATE VIEW file_rows AS FROM {source}")
        if self.file.format == "parquet":
            types = {row[0]: row[1] for row in connection.execute("DESCRIBE file_rows").fetchall()}
        self.of_events = "event_type" in types
        wanted = _EVENTS if self.of_events else _SIZES
        if named := [name for name in _IDS if name in types or name in self.keys]:
            raise self.with_ids("its rows have ids", named[0])
        if missing := [name for name in wanted if name not in types]:
            raise Refused(f"{self.file.name}: has no column {', '.join(missing)}")
        of_lines = self.file.format == "jsonl"
        for piece in ("readers", "by_value" if of_lines else "by_column"):
            connection.execute(SQL.text(piece, "duckdb"))
        self._requiretext(types, "org_id", *(["event_type"] if self.of_events else []))
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

    def with_ids(self, what: str, name: str) -> Refused:
        """Why a file is refused in which `what` has a column of ids."""
        why = "by which `drawdown import` bills each once: import it, or leave that column out"
        return Refused(f"{self.file.name}: {what} ({name}), {why}")

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
        """What reads the file, and the columns that its first line names."""
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
            f"compression = {packed}, parallel = false) LIMIT 1"  # by two threads, the first line could be another
        ).fetchone()
        if line is None:
            return self._nothing()
        names = self._names(str(line[0] or "").removeprefix("\ufeff") if line else "")
        read, type_ = ((*names, *_IDS), "JSON") if self.file.format == "jsonl" else (names, "VARCHAR")
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
        """By its first bytes. Errors: Refused; else DuckDB would say that of a line."""
        if self.file.packed not in (None, "gzip"):
            return
        with suppress(OSError, EOFError, zlib.error):
            opened = gzip.open if self.file.packed else open
            with opened(self.file.opened, "rb") as content:
                start = content.read(4)
            if start.startswith((b"\xff\xfe", b"\xfe\xff")) or start[:1] == b"\0" or start[1:2] == b"\0":
                raise Refused(f"{self.file.name}: it is UTF-16: save it as UTF-8")

    def _nothing(self) -> tuple[str, dict[str, str]]:
        """Of a file without a line: the export of a time in which nothing was used."""
        type_ = "JSON" if self.file.format == "jsonl" else "VARCHAR"
        names = (*_SIZES, *_IDS) if self.file.format == "jsonl" else _SIZES
        columns = ", ".join(f"CAST(NULL AS {type_}) AS {name}" for name in names)
        return f"(SELECT {columns} WHERE false)", dict.fromkeys(_SIZES, "VARCHAR")

    def _names(self, line: str) -> list[str]:
        """The columns of a CSV's header; the keys that a line of JSON needs. Errors: Refused."""
        if self.file.format == "jsonl":
            with suppress(ValueError, RecursionError):
                said = json.loads(line)
                self.keys = frozenset(said) if isinstance(said, dict) else frozenset()
                wanted = _EVENTS if "event_type" in self.keys else _SIZES
                return [*wanted, *(name for name in _LABELS if name in self.keys)]
            raise Refused(f"{self.file.name}: its first line is no JSON")
        try:
            names = next(csv.reader([line]), [])
        except csv.Error as error:  # a field beyond all measure
            raise Refused(f"{self.file.name}: its header cannot be read: {error}") from error
        if len(names) == 1 and (found := [one for one in _SEPARATORS if one in names[0]]):
            said = _SEPARATORS[found[0]]
            raise Refused(f"{self.file.name}: its columns are separated by {said}: separate them by commas")
        if len(set(names)) < len(names):
            raise Refused(f"{self.file.name}: its header names a column twice")
        return names

    def _requiretext(self, types: dict[str, str], *names: str) -> None:
        for name in names:
            if types[name] != "VARCHAR":
                raise Refused(f"{self.file.name}: {name} has the type {types[name]}, and has to be text")

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
        raise Refused(f"{self.file.name}: {name} has the type {type_}, and has to be a whole number")

    def _moment(self, types: dict[str, str]) -> str:
        type_ = types["ts"]
        if type_ in _LOCAL:
            return "moment_of_local"
        if type_ == "TIMESTAMP WITH TIME ZONE":
            return "moment_of_zoned"
        kind = self._kind(types, "ts")
        return f"moment_of_{kind}" if kind in ("text", "json") else f"whole_of_{kind}"
