"""Read the files of batches again, and compare sums (`drawdown verify --deep`).

Guarantee: this module does not share code with the import of batches. Each value is read as text, and each text is
parsed in one way. A missing or changed file counts as unproven. So does a file that cannot be read now, such as an
object that its store does not return. The same applies to results of queries, because they are not queried again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
import structlog

from drawdown.schema.errors import DrawdownError, UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.units import FUTURE_SLACK_MS, MAX_INTERVAL_S
from drawdown.worker.verify.verify import Breach, Verification

if TYPE_CHECKING:
    import duckdb

log = structlog.get_logger()

SQL = queries(__file__)
STORED = queries(str(Path(__file__).with_name("batches.sql")))

DEEP_MEMORY_MB: Final = 512
MAX_UNITS_OF_EVENT: Final = 10**12
"""Most units of one event in a file that `verify --deep` accepts."""
KEYS: Final = ("org_id", "ts", "memory_mb", "interval_s", "event_type", "quantity")
Map = dict[str, dict[str, str]]
"""The mapping of fields: `columns` are other names of columns, and `constants` are values for all rows."""
Line = tuple[str, int, int, int]
"""A sum of a file or of samples, which has four values.

They are the organisation, the start of the window, the memory size in MB or the meter, and the quantity in base units.
"""
_END: Final[Line] = ("\U0010ffff" * 201, 0, 0, 0)


Bring = Callable[[str, Path], Path | None]
"""Fetches an object, by its address, into a folder, and returns its path; None if it is missing. Errors:
DrawdownError.
"""


def verify_files(
    connection: sa.Connection, found: Verification, orgs: Collection[str] | None = None, bring: Bring | None = None
) -> None:
    """Compare each batch in force with its file, and add breaches to `found`.

    `orgs`: only breaches of these organisations; None: all. `bring`: fetches objects of an object store.

    Errors: UsageError if DuckDB is not installed, or zstd for a `.zst` file.
    """
    gone = read = away = asked = 0
    for batch in STORED.run(connection, "in_force").all():
        if str(batch.path).startswith("query:"):
            asked += 1
            continue
        try:
            is_same = _compare_file(connection, found, batch, orgs, bring)
        except OSError as error:  # a breach that was found before the error stays
            log.warning("file_not_read", place=batch.path, reason=str(error))
            away += 1
        else:
            read += is_same
            gone += not is_same
    found.checked["files of batches"] = read
    found.open["batches with a missing or changed file"] = gone
    found.open["batches with an unreadable file"] = away
    if asked:
        found.open["batches of queries, which ticks query again"] = asked


def _compare_file(
    connection: sa.Connection,
    found: Verification,
    batch: sa.Row[Any],
    orgs: Collection[str] | None,
    bring: Bring | None,
) -> bool:
    """Compare a batch with its file. Return False if the file is missing or changed.

    Errors: OSError if the file cannot be read; UsageError as `verify_files`.
    """
    with _spill_folder() as spill:
        try:
            path = _here(batch.path, spill, bring)
        except DrawdownError as error:
            raise OSError(str(error)) from error
        if path is None or not path.is_file() or _hash(path) != batch.batch:
            return False
        its = _unpacked(path, spill), spill, int(batch.taken_ms), json.loads(batch.field_map or "{}")
        said = _sums_of_file(connection, *its)
        for line in _unlike(said, _sums_of_samples(connection, batch.batch)):
            if orgs is None or (line[0] or line[1] or _END)[0] in orgs:
                _judge(connection, found, f"{batch.name} ({batch.batch})", *line)
        return True


def _spill_folder() -> TemporaryDirectory[str]:
    """Create a folder for the copy of one file. Errors: OSError."""
    try:
        return TemporaryDirectory(prefix="drawdown-deep-", ignore_cleanup_errors=True)
    except OSError as error:
        raise _no_room("cannot create a temporary folder", error) from error


def _no_room(what: str, error: OSError) -> OSError:
    return OSError(f"{what} ({error.strerror or error}). Set TMPDIR to a folder with enough space")


def _here(place: str, folder: str, bring: Bring | None) -> Path | None:
    if not place.startswith("s3://"):
        return Path(place)
    if bring is None:
        raise UsageError("cannot read the objects of batches: the object store is not connected")
    return bring(place, Path(folder))


def _judge(connection: sa.Connection, found: Verification, name: str, said: Line | None, kept: Line | None) -> None:
    org_id, window_ms, kind, _ = said or kept or _END
    floor = STORED.run(connection, "floor", {"org_id": org_id}).scalar() or 0
    if window_ms < floor or not is_clean_id(org_id):  # pruned, or refused by the import
        return
    theirs, ours = (0 if line is None else line[3] for line in (said, kept))
    text = f"{name} has {theirs} of {kind}, but its samples have {ours}"
    found.add(Breach(9, org_id, window_ms, None, text))


def _unlike(said: Iterator[Line], kept: Iterator[Line]) -> Iterator[tuple[Line | None, Line | None]]:
    """Yield pairs of lines of two sorted lists that differ; None: the line is missing."""
    one, other = next(said, _END), next(kept, _END)
    while one is not _END or other is not _END:
        if one[:3] == other[:3]:
            if one[3] != other[3]:
                yield one, other
            one, other = next(said, _END), next(kept, _END)
        elif one[:3] < other[:3]:
            yield one, None
            one = next(said, _END)
        else:
            yield None, other
            other = next(kept, _END)


def _sums_of_samples(connection: sa.Connection, batch: str) -> Iterator[Line]:
    values = {"first_id": f"batch:{batch}:", "beyond_id": f"batch:{batch};"}
    for row in STORED.run(connection, "sums", values):
        yield row.org_id, int(row.window_ms), int(row.memory_mb), int(row.quantity)


def _sums_of_file(connection: sa.Connection, path: Path, spill: str, taken_ms: int, mapped: Map) -> Iterator[Line]:
    if not path.stat().st_size:
        return
    with _duckdb(path, spill) as duck:
        of_events = _open_rows(duck, path, mapped)
        duck.execute("CREATE TABLE meters (event_type VARCHAR, meter BIGINT)")
        meters = [dict(row) for row in STORED.run(connection, "meters").mappings()]
        if meters and of_events:
            duck.executemany(SQL.text("meter", "duckdb"), meters)
        duck.execute(SQL.text("whole", "duckdb"))
        duck.execute(f"CREATE MACRO most() AS {MAX_UNITS_OF_EVENT if of_events else MAX_INTERVAL_S}")
        duck.execute(f"CREATE MACRO latest() AS {taken_ms + FUTURE_SLACK_MS}")
        duck.execute(SQL.text("text_of_events" if of_events else "text_of_sizes", "duckdb"))
        kind, is_one = ("type", "type_is_one") if of_events else ("size", "size_is_one")
        duck.execute(SQL.text("again", "duckdb", kind=kind, kind_is_one=is_one))
        sums = duck.execute(SQL.text("sums", "duckdb"))
        while some := sums.fetchmany(5_000):
            yield from ((org, int(window), int(kind), int(quantity)) for org, window, kind, quantity in some)


@contextmanager
def _duckdb(path: Path, spill: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to a DuckDB that may read only this file.

    Errors: UsageError if DuckDB is not installed; OSError if DuckDB cannot read the file, or lacks memory or disk.
    """
    try:
        import duckdb  # imported here, because only this check of `verify` needs it
    except ImportError as error:
        raise UsageError("cannot read the files of batches: DuckDB is missing. Install drawdown[columnar]") from error
    config: dict[str, Any] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": f"{DEEP_MEMORY_MB}MiB",
        "temp_directory": spill,
        "threads": "1",
    }
    try:
        with duckdb.connect(":memory:", config=config) as made:
            for statement in ("TimeZone = 'UTC'", f"allowed_paths = [{_text(path)}]", "enable_external_access = false"):
                made.execute(f"SET {statement}")
            yield made
    except duckdb.Error as error:
        first = str(error).partition("\n")[0]  # later lines can quote a row
        raise OSError(f"DuckDB cannot read the file: {first}") from error


