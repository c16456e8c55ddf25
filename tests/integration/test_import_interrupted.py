"""Imports that are killed, meet each other, break off or must not begin: nothing is lost, nothing is there twice."""

from __future__ import annotations

import gzip
import io
import resource
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
import sqlalchemy as sa

from drawdown.schema.database import connect
from drawdown.schema.errors import DatabaseNotReady, DrawdownError, UsageError
from drawdown.worker.sources.samples import importer
from drawdown.worker.sources.samples.importer import MAX_LINE_BYTES, ImportReport, import_samples
from drawdown.worker.sources.samples.store import store
from tests.integration.importing import HEADER, NOW, counts, line, options, quarantine, samples, usage


@pytest.mark.parametrize("strict", [False, True])
def test_import_repeated_after_kill_stores_all_samples(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    file = usage(tmp_path, *(line(n) for n in range(35)))
    calls = count(1)

    def killed(connection: sa.Connection, rows: list[Any], origins: list[str]) -> Any:
        assert len(rows) <= 10, "a chunk is bounded"
        stored = store(connection, rows, origins)
        if next(calls) == 3:
            raise KeyboardInterrupt
        return stored

    monkeypatch.setattr(importer, "store", killed)
    with pytest.raises(KeyboardInterrupt):
        import_samples(engine, [file], options(strict=strict), NOW)
    assert len(samples(engine)) == (0 if strict else 20), "whole chunks, or nothing"
    report = import_samples(engine, [file], options(strict=strict), NOW)
    assert counts(report) == ((35, 0, 0, 0) if strict else (15, 20, 0, 0))
    assert len(samples(engine)) == 35


def test_strict_import_with_bad_row_is_rolled_back(engine: sa.Engine, tmp_path: Path) -> None:
    good, bad = usage(tmp_path, *(line(n) for n in range(25))), usage(tmp_path, line(30), line(31, interval_s="x"))
    report = import_samples(engine, [good, bad], options(strict=True), NOW)
    assert (report.committed, report.rejected, report.first_rejects[0].line) == (False, 1, 3)
    assert samples(engine) == []
    report = import_samples(engine, [good, usage(tmp_path, line(30))], options(strict=True), NOW)
    assert report.committed
    assert counts(report) == (26, 0, 0, 0)


def test_strict_import_with_conflict_is_rolled_back(engine: sa.Engine, tmp_path: Path) -> None:
    import_samples(engine, [usage(tmp_path, line(1))], options(), NOW)
    report = import_samples(engine, [usage(tmp_path, line(2), line(1, interval_s=61))], options(strict=True), NOW)
    assert (report.committed, report.conflicts, report.first_conflicts[0].line) == (False, 1, 3)
    assert len(samples(engine)) == 1
    assert quarantine(engine) == []


class _Deadlock(Exception):
    sqlstate = "40P01"


@pytest.mark.parametrize("strict", [False, True])
def test_import_after_deadlock_is_retried_and_counts_once(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    calls = count(1)

    def deadlocked(connection: sa.Connection, rows: list[Any], origins: list[str]) -> Any:
        stored = store(connection, rows, origins)
        if next(calls) == 2:
            raise sa.exc.OperationalError("INSERT", {}, _Deadlock())
        return stored

    monkeypatch.setattr(importer, "store", deadlocked)
    file = usage(tmp_path, *(line(n) for n in range(15)), *([] if strict else ["x"]))
    assert counts(import_samples(engine, [file], options(strict=strict), NOW)) == (15, 0, int(not strict), 0)
    calls = count(2)
    again = ["-"] if strict else [usage(tmp_path, line(99))]
    data = io.BytesIO(f"{HEADER}\n{line(99)}\n".encode())

    def run() -> ImportReport:
        return import_samples(engine, again, options(strict=strict, format="csv"), NOW, stdin=data)

    assert counts(run()) == (1, 0, 0, 0), "standard input must not look empty the second time"
    assert len(samples(engine)) == 16


class _Pipe(io.RawIOBase):
    """Standard input of a program that writes one line at a time; notes whether a transaction waits for it."""

    def __init__(self, engine: sa.Engine, lines: list[str]) -> None:
        self._lines = [f"{text}\n".encode() for text in lines]
        self.transactions: list[bool] = []
        self._open = 0
        sa.event.listen(engine, "begin", lambda _: self._count(1))
        for end in ("commit", "rollback"):
            sa.event.listen(engine, end, lambda _: self._count(-1))

    def _count(self, by: int) -> None:
        self._open += by

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.transactions.append(self._open > 0)
        data = self._lines.pop(0) if self._lines else b""
        size = min(len(data), len(buffer))
        buffer[:size] = data[:size]
        if data[size:]:
            self._lines.insert(0, data[size:])
        return size


@pytest.mark.parametrize("strict", [False, True])
def test_import_holds_no_transaction_while_standard_input_pauses(engine: sa.Engine, strict: bool) -> None:
    """The server ends a transaction that waits for 30 s; SQLite would let nobody else write."""
    pipe = _Pipe(engine, [HEADER, *(line(n) for n in range(5)), "x" * (MAX_LINE_BYTES + 9), line(5).rstrip()])
    report = import_samples(engine, ["-"], options(strict=strict, format="csv"), NOW, stdin=cast(BinaryIO, pipe))
    assert len(pipe.transactions) > 7 and not any(pipe.transactions)
    assert (counts(report), [row.line for row in report.first_rejects]) == ((6, 0, 1, 0), [7])


@pytest.mark.parametrize("why", ["no folder", "full disk"])
def test_import_of_pipe_without_space_names_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone" if why == "no folder" else tmp_path))
    data = io.BytesIO("".join(f"{text}\n" for text in (HEADER, *map(line, range(5)))).encode())
    bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = importer.NumberedLines("-", data)
    if why == "full disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, bounds[1]))
    try:
        with pytest.raises(DrawdownError, match=r"^-: cannot be stored in a temporary file .*Set TMPDIR"):
            importer._copy(kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)


def test_concurrent_imports_of_same_samples_store_each_once(engine: sa.Engine, tmp_path: Path) -> None:
    forth = usage(tmp_path, *(line(n) for n in range(3000)), line(5, interval_s=61))
    back = usage(tmp_path, *(line(n) for n in reversed(range(3000))), line(5, interval_s=61))
    with ThreadPoolExecutor(2) as pool:
        reports = list(
            pool.map(lambda file: import_samples(engine, [file], options(chunk_rows=250), NOW), [forth, back])
        )
    assert [(r.read, r.conflicts, r.rejected) for r in reports] == [(3001, 1, 0)] * 2
    assert sum(counts(r)[0] for r in reports) == 3000 == len(samples(engine))
    assert len(quarantine(engine)) == 1


def test_import_of_damaged_gzip_keeps_rows_and_can_be_repeated(engine: sa.Engine, tmp_path: Path) -> None:
    whole = gzip.compress("\n".join([HEADER, *(line(n, org_id=n * 7919) for n in range(5000))]).encode())
    file = tmp_path / "u.csv.gz"
    file.write_bytes(whole[:-30])
    with pytest.raises(DrawdownError, match="cannot be read beyond line"):
        import_samples(engine, [str(file)], options(chunk_rows=100), NOW)
    kept = len(samples(engine))
    assert 2000 < kept < 5000
    file.write_bytes(whole)
    assert counts(import_samples(engine, [str(file)], options(), NOW)) == (5000 - kept, kept, 0, 0)


@pytest.mark.both_databases
def test_import_with_invalid_file_or_option_is_refused(engine: sa.Engine, tmp_path: Path) -> None:
    good, empty, headless = usage(tmp_path, line(1)), tmp_path / "empty.csv", tmp_path / "headless.csv"
    empty.touch()
    headless.write_text("1,2,3\n")
    for other in (str(tmp_path / "missing.csv"), str(empty), str(headless), str(tmp_path), good + ".txt"):
        with pytest.raises(UsageError):
            import_samples(engine, [good, other], options(), NOW)
    for how in ({"rejects": Path(good)}, {"rejects": tmp_path / "no" / "folder.csv"}):
        with pytest.raises(UsageError, match="--rejects"):
            import_samples(engine, [good], options(**how), NOW)
    with pytest.raises(UsageError, match="same ids"):
        import_samples(engine, [good, good], options(id_from_line=True), NOW)
    with pytest.raises(UsageError, match="missing file"):
        import_samples(engine, [], options(), NOW)
    assert samples(engine) == []
    assert Path(good).read_text().startswith(HEADER)


def test_import_into_uninitialised_database_suggests_init(tmp_path: Path) -> None:
    bare = connect(f"sqlite:///{tmp_path}/bare.db")
    with pytest.raises(DatabaseNotReady, match="drawdown init"):
        import_samples(bare, [usage(tmp_path, line(1))], options(), NOW)
    (tmp_path / "bare.db").touch()
    with pytest.raises(DatabaseNotReady, match="drawdown init"):
        import_samples(bare, [usage(tmp_path, line(1))], options(), NOW)
