"""A file becomes sums: DuckDB adds up what each organisation used in each window, of each size or event type.

Guarantee: exact. Every row is counted once, in a sum or as one that was refused; sums are integers of 128 bits. A file
whose columns or syntax are not as they have to be is refused whole.
"""

from __future__ import annotations

import base64
import hashlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Final

from drawdown.schema.errors import Refused
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.text import clean
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.batches.columns import Columns
from drawdown.worker.batches.duck import READING_TIME_S, explained, shut_in, time_limit
from drawdown.worker.batches.files import HASH_CHARS, FoundFile, unchanged
from drawdown.worker.batches.spill import spill_folder
from drawdown.worker.batches.unpack import unpacked

if TYPE_CHECKING:
    import duckdb

SQL = queries(__file__)

MAX_UNCLEAN: Final = 1_000
"""Names that no id may be, of one file: its rows are refused by each of them."""
MAX_BATCH_SAMPLES: Final = 5_000_000
"""What one file may come to: its sums go in by one transaction."""
MAX_BATCH_SAMPLES_SQLITE: Final = 500_000
"""There nobody else writes meanwhile."""
MAX_SAID_CHARS: Final = 120
MAX_ROWS_COMPARED: Final = 200_000
"""Rows of one file that are compared with earlier ones: of a larger file, about so many."""
MAX_ROWS_KEPT: Final = 4_096
"""Rows of one batch whose hashes are kept, for files that come later."""
_HASHES: Final = 1 << 64
AT_ONCE: Final = 5_000


@dataclass(frozen=True)
class RefusedRow:
    """A row that no sum holds: its number among the file's rows, counted from 1, without a header; the column that is
    wrong, and what it says."""

    number: int
    column: str
    said: str


Part = tuple[int, str, int, int | str, int]
"""Number, organisation, window, size or event type, seconds or units."""
Shared = tuple[str, str, str, int, int]
"""Earlier batch, organisation, size or event type, rows, seconds or units."""


@dataclass(frozen=True)
class Sums:
    """What a file comes to. `rows` are in the sums, `refused` are not; `samples`: of how many samples; `total`: what
    these come to, seconds or units. The windows from `from_ms` to `to_ms`, the end of the last one. `rows_hash`: of its
    rows, in whatever order, told apart by the columns `labels`; `is_whole`: each of them is compared."""

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
    connection: duckdb.DuckDBPyConnection
    opened: ExitStack

    def close(self) -> None:
        """Give back what reading took: memory, and spilled files."""
        self.opened.close()

    def parts(self) -> Iterator[list[Part]]:
        """What goes in, some at a time, always in the same order."""
        cursor = self.connection.cursor()
        cursor.execute(SQL.text("parts", "duckdb"))
        while found := cursor.fetchmany(AT_ONCE):
            yield found

    def kept_rows(self) -> str:
        """Hashes of its rows, for `shared` of a later file."""
        rows = self.connection.execute(SQL.text("kept_rows", "duckdb"), {"most": MAX_ROWS_KEPT}).fetchall()
        return base64.b64encode(array("Q", [number for row in rows for number in row]).tobytes()).decode()

    def shared(self, earlier: Sequence[tuple[str, str, str]]) -> list[Shared]:
        """What earlier batches have of its rows, by their ids, labels and `kept_rows`."""
        self.connection.execute(SQL.text("forget_earlier", "duckdb"))
        for batch, labels, kept in earlier:
            hashes = array("Q", base64.b64decode(kept)).tolist()
            its = {"plain": hashes[::2], "whole": hashes[1::2], "labelled_alike": labels == self.labels}
            self.connection.execute(SQL.text("earlier", "duckdb"), {"batch": batch, **its})
        return list(self.connection.execute(SQL.text("shared", "duckdb")).fetchall())