def _unpacked(path: Path, spill: str) -> Path:
    """Return a file, unpacked if it is a `.zst` file.

    The size of the file is not checked again, because its hash shows that the import has unpacked it.

    Errors: UsageError if zstd is not installed; OSError.
    """
    if path.suffix.lower() != ".zst":
        return path
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise UsageError("cannot unpack a .zst file: backports.zstd is missing. Install drawdown[columnar]") from error
    whole = Path(spill) / path.with_suffix("").name
    try:
        with zstd.open(path) as frames, whole.open("wb") as written:
            shutil.copyfileobj(frames, written)
    except OSError as error:
        raise _no_room("cannot unpack the file into a temporary file", error) from error
    return whole


def _open_rows(duck: duckdb.DuckDBPyConnection, path: Path, mapped: Map) -> bool:
    """Create the view `file_rows` of a file; return True if it has events.

    The end of the file's name shows its format.
    """
    its_own, same = mapped.get("columns", {}), mapped.get("constants", {})
    names = {key: its_own.get(key, key) for key in KEYS if key not in same}
    name = path.name.lower()
    packed = "gzip" if name.endswith(".gz") else "none"
    if "json" in name[-12:]:
        how = f"format = 'newline_delimited', compression = '{packed}'"
        keys = ", ".join(f"{_quoted(key)}: 'JSON'" for key in sorted(set(names.values())))
        source = f"read_json({_text(path)}, hive_partitioning = false, {how}, columns = {{{keys}}})"
        shown = [f'"{column.replace(chr(34), chr(34) * 2)}" AS {key}' for key, column in names.items()]
        shown += [f"to_json({_quoted(same[key])}) AS {key}" for key in KEYS if key in same]
        duck.execute(f"CREATE VIEW file_values AS SELECT {', '.join(shown)} FROM {source}")
        duck.execute(f"CREATE VIEW file_lines AS FROM read_json_objects({_text(path)}, {how})")
        duck.execute(SQL.text("lines", "duckdb"))
        first = duck.execute(SQL.text("first", "duckdb")).fetchone()
        return first is not None and ("event_type" in same or names["event_type"] in json.loads(first[0]))
    if name.endswith(".parquet"):
        source = f"read_parquet({_text(path)}, hive_partitioning = false)"
    else:
        source = (
            f"read_csv({_text(path)}, hive_partitioning = false, header = true, all_varchar = true, delim = ',', "
            f"quote = '\"', escape = '\"', compression = '{packed}')"
        )
    there = {row[0] for row in duck.execute(f"DESCRIBE FROM {source}").fetchall()}
    names = {key: column for key, column in names.items() if column in there}
    shown = [f'"{column.replace(chr(34), chr(34) * 2)}" AS {key}' for key, column in names.items()]
    shown += [f"{_quoted(same[key])} AS {key}" for key in KEYS if key in same]
    duck.execute(f"CREATE VIEW file_rows AS SELECT {', '.join(shown)} FROM {source}")
    return "event_type" in names or "event_type" in same


def _text(path: Path) -> str:
    return _quoted(str(path))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:32]
