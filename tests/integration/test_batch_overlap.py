"""Batches are known by their rows: the same ones in another file are billed once, and shared ones wait for a person."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from drawdown.cli.main import run as drawdown
from drawdown.schema.database import write
from drawdown.schema.errors import Refused, UnknownId
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.batches import file_sums, sources, take
from drawdown.worker.batches.take import accept
from tests.integration.test_batches import SEALED, clean, fleet, row, sealed, taken, unguarded, withdrawn, written
from tests.world import Fleet

__all__ = ["fleet"]

ROWS = (row(), row(at=1), row(at=WINDOW_MS, seconds=7), row("globex", seconds=300, memory=4096), row(seconds=0))


def _csv(path: Path) -> bytes:
    return written(path.with_suffix(".csv"), ROWS).read_bytes()


def _put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _packed(path: Path) -> Path:
    return _put(path.with_suffix(".csv.gz"), gzip.compress(_csv(path)))


def _crlf(path: Path) -> Path:
    return _put(path.with_suffix(".csv"), _csv(path).replace(b"\n", b"\r\n"))


OTHER_FILES: dict[str, Callable[[Path], Path]] = {
    "packed": _packed,
    "crlf": _crlf,
    "bom": lambda path: _put(path.with_suffix(".csv"), b"\xef\xbb\xbf" + _csv(path)),
    "quoted": lambda path: _put(path.with_suffix(".csv"), _csv(path).replace(b"acme", b'"acme"')),
    "reversed": lambda path: written(path.with_suffix(".csv"), ROWS[::-1]),
    "columns": lambda path: written(path.with_suffix(".csv"), [dict(reversed(one.items())) for one in ROWS]),
    "parquet": lambda path: written(path.with_suffix(".parquet"), ROWS),
    "jsonl": lambda path: written(path.with_suffix(".jsonl"), ROWS),
}


@pytest.mark.parametrize("other", OTHER_FILES)
def test_batch_same_rows_in_different_file_is_repeated(fleet: Fleet, tmp_path: Path, other: str) -> None:
    first = taken(fleet, written(tmp_path / "u.csv", ROWS))
    again = taken(fleet, OTHER_FILES[other](tmp_path / "other"))
    assert (again.outcome, again.batch, again.said) == ("repeated", first.batch, "taken before, as u.csv")
    fleet.tick_windows(1)
    assert sealed(fleet) == SEALED


def test_batch_file_rewritten_with_same_rows_is_repeated(fleet: Fleet, tmp_path: Path) -> None:
    first = taken(fleet, written(tmp_path / "u.csv", ROWS))
    for _ in range(2):
        again = taken(fleet, _crlf(tmp_path / "u"))
        assert (again.outcome, again.batch) == ("repeated", first.batch)
    assert taken(fleet, written(tmp_path / "u.csv", (row(seconds=1),))).outcome == "conflict"


def test_batch_sharing_rows_conflicts_until_accepted(fleet: Fleet, tmp_path: Path) -> None:
    taken(fleet, written(tmp_path / "u.csv", ROWS))
    longer = written(tmp_path / "v.csv", (*ROWS, row(at=2, seconds=11)))
    done = taken(fleet, longer)
    assert (done.outcome, done.shared_rows) == ("conflict", 4)
    amount = "300 s of 4096 MB for globex, 127 s of 1024 MB for acme"
    assert f"4 of its 6 rows were taken before, in u.csv: {amount}" in done.said
    assert f"drawdown batch accept {done.batch}" in done.said
    fleet.tick_windows(1)
    assert sealed(fleet) == SEALED
    with pytest.raises(UnknownId, match="drawdown batch list"):
        write(fleet.engine, lambda c: accept(c, "0" * 32, fleet.by))
    assert write(fleet.engine, lambda c: accept(c, done.batch, fleet.by)) == 1
    with pytest.raises(Refused, match="does not wait for acceptance"):
        write(fleet.engine, lambda c: accept(c, done.batch, fleet.by))
    assert taken(fleet, longer).outcome == "taken"
    fleet.tick_windows(1)
    assert sealed(fleet) == {("acme", 0): 251, ("acme", 1): 14, ("globex", 0): 600}
    clean(fleet, 2)


def test_tick_takes_batch_sharing_rows_after_acceptance(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    write(fleet.engine, lambda c: sources.add_source(c, "exports", folder, fleet.by))
    old = ((fleet.clock.at_ms - 300_000) / 1000,) * 2
    problems: list[str] = []
    for name, rows in (("a.csv", ROWS), ("b.csv", ROWS[:1])):
        os.utime(written(folder / name, rows), old)
        problems = fleet.tick().problems
    assert any("1 of its 1 row was taken before, in a.csv" in problem for problem in problems)
    assert fleet.tick().problems == []
    batch = str(fleet.one("SELECT batch FROM batch_files WHERE outcome = 'conflict'"))
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", fleet.engine.url.render_as_string(hide_password=False))
    assert drawdown(["batch", "accept", batch, "--reason", "another region"]) == 0
    assert drawdown(["batch", "accept", batch]) == 1
    fleet.tick()
    assert fleet.one("SELECT COUNT(*) FROM batches") == 2
    fleet.tick_windows(1)
    assert sealed(fleet)["acme", 0] == 180


def test_batch_rows_with_different_labels_are_billed(fleet: Fleet, tmp_path: Path) -> None:
    one, other = ([{**each, "sandbox_id": f"{box}{n}"} for n, each in enumerate(ROWS)] for box in "ab")
    assert taken(fleet, written(tmp_path / "a.csv", one)).outcome == "taken"
    assert taken(fleet, written(tmp_path / "b.csv", other)).outcome == "taken"
    assert taken(fleet, written(tmp_path / "b.parquet", other)).outcome == "repeated"
    assert taken(fleet, written(tmp_path / "c.jsonl", ROWS)).shared_rows == 8
    fleet.tick_windows(1)
    assert sealed(fleet) == {key: 2 * seconds for key, seconds in SEALED.items()}


def test_batch_with_same_rows_as_withdrawn_batch_conflicts(fleet: Fleet, tmp_path: Path) -> None:
    withdrawn(fleet, taken(fleet, written(tmp_path / "u.csv", ROWS)).batch)
    packed = _packed(tmp_path / "u2")
    done = taken(fleet, packed)
    assert (done.outcome, done.shared_rows) == ("conflict", 5)
    assert "the file has the same rows as u.csv, which was withdrawn" in done.said
    write(fleet.engine, lambda c: accept(c, done.batch, fleet.by))
    assert taken(fleet, packed).outcome == "taken"
    withdrawn(fleet, done.batch)
    assert taken(fleet, written(tmp_path / "u.csv", (*ROWS[:3], row("globex", seconds=299)))).outcome == "taken"


def test_batch_same_sums_without_row_hashes_conflicts(fleet: Fleet, tmp_path: Path) -> None:
    first = taken(fleet, written(tmp_path / "u.csv", ROWS))
    unguarded(fleet, "batches_rows_frozen", "batches", "UPDATE batches SET rows_hash = NULL, rows_kept = NULL")
    done = taken(fleet, _packed(tmp_path / "u2"))
    assert done.outcome == "conflict" and "are not on record" in done.said
    assert first.batch != done.batch


def test_batch_large_file_is_compared_by_sampled_rows(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_sums, "MAX_ROWS_KEPT", 40)
    monkeypatch.setattr(take, "MAX_ROWS_KEPT", 40)
    monkeypatch.setattr(file_sums, "MAX_ROWS_COMPARED", 100)
    taken(fleet, written(tmp_path / "u.csv", [row(at=at, seconds=1) for at in range(1000)]))
    assert len(str(fleet.one("SELECT rows_kept FROM batches"))) == 4 * -(-40 * 16 // 3)
    shares = [*(row(at=at, seconds=1) for at in range(500, 1000)), *(row("globex", at) for at in range(500))]
    done = taken(fleet, written(tmp_path / "v.csv", shares))
    assert done.outcome == "conflict" and done.said.startswith("at least ")
    assert taken(fleet, written(tmp_path / "w.csv", [row(at=5000 + at) for at in range(500)])).outcome == "taken"


def test_batch_is_compared_with_limited_number_of_batches(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(take, "MAX_BATCHES_COMPARED", 1)
    for number in range(3):
        fleet.clock.at_ms += 1
        taken(fleet, written(tmp_path / f"{number}.csv", (row(at=number),)))
    assert taken(fleet, written(tmp_path / "last.csv", (row(at=2), row(at=9)))).outcome == "conflict"
    assert taken(fleet, written(tmp_path / "first.csv", (row(at=0), row(at=9)))).outcome == "taken"


@pytest.mark.parametrize("name", ["u.csv", "u.jsonl", "u.csv.gz", "u.jsonl.gz"])
def test_batch_empty_file_is_taken_without_samples(fleet: Fleet, tmp_path: Path, name: str) -> None:
    path = _put(tmp_path / name, gzip.compress(b"") if name.endswith(".gz") else b"")
    done = taken(fleet, path)
    assert (done.outcome, done.rows, done.refused) == ("taken", 0, 0)
    assert fleet.one("SELECT COUNT(*) FROM usage_samples") == 0
    if not name.endswith(".gz"):
        clean(fleet, 1)