def add_up(file: FoundFile, now_ms: int, most: int = MAX_BATCH_SAMPLES, time_s: float = READING_TIME_S) -> Sums:
    """Read a file, which lies there unchanged until it was read, in so many seconds; `most`: samples that it may come
    to. Whoever has the sums closes them.

    Errors: Unreadable where DuckDB is not installed; NotNow; Refused for a file that is not what its name says,
    has other columns, is broken, or comes to more than one may.
    """
    with ExitStack() as opened:
        spill = opened.enter_context(spill_folder())
        over = opened.enter_context(time_limit(min(time_s, READING_TIME_S)))
        here = file if file.bring is None else file.bring(Path(spill), over)
        with unchanged(here, over) as (batch, same):
            reading = _Reading(unpacked(same, Path(spill), over), now_ms, spill, over)
            connection, facts, refused = reading.whole(most)
        opened.callback(connection.close)
        rows, bad, first, last, samples, total, hash_sum, hash_xor = facts
        with explained(file, connection, over):
            kinds = [row[0] for row in connection.execute(SQL.text("part_kinds", "duckdb")).fetchall()]
        if strange := [kind for kind in kinds if isinstance(kind, str) and not is_clean_id(kind)]:
            raise Refused(f"{file.name}: no event type may be {clean(strange[0])[:MAX_SAID_CHARS]!r}")
        to_ms = None if last is None else int(last) + WINDOW_MS
        counts = (int(rows), int(bad), int(samples), int(total))
        labels = ",".join(reading.columns.labels)
        said = f"{reading.columns.of_events}:{labels}:{rows}:{hash_sum}:{hash_xor}"
        rows_hash = hashlib.sha256(said.encode()).hexdigest()[:HASH_CHARS] if rows else None
        known = (rows_hash, labels, rows <= MAX_ROWS_COMPARED)
        sums = partial(Sums, batch, file, reading.columns.of_events, *counts, first, to_ms, refused, kinds, *known)
        return sums(connection, opened.pop_all())


class _Reading:
    """One reading of one file."""

    def __init__(self, file: FoundFile, now_ms: int, spill: str, over: Event) -> None:
        self.file, self.spill, self.over, self.columns = file, spill, over, Columns(file, now_ms)

    def whole(self, most: int) -> tuple[duckdb.DuckDBPyConnection, Sequence[Any], Sequence[RefusedRow]]:
        """A connection that holds the parts, the facts, and the first rows that were refused."""
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
                    raise Refused(f"{self.file.name}: comes to more than {most:,} samples: split it")
                connection.execute(SQL.text("cut", "duckdb"))
                largest = min(_HASHES - 1, _HASHES * MAX_ROWS_COMPARED // max(int(facts[0]), 1))
                connection.execute(f"CREATE MACRO largest_hash() AS CAST({largest} AS UBIGINT)")
                connection.execute(SQL.text("compared", "duckdb"))
                refused = self._refused(unclean) if facts[1] else ()
            if refused and not facts[0]:
                first = refused[0]
                raise Refused(f"{self.file.name}: no row can be billed; the first says {first.column} {first.said!r}")
        except BaseException:
            connection.close()
            raise
        return connection, facts, refused

    def _with_ids(self) -> Refused:
        """Names the first row that has an id: read again in the file's order, as far as that."""
        connection = self._open(in_order=True)
        with connection, explained(self.file, connection, self.over):
            found = connection.execute(SQL.text("first_id", "duckdb")).fetchone()
        assert found is not None
        return self.columns.with_ids(f"its row {found[0]:,} has an id", str(found[1]))

    def _set_unclean_aside(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        """Organisations whose names no id may be: looked at once for each, not for each row."""
        names = connection.execute(SQL.text("names", "duckdb"))
        unclean: list[str] = []
        while found := names.fetchmany(AT_ONCE):
            unclean += [name for (name,) in found if not is_clean_id(name)]
            if len(unclean) > MAX_UNCLEAN:
                raise Refused(f"{self.file.name}: names over {MAX_UNCLEAN:,} organisations by what no id may be")
        if unclean:
            connection.executemany(SQL.text("unclean", "duckdb"), [{"name": name} for name in unclean])
            connection.execute(SQL.text("set_unclean_aside", "duckdb"))
        return unclean

    def _refused(self, unclean: Sequence[str]) -> Sequence[RefusedRow]:
        """Read again in the file's order, as far as the first ones go."""
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
