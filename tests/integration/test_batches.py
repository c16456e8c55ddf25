"""Batches: files of usage are taken once, billed exactly, withdrawn whole, and kept out where they are wrong."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import CapturingLogger

from drawdown.cli.main import run as drawdown
from drawdown.cli.nouns.status import other_lines
from drawdown.schema.database import read, write
from drawdown.schema.errors import DrawdownError, Refused, UnknownId, UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.units import DAY_MS, MAX_MEMORY_MB, MINUTE_MS, WINDOW_MS
from drawdown.server.metrics import filing
from drawdown.worker.batches import duck, file_sums, files, folders, sources
from drawdown.worker.batches import take as taking
from drawdown.worker.batches.files import found_file
from drawdown.worker.batches.lists import files_left
from drawdown.worker.batches.take import (
    BY_HAND,
    WITHDRAWN_AT_ONCE,
    TakenFile,
    WithdrawnBatch,
    meet_types,
    take,
    withdraw_some,
)
from drawdown.worker.features.actions import map_event
from drawdown.worker.sources.events.types import meters
from drawdown.worker.sources.field_map import FieldMap
from drawdown.worker.status.status import status
from drawdown.worker.usage.prune import raise_floors
from drawdown.worker.verify import batch_files
from drawdown.worker.verify.batch_files import verify_files
from drawdown.worker.verify.verify import Verification, verify
from tests.whole import share
from tests.world import T0, Fleet

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Row = dict[str, Any]


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.clock.at_ms = T0 + DAY_MS
    made.assign("acme", "globex", from_ms=T0)
    return made


def row(org: str = "acme", at: int = 0, seconds: object = 60, memory: object = 1024) -> Row:
    return {"org_id": org, "ts": T0 + at, "memory_mb": memory, "interval_s": seconds}


def written(path: Path, rows: Sequence[Row]) -> Path:
    """By its ending."""
    if path.suffix == ".parquet":
        import duckdb

        lines = path.with_suffix(".jsonl")
        written(lines, rows)
        duckdb.execute(f"COPY (FROM read_json('{lines}', hive_partitioning = false)) TO '{path}' (FORMAT parquet)")
        lines.unlink()
    elif ".csv" in path.name:
        text = "\n".join([",".join(rows[0]), *(",".join(map(str, one.values())) for one in rows)]) + "\n"
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def taken(fleet: Fleet, path: Path, source: str = BY_HAND) -> TakenFile:
    with closing(file_sums.add_up(found_file(path), fleet.clock.at_ms)) as sums:
        write(fleet.engine, lambda c: meet_types(c, sums, fleet.clock.at_ms))
        return write(fleet.engine, lambda c: take(c, sums, source, fleet.by))


def withdrawn(fleet: Fleet, batch: str, at_most: int = WITHDRAWN_AT_ONCE) -> WithdrawnBatch:
    done: str | WithdrawnBatch = ""
    while isinstance(done, str):
        done = withdrawn_some(fleet, batch, done, at_most)
    return done


def withdrawn_some(fleet: Fleet, batch: str, after: str, at_most: int) -> str | WithdrawnBatch:
    return write(fleet.engine, lambda c: withdraw_some(c, batch, fleet.by, after, at_most))


def sealed(fleet: Fleet) -> dict[tuple[str, int], int]:
    rows = fleet.rows(
        "SELECT org_id, window_ms, SUM(sealed_qty) FROM pushes WHERE state <> 'voided' GROUP BY 1, 2 ORDER BY 1, 2"
    )
    return {(str(org), (int(str(window)) - T0) // WINDOW_MS): int(str(sum_)) for org, window, sum_ in rows}


def proven(fleet: Fleet, *, deep: bool = True, orgs: Sequence[str] | None = None) -> Verification:
    def work(connection: sa.Connection) -> Verification:
        found = verify(connection, orgs=orgs, now_ms=fleet.clock.at_ms)
        if deep:
            verify_files(connection, found, orgs)
        return found

    return read(fleet.engine, work)


def clean(fleet: Fleet, files_read: int) -> None:
    found = proven(fleet)
    assert found.breaches == []
    assert found.checked["files of batches"] == files_read


ROWS = (row(), row(at=1), row(at=WINDOW_MS, seconds=7), row("globex", seconds=300, memory=4096), row(seconds=0))
SEALED = {("acme", 0): 120, ("acme", 1): 7, ("globex", 0): 300}


@pytest.mark.parametrize("name", ["u.parquet", "u.csv", "u.csv.gz", "u.jsonl"])
def test_batch_file_is_billed_by_window(fleet: Fleet, tmp_path: Path, name: str) -> None:
    done = taken(fleet, written(tmp_path / name, ROWS))
    assert (done.outcome, done.rows, done.refused) == ("taken", 5, 0)
    fleet.tick_windows(1)
    assert sealed(fleet) == SEALED
    assert fleet.one("SELECT COUNT(*) FROM usage_samples") == 3
    clean(fleet, 1)


def test_batch_renamed_file_is_repeated(fleet: Fleet, tmp_path: Path) -> None:
    path = written(tmp_path / "u.csv", ROWS)
    batch = taken(fleet, path).batch
    other = path.rename(tmp_path / "v.csv")
    for _ in range(2):
        again = taken(fleet, other)
        assert (again.outcome, again.batch, again.said) == ("repeated", batch, "taken before, as u.csv")
        fleet.tick_windows(1)
    assert sealed(fleet) == SEALED


def test_batch_stale_read_of_replaced_file_does_not_conflict(fleet: Fleet, tmp_path: Path) -> None:
    """A slow reader has what lay there before: nobody is told to withdraw what lies there by now."""
    path, slow = written(tmp_path / "u.csv", ROWS[:1]), fleet.by
    with closing(file_sums.add_up(found_file(path), slow.now_ms)) as sums:
        fleet.clock.at_ms += 1
        batch = taken(fleet, written(path, ROWS)).batch
        with pytest.raises(files.NotNow, match="another process just took a file with the same content"):
            write(fleet.engine, lambda c: take(c, sums, BY_HAND, slow))
    assert [line.outcome for line in read(fleet.engine, sources.list_batches)] == ["taken"]
    assert (again := taken(fleet, path)).outcome == "repeated" and again.batch == batch


def test_other_content_under_a_name_conflicts_until_first_is_withdrawn(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "u.csv"
    batch = taken(fleet, written(path, ROWS)).batch
    fleet.tick_windows(1)
    written(path, [row(seconds=50)])
    conflict = taken(fleet, path)
    assert conflict.outcome == "conflict" and batch in conflict.said
    fleet.tick_windows(1)
    assert sealed(fleet) == SEALED
    assert withdrawn(fleet, batch) == WithdrawnBatch(batch, 3, 0, already=False)
    assert withdrawn(fleet, batch).already
    fleet.tick_windows(1)
    assert set(sealed(fleet).values()) == {0}
    assert taken(fleet, path).outcome == "taken"
    fleet.tick_windows(1)
    assert sealed(fleet) == {**dict.fromkeys(SEALED, 0), ("acme", 0): 50}
    again = taken(fleet, written(tmp_path / "w.csv", ROWS))
    assert again.withdrawn and "is never taken again. To bill its rows anyway, take them" in again.said
    clean(fleet, 1)


def test_late_batch_is_sealed_as_revision(fleet: Fleet, tmp_path: Path) -> None:
    fleet.sample("acme", T0 + 5, 100)
    fleet.tick_windows(1)
    assert sealed(fleet) == {("acme", 0): 100}
    taken(fleet, written(tmp_path / "one.csv", ROWS))
    taken(fleet, written(tmp_path / "two.jsonl", [row(at=2), row("stranger")]))
    fleet.tick_windows(1)
    assert sealed(fleet) == {**SEALED, ("acme", 0): 100 + 120 + 60}
    assert fleet.rows("SELECT org_id, reason, seconds FROM pending_usage") == [("stranger", "unknown_org", 60)]
    clean(fleet, 2)


def test_batch_invalid_rows_are_listed_with_row_and_column(fleet: Fleet, tmp_path: Path) -> None:
    wrong: list[Row] = [
        row(""), row("a\nb"), row("x" * 201), row(memory=-1), row(memory=MAX_MEMORY_MB + 1), row(memory=1.5),
        row(memory=None), row(seconds=-1), row(seconds=0.5), row(seconds=86_401), row(seconds=2**63),
        row(seconds="NaN"), row(at=-T0), row(at=2 * DAY_MS), {**row(), "ts": "yesterday"}, {**row(), "org_id": None},
        {"org_id": "acme"},
    ]  # fmt: skip
    columns = ["org_id"] * 3 + ["memory_mb"] * 4 + ["interval_s"] * 5 + ["ts"] * 3 + ["org_id", "memory_mb"]
    done = taken(fleet, written(tmp_path / "u.jsonl", [*ROWS, *wrong, row(seconds="9.0")]))
    assert (done.outcome, done.rows, done.refused) == ("taken", 6, len(wrong))
    refused = read(fleet.engine, lambda c: sources.refused_rows(c, done.batch))
    assert [(one.number, one.wrong_column) for one in refused] == list(enumerate(columns, 6))
    fleet.tick_windows(1)
    assert sealed(fleet) == {**SEALED, ("acme", 0): 129}
    clean(fleet, 1)


def test_batch_invalid_rows_are_stored_up_to_limit(fleet: Fleet, tmp_path: Path) -> None:
    done = taken(fleet, written(tmp_path / "u.jsonl", [row(), *[row(seconds=-1)] * 150]))
    assert done.refused == 150
    assert len(read(fleet.engine, lambda c: sources.refused_rows(c, done.batch))) == 100


def test_batch_parquet_typed_columns_are_read_exactly(fleet: Fleet, tmp_path: Path) -> None:
    import duckdb

    path = tmp_path / "u.parquet"
    values = "'acme', TIMESTAMPTZ '2026-01-01 00:00:59.9Z', 1024::DOUBLE, 60::DECIMAL(9, 2)"
    nan = "'acme', TIMESTAMPTZ '2026-01-01 00:00:01Z', 'nan'::DOUBLE, 60::DECIMAL(9, 2)"
    part = "'acme', TIMESTAMPTZ '2026-01-01 00:00:01Z', 1024::DOUBLE, 60.5::DECIMAL(9, 2)"
    text = (
        f"COPY (SELECT * FROM (VALUES ({values}), ({nan}), ({part})) t(org_id, ts, memory_mb, interval_s)) TO '{path}'"
    )
    duckdb.execute(text)
    done = taken(fleet, path)
    assert (done.rows, done.refused) == (1, 2)
    fleet.tick_windows(1)
    assert sealed(fleet) == {("acme", 0): 60}
    clean(fleet, 1)


def test_batch_json_value_of_wrong_type_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    """What reading makes of another type, or rounds, is nothing that the file says."""
    no_number = ("60.5", "1e-1", "-1", "-1.0", "[1]", '{"a":1}', "true", '"1e1"', "null")
    too_large = ("18446744073709551615", "18446744073709551616", "9223372036854775807", "1e300")
    wrong = [("org_id", value) for value in ('["acme"]', '{"a":1}', "5", "true", "null")]
    wrong += [(column, value) for column in ("memory_mb", "interval_s", "ts") for value in no_number + too_large]
    wrong += [("ts", f"{T0}.0"), ("ts", "1e12")]
    good = {"org_id": '"acme"', "ts": str(T0), "memory_mb": "1024", "interval_s": "60"}
    fine = [good, {**good, "org_id": '"ac\\u006de"'}, {**good, "memory_mb": '" 1024.0 "', "interval_s": '"7"'}]
    fine += [{**good, "interval_s": "1e1"}, {**good, "memory_mb": "1024.0", "interval_s": "10.0"}]
    fine += [{**good, "ts": f'"{T0}"'}, {**good, "ts": '"2026-01-01T00:00:59.9Z"'}, {**good, "interval_s": "0"}]
    rows = [*fine, *({**good, column: value} for column, value in wrong)]
    path = tmp_path / "u.jsonl"
    lines = [", ".join(f'"{name}": {value}' for name, value in one.items()) for one in rows]
    path.write_text("".join(f"{{{line}}}\n" for line in lines))
    done = taken(fleet, path)
    refused = read(fleet.engine, lambda c: sources.refused_rows(c, done.batch))
    places = [(number, column) for number, (column, _) in enumerate(wrong, len(fine) + 1)]
    assert [(one.number, one.wrong_column) for one in refused] == places
    assert [one.said for one in refused][:4] == ['["acme"]', '{"a":1}', "5", "true"]
    assert fleet.rows("SELECT DISTINCT org_id FROM usage_samples") == [("acme",)]
    fleet.tick_windows(1)
    assert sealed(fleet) == {("acme", 0): 60 + 60 + 7 + 10 + 10 + 60 + 60}
    clean(fleet, 1)


@pytest.mark.parametrize("first", [None, ["render"]])
def test_batch_json_event_type_that_is_not_text_is_refused(fleet: Fleet, tmp_path: Path, first: object) -> None:
    """The first line says that the file tells of events, whatever its type is."""
    write(fleet.engine, lambda c: map_event(c, "render", "render", fleet.by, from_ms=T0, confirmed=True))
    event = {"org_id": "acme", "ts": T0, "event_type": "render", "quantity": 3}
    wrong: list[Row] = [{**event, "event_type": value} for value in (first, ["render"], 5, True, None)]
    wrong += [{**event, "quantity": value} for value in (3.5, [3], True)]
    done = taken(fleet, written(tmp_path / "u.jsonl", [*wrong, event, {**event, "quantity": "3.0"}]))
    assert (done.rows, done.refused) == (2, len(wrong))
    fleet.tick_windows(1)
    assert sealed(fleet) == {("acme", 0): 6}
    clean(fleet, 1)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_verify_reads_batch_numbers_as_take_does(fleet: Fleet, tmp_path: Path, ending: str) -> None:
    """What is nearly whole is not whole."""
    said = ("59.9998", "60.0004", "60." + "0" * 40 + "1", "0" * 20 + "60", "6e1", "+60", "-60", " 60. ", "60.000", "7.")
    times = [{**row(), "ts": f"{T0}.0"}, {**row(), "ts": f"{T0}.4"}, {**row(seconds=1), "ts": f" {T0} "}]
    rows = [row(seconds=5), *(row(seconds=one) for one in said), row(memory="1024.0001"), *times]
    done = taken(fleet, written(tmp_path / f"u.{ending}", rows))
    assert (done.rows, done.refused) == (5, 10)
    fleet.tick_windows(1)
    assert sealed(fleet) == {("acme", 0): 5 + 60 + 60 + 7 + 1}
    clean(fleet, 1)


def test_verify_reads_parquet_numbers_as_take_does(fleet: Fleet, tmp_path: Path) -> None:
    import duckdb

    path = tmp_path / "u.parquet"
    for name, kind, values in (
        ("quantity", "FLOAT", ("999999995904", "59.9998", "'nan'", "123456789")),
        ("quantity", "DOUBLE", ("999999999999", "60.0004", "'inf'", "59.99999999")),
        ("quantity", "DECIMAL(38, 20)", ("60", "60.00000000000000000001", "59.9998", "7")),
    ):
        rows = ", ".join(f"('acme', 'render', {T0}::DOUBLE, {value}::{kind})" for value in values)
        duckdb.execute(
            f"COPY (SELECT * FROM (VALUES {rows}) t(org_id, event_type, ts, {name})) TO '{path.with_stem(kind[:3])}'"
        )
        taken(fleet, path.with_stem(kind[:3]))
    fleet.tick_windows(1)
    sizes = f"('acme', {T0}, -0.0::DOUBLE, 60::FLOAT), ('acme', {T0}, 1024.0001::DOUBLE, 60::FLOAT)"
    text = f"COPY (SELECT * FROM (VALUES {sizes}) t(org_id, ts, memory_mb, interval_s)) TO '{path}'"
    duckdb.execute(text)
    assert taken(fleet, path).rows == 1
    clean(fleet, 4)


def test_batch_sum_beyond_sample_limit_is_split_exactly(fleet: Fleet, tmp_path: Path) -> None:
    taken(fleet, written(tmp_path / "u.csv", [row(seconds=86_400)] * 5 + [row(seconds=1)]))
    assert fleet.one("SELECT COUNT(*) FROM usage_samples") == 6
    fleet.tick_windows(1)
    assert sealed(fleet) == {("acme", 0): 5 * 86_400 + 1}
    clean(fleet, 1)


def test_batch_events_are_billed_by_event_type(fleet: Fleet, tmp_path: Path) -> None:
    write(fleet.engine, lambda c: map_event(c, "page.render", "render", fleet.by, from_ms=T0, confirmed=True))
    rows = [{"org_id": "acme", "ts": T0, "event_type": kind, "quantity": 3 * 10**11} for kind in ("page.render", "new")]
    taken(fleet, written(tmp_path / "u.jsonl", rows))
    fleet.tick_windows(1)
    assert sealed(fleet) == {("acme", 0): 3 * 10**11}
    assert fleet.rows("SELECT reason, seconds FROM pending_usage") == [("no_mapping", 3 * 10**11)]
    clean(fleet, 1)


def test_new_event_type_is_not_blocked_by_batch_take(postgres: sa.Engine, tmp_path: Path) -> None:
    fleet = Fleet(postgres)
    path = written(tmp_path / "u.jsonl", [{"org_id": "acme", "ts": T0, "event_type": "new", "quantity": 1}])
    with closing(file_sums.add_up(found_file(path), fleet.clock.at_ms)) as sums:
        write(postgres, lambda c: meet_types(c, sums, fleet.clock.at_ms))

        def take_meanwhile(connection: sa.Connection) -> None:
            assert take(connection, sums, BY_HAND, fleet.by).outcome == "taken"
            with postgres.begin() as other:
                other.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")
                assert meters(other, ["newer"], fleet.clock.at_ms)

        write(postgres, take_meanwhile)


BROKEN = {
    "a column is missing": ("u.csv", b"org_id,ts,memory_mb\nacme,1,2\n", "missing column interval_s"),
    "a column stands twice": ("u.csv", b"org_id,ts,ts\n", "duplicate column in the header"),
    "an open quote": (
        "u.csv",
        b'org_id,ts,memory_mb,interval_s\nacme,1,2,3\n"acme,1,2,3\nacme,1,2,3\n',
        "cannot be read",
    ),
    "too many fields": ("u.csv", b"org_id,ts,memory_mb,interval_s\nacme,1,2,3,4\n", "cannot be read"),
    "no UTF-8": ("u.csv", b"org_id,ts,memory_mb,interval_s\nac\xffme,1,2,3\n", "cannot be read"),
    "a line that is no JSON": ("u.jsonl", b'{"org_id":"acme"}\n{"org_id', "cannot be read"),
    "a list": ("u.jsonl", b'{"org_id":"acme"}\n[1]\n', "cannot be read"),
    "an empty line": ("u.jsonl", b"\n", "not JSON"),
    "no row of it fits": ("u.csv", b"org_id,ts,memory_mb,interval_s\nacme,1,2,3\n", "all rows are invalid"),
    "no Parquet": ("u.parquet", b"PAR1 and nothing else", "cannot be read"),
    "half a zip": ("u.csv.gz", gzip.compress(b"org_id,ts\n" * 9_999)[:50], "cannot be read"),
    "no zip": ("u.csv.gz", b"org_id,ts\n", "cannot be read"),
    "a long row": ("u.csv", b"org_id,ts,memory_mb,interval_s\n" + b"x" * 1_500_000 + b",1,2,3\n", "cannot be read"),
}


def test_batch_malformed_file_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    for name, text, why in BROKEN.values():
        path = tmp_path / name
        path.write_bytes(text)
        with pytest.raises(Refused, match=why) as refused:
            taken(fleet, path)
        assert not isinstance(refused.value, files.NotNow)
        assert "CREATE VIEW" not in str(refused.value)  # of the file, never of a statement of ours
    assert fleet.one("SELECT COUNT(*) FROM batches") == 0


@pytest.mark.parametrize(
    "line", ['"id": "s-1"', '"event_id": "e-1"', '"id": 7', '"\\u0069d": [1]', '"id": ""', '"event_id": false']
)
def test_batch_file_with_id_in_any_row_is_refused(fleet: Fleet, tmp_path: Path, line: str) -> None:
    """The first line has none: `drawdown import` would bill the file again."""
    path = written(tmp_path / "u.jsonl", [row()] * 3_000)
    with path.open("a") as more:
        more.write(f'{{"org_id": "acme", "ts": {T0}, "memory_mb": 1024, "interval_s": 1, {line}}}\n' * 2)
    column = "event_id" if "event_id" in line else "id"
    by = "Send its rows to POST /v1/events" if column == "event_id" else "Use `drawdown import FILE`"
    with pytest.raises(Refused, match=rf"its row 3,001 has an id \({column}\)\. {by}"):
        taken(fleet, path)
    assert fleet.one("SELECT COUNT(*) FROM batches") == 0


def test_batch_csv_of_events_with_ids_names_http_path(fleet: Fleet, tmp_path: Path) -> None:
    """`drawdown import` takes samples only."""
    path = tmp_path / "u.csv"
    path.write_text("org_id,ts,event_type,quantity,id\nacme,2026-01-01T00:01:00Z,render,1,e-1\n")
    with pytest.raises(Refused, match=r"its rows have ids \(id\)\. Send its rows to POST /v1/events"):
        taken(fleet, path)


def test_batch_row_with_null_id_is_taken(fleet: Fleet, tmp_path: Path) -> None:
    """Of such a line an import takes nothing."""
    assert taken(fleet, written(tmp_path / "u.jsonl", [row(), {**row(), "id": None}])).rows == 2
    clean(fleet, 1)


def test_batch_parquet_column_of_wrong_type_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    import duckdb

    for said in ("1 AS org_id, 2 AS ts", "'a' AS org_id, [2] AS ts", "'a' AS org_id, DATE '2026-01-01' AS ts"):
        path = tmp_path / "u.parquet"
        duckdb.execute(f"COPY (SELECT {said}, 3 AS memory_mb, 4 AS interval_s) TO '{path}'")
        with pytest.raises(Refused, match="has the type"):
            taken(fleet, path)


def test_batch_file_changed_during_read_is_refused(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "u.csv", ROWS)
    found, whole = found_file(path), file_sums._Reading.whole

    def changed(self: Any, most: int) -> Any:
        answer = whole(self, most)
        stood = path.stat()
        path.write_bytes(path.read_bytes().replace(b"60", b"61"))
        os.utime(path, ns=(stood.st_atime_ns, stood.st_mtime_ns))
        return answer

    def gone(self: Any, most: int) -> Any:
        answer = whole(self, most)
        path.unlink()
        return answer

    def another(self: Any, most: int) -> Any:
        answer, stood = whole(self, most), path.stat()
        written(tmp_path / "v.csv", ROWS[1:]).replace(path)
        os.utime(path, ns=(stood.st_atime_ns, stood.st_mtime_ns))
        return answer

    def shrunk(self: Any, most: int) -> Any:
        os.truncate(path, 5)  # of the header
        return whole(self, most)

    def piped(self: Any, most: int) -> Any:
        path.unlink()
        os.mkfifo(path)
        return whole(self, most)

    for change in (changed, shrunk, another, gone, piped):
        written(path, ROWS)
        monkeypatch.setattr(file_sums._Reading, "whole", change)
        with pytest.raises(files.NotNow, match="did not take it" if change is not piped else "cannot be read"):
            taken(fleet, path)
    with pytest.raises(files.FileChanged, match="no longer a regular file"):
        file_sums.add_up(found, fleet.clock.at_ms)
    assert fleet.one("SELECT COUNT(*) FROM batches") == 0


def test_duckdb_access_beyond_batch_file_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    import duckdb

    path, other = written(tmp_path / "u.csv", ROWS), written(tmp_path / "other.csv", ROWS)
    with closing(file_sums.add_up(found_file(path), fleet.clock.at_ms)) as sums:
        for text in (
            f"FROM read_csv('{other}')",
            "INSTALL httpfs",
            "LOAD httpfs",
            f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
            f"ATTACH '{tmp_path}/x.db'",
            "SET memory_limit = '9GB'",
            "SET enable_external_access = true",
        ):
            with pytest.raises(duckdb.Error):
                sums.connection.execute(text)
        memory = sums.connection.execute("SELECT current_setting('memory_limit')").fetchone()
        assert memory == ("512.0 MiB",)


def test_batch_path_that_is_not_a_usage_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()
    os.mkfifo(tmp_path / "p.csv")
    outside = written(tmp_path / "u.csv", ROWS)
    (tmp_path / "d.csv" / "link.csv").symlink_to(outside)
    for path, why in (("d.csv", "not a regular file"), ("p.csv", "not a regular file"), ("none.csv", "No such file")):
        with pytest.raises(UsageError, match=why):
            found_file(tmp_path / path)
    with pytest.raises(UsageError, match="outside its folder"):
        found_file(tmp_path / "d.csv" / "link.csv", within=tmp_path / "d.csv")
    with pytest.raises(UsageError, match="unknown format"):
        found_file(written(tmp_path / "u.txt", ROWS))


CUTS = share((1, 4, 5, 8, 9, 10, 16, 23), whole=range(1, 24))
"""How many bytes are missing: of the size and the sum that gzip ends with, of what is packed, of the file's end."""


@pytest.mark.parametrize(("ending", "options"), [("csv", "gzip"), ("jsonl", "gzip"), ("parquet", "zstd")])
def test_batch_truncated_compressed_file_is_refused(fleet: Fleet, tmp_path: Path, ending: str, options: str) -> None:
    """Wherever it was cut: between two rows, inside the last number, before what says that it ends."""
    import duckdb

    path = tmp_path / f"u.{ending}{'.gz' if options == 'gzip' else ''}"
    kind = {"jsonl": "json"}.get(ending, ending)
    rows = "SELECT 'acme' AS org_id, 1767225600000 + i AS ts, 1024 AS memory_mb, 111 AS interval_s FROM range(9) t(i)"
    duckdb.execute(f"COPY ({rows}) TO '{path}' (FORMAT {kind}, COMPRESSION {options})")
    whole = path.read_bytes()
    for left_out in (*CUTS, len(whole) // 2):
        path.write_bytes(whole[:-left_out])
        with pytest.raises(Refused, match="cannot be read"):
            taken(fleet, path)
    path.write_bytes(whole)
    assert taken(fleet, path).rows == 9


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_batch_zstd_truncated_or_malformed_is_refused(
    fleet: Fleet, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever one of its frames was cut, and whatever follows the last one."""
    plain = written(tmp_path / f"u.{ending}", [row(at=i, seconds=111) for i in range(9)]).read_bytes()
    half, path = len(plain) // 2, tmp_path / f"u.{ending}.zst"
    frames = zstd.compress(plain[:half]), zstd.compress(plain[half:])
    whole = b"".join(frames)
    for left_out in (*CUTS, len(frames[1]) + 1):
        path.write_bytes(whole[:-left_out])
        with pytest.raises(Refused, match="the file is truncated"):
            taken(fleet, path)
    far = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 28})
    for wrong in (whole + b"and more", plain, far.compress(plain) + far.flush()):
        path.write_bytes(wrong)
        with pytest.raises(Refused, match="cannot unpack the file"):
            taken(fleet, path)
    path.write_bytes(whole)
    with monkeypatch.context() as patch, pytest.raises(Refused, match="the unpacked file has more than"):
        patch.setattr(file_sums, "MAX_UNPACKED_BYTES", len(plain) - 1)
        taken(fleet, path)
    assert taken(fleet, path).rows == 9
    fleet.tick_windows(1)
    assert sealed(fleet) == {("acme", 0): 999}
    clean(fleet, 1)


@pytest.mark.parametrize("parts", [1, 3])
def test_gzip_that_unpacks_to_too_much_is_refused_once(
    fleet: Fleet, watched: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """A small file unpacked to gigabytes, at each tick anew."""
    plain = written(watched / "u.csv", [row(at=at, seconds=1) for at in range(20_000)])
    text = plain.read_bytes()
    plain.unlink()
    size = len(text) // parts
    packed = b"".join(gzip.compress(text[at : at + size]) for at in range(0, len(text), size))
    path = watched / "u.csv.gz"
    path.write_bytes(packed)
    os.utime(path, ns=(T0 * 10**6, T0 * 10**6))
    read_: list[str] = []
    real = duck.shut_in

    def noting(file: files.FoundFile, *given: Any, **more: Any) -> Any:
        read_.append(file.name)
        return real(file, *given, **more)

    monkeypatch.setattr(file_sums, "shut_in", noting)
    with monkeypatch.context() as patch:
        patch.setattr(file_sums, "MAX_UNPACKED_BYTES", len(text) - 1)
        patch.setattr(file_sums, "_CHUNK_BYTES", 1_000)
        (said,) = fleet.tick_windows(1).problems
        assert "the unpacked file has more than" in said and outcomes(fleet) == {"u.csv.gz": "refused"}
        assert fleet.tick_windows(1).problems == [] and read_ == [], "DuckDB never unpacked it"
        patch.setattr(file_sums, "MAX_UNPACKED_BYTES", len(text))
        assert taken(fleet, path).rows == 20_000
    assert read_ == ["u.csv.gz"]


def test_batch_file_timing_out_repeatedly_is_refused(
    fleet: Fleet, watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took each tick as long as a reading may take."""
    laid(watched / "a.csv", ROWS)

    def slow(file: files.FoundFile, *_given: Any) -> file_sums.Sums:
        raise files.TimeUp(f"{file.name}: the time limit ended before the file was read. Split the file")

    monkeypatch.setattr(folders, "add_up", slow)
    short = fleet.clock.at_ms + WINDOW_MS + 30_000
    fleet.clock.at_ms += WINDOW_MS
    for _ in range(sources.MAX_READINGS):  # what had little time is tried again
        assert fleet.tick(deadline_ms=short).failures
    for _ in range(sources.MAX_READINGS):
        assert fleet.tick_windows(1).failures
    assert outcomes(fleet) == {"a.csv": "failed"}
    (said,) = fleet.tick_windows(1).problems
    assert "gave up" in said and outcomes(fleet) == {"a.csv": "refused"}
    assert fleet.tick_windows(1).failures == []


def test_batch_file_above_size_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "u.csv", ROWS)
    monkeypatch.setattr(files, "MAX_BATCH_BYTES", path.stat().st_size - 1)
    with pytest.raises(UsageError, match="Split it"):
        found_file(path)


def test_batch_file_above_sample_limit_is_refused(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "u.csv", ROWS)
    with pytest.raises(Refused, match="more than 2 samples"):
        file_sums.add_up(found_file(path), fleet.clock.at_ms, most=2)
    assert read(fleet.engine, taking.most_samples) == {"sqlite": 500_000, "postgresql": 5_000_000}[fleet.engine.name]


def test_spill_folder_of_killed_read_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{file_sums.PREFIX}left"
    left.mkdir()
    (left / "spilled").touch()
    with file_sums.spill_folder() as one, file_sums.spill_folder() as other:
        assert sorted(map(str, tmp_path.iterdir())) == sorted((one, other))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["u.parquet", "u.csv", "u.jsonl"])
def test_batch_hive_folder_name_is_ignored(fleet: Fleet, tmp_path: Path, name: str) -> None:
    """As other programs lay files: there, the path overrules the rows."""
    folder = tmp_path / "org_id=globex" / "interval_s=9"
    folder.mkdir(parents=True)
    taken(fleet, written(folder / name, [row(), row(at=60_000)]))
    fleet.tick()
    assert sealed(fleet) == {("acme", 0): 120}
    clean(fleet, 1)


def test_batch_with_invalid_ids_beyond_limit_is_refused(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_sums, "MAX_UNCLEAN", 2)
    strange = [row(org=f"a\x00{number}") for number in range(3)]
    with pytest.raises(Refused, match="more than 2 invalid organisation ids"):
        taken(fleet, written(tmp_path / "a.jsonl", strange))
    event = {"org_id": "acme", "ts": T0, "event_type": "a\x00b", "quantity": 1}
    with pytest.raises(Refused, match="invalid event type"):
        taken(fleet, written(tmp_path / "b.jsonl", [event]))
    (tmp_path / "c.csv").write_text("x" * 200_000 + ",ts\n1,2\n")
    with pytest.raises(Refused, match=r"cannot read the header|missing column"):
        taken(fleet, tmp_path / "c.csv")


def test_batch_read_beyond_time_limit_is_refused(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    path = tmp_path / "u.parquet"
    same = "'acme' AS org_id, 1767225600000 AS ts, 1024 AS memory_mb, 60 AS interval_s"
    duckdb.execute(f"COPY (SELECT {same} FROM range(5000000)) TO '{path}'")
    monkeypatch.setattr(file_sums, "READING_TIME_S", 0.001)
    with pytest.raises(Refused, match="the time limit ended"):
        taken(fleet, path)


@pytest.mark.parametrize("at_most", [1, 4, 5])
def test_batch_withdrawal_interrupted_is_finished_by_repeat(fleet: Fleet, tmp_path: Path, at_most: int) -> None:
    """Meanwhile the batch stands: it is proven as it is, and its name and content are taken by nobody."""
    path = written(tmp_path / "u.csv", [row(at=at * WINDOW_MS) for at in range(4)])
    batch = taken(fleet, path).batch
    fleet.tick_windows(1)
    begun = withdrawn_some(fleet, batch, "", at_most)
    fleet.tick_windows(1)
    assert sum(sealed(fleet).values()) == 60 * max(4 - at_most, 0)
    assert taken(fleet, path).outcome == "repeated"
    if isinstance(begun, str):
        clean(fleet, 1)
        path.rename(tmp_path / "kept")
        assert taken(fleet, written(path, [row(seconds=9)])).outcome == "conflict"
        assert withdrawn(fleet, batch, at_most) == WithdrawnBatch(batch, 4, 0, already=False)
    fleet.tick_windows(1)
    assert set(sealed(fleet).values()) == {0}
    assert withdrawn(fleet, batch).already
    assert sum(one["samples"] for one in recorded(fleet)) == 4
    clean(fleet, 0)


def recorded(fleet: Fleet) -> list[dict[str, Any]]:
    rows = fleet.rows("SELECT details FROM operator_actions WHERE action = 'batch_withdraw' ORDER BY action_id")
    return [json.loads(str(details)) for (details,) in rows]


@pytest.mark.both_databases
def test_batch_withdrawal_portion_is_recorded_with_its_own_count(fleet: Fleet, tmp_path: Path) -> None:
    batch = taken(fleet, written(tmp_path / "u.csv", [row(at=at * WINDOW_MS) for at in range(3)])).batch
    for _ in range(2):  # the first is interrupted after a portion, and the second begins with the same portion
        withdrawn_some(fleet, batch, "", 2)
        assert recorded(fleet) == [{"name": "u.csv", "samples": 2}]
    assert withdrawn(fleet, batch, 2) == WithdrawnBatch(batch, 3, 0, already=False)
    assert recorded(fleet)[1:] == [{"name": "u.csv", "samples": 1, "closed": 0}]


@pytest.mark.parametrize("deleted", [False, True])
def test_batch_withdrawal_below_floor_leaves_samples_billed(fleet: Fleet, tmp_path: Path, deleted: bool) -> None:
    done = taken(fleet, written(tmp_path / "u.csv", [row(), row(at=WINDOW_MS)]))
    fleet.tick_windows(1)
    later = T0 + 40 * DAY_MS
    fleet.tick(later)
    write(fleet.engine, lambda c: raise_floors(c, before=T0 + WINDOW_MS, by=fleet.by))
    if deleted:  # by a prune
        fleet.write(f"DELETE FROM usage_samples WHERE ts < {T0 + WINDOW_MS}")
    found = withdrawn(fleet, done.batch)
    assert (found.samples, found.closed) == (1, 1)
    fleet.tick_windows(1)
    assert sealed(fleet) == {("acme", 0): 60, ("acme", 1): 0}
    assert proven(fleet).breaches == []


def test_batch_take_with_floor_raised_meanwhile_is_not_taken(
    postgres: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the sums go in, and after. Once the take has looked, nobody raises one until it is committed."""
    fleet = Fleet(postgres)
    fleet.assign("acme", from_ms=T0)
    fleet.tick(T0 + 40 * DAY_MS)
    path = written(tmp_path / "u.csv", [row(), row(at=2 * WINDOW_MS)])
    putting = taking._put_in

    def prune(windows: int) -> None:
        before = T0 + windows * WINDOW_MS
        write(postgres, lambda c: raise_floors(c, before=before, by=fleet.by))

    def put_in(*given: Any) -> None:
        prune(1)
        putting(*given)

    def puts_in(*given: Any) -> None:
        putting(*given)
        prune(3)

    for planted in (put_in, puts_in):
        with monkeypatch.context() as patch, pytest.raises(files.NotNow, match="closed some of its windows"):
            patch.setattr(taking, "_put_in", planted)
            taken(fleet, path)
    assert fleet.one("SELECT COUNT(*) FROM usage_samples") == 0

    def take_and_prune(connection: sa.Connection) -> None:
        with closing(file_sums.add_up(found_file(path), fleet.clock.at_ms)) as sums:
            take(connection, sums, BY_HAND, fleet.by)
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"), postgres.begin() as other:
            other.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")
            lock_buckets(other)

    write(postgres, take_and_prune)
    clean(fleet, 1)


def test_batch_withdrawal_of_unknown_id_is_refused(fleet: Fleet) -> None:
    with pytest.raises(UnknownId):
        withdrawn(fleet, "none")


class Killed(BaseException):
    """The process ends."""


def test_batch_take_killed_midway_is_rolled_back(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "u.csv", ROWS)
    monkeypatch.setattr(file_sums, "AT_ONCE", 1)
    stored: list[int] = []

    def dying(self: file_sums.Sums) -> Iterator[list[file_sums.Part]]:
        for part in parts(self):
            if stored:
                raise Killed
            stored.append(1)
            yield part

    parts = file_sums.Sums.parts
    monkeypatch.setattr(file_sums.Sums, "parts", dying)
    with pytest.raises(Killed):
        taken(fleet, path)
    monkeypatch.setattr(file_sums.Sums, "parts", parts)
    for table in ("batches", "batch_files", "usage_samples"):
        assert fleet.one(f"SELECT COUNT(*) FROM {table}") == 0
    assert taken(fleet, path).outcome == "taken"
    fleet.tick_windows(1)
    assert sealed(fleet) == SEALED


def test_batch_with_forged_sample_id_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    path = written(tmp_path / "u.csv", ROWS)
    batch = files.hash_of(found_file(path))
    fleet.sample("acme", T0, sample_id=f"batch:{batch}:2", cell="runs")
    with pytest.raises(Refused, match=r"some of its sample ids, from .* on, already exist"):
        taken(fleet, path)
    fleet.tick_windows(1)
    assert [breach.text for breach in proven(fleet).breaches] == [
        f"batch:{batch}:2 belongs to a batch that does not exist"
    ]


@pytest.fixture
def watched(fleet: Fleet, tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    write(fleet.engine, lambda c: sources.add_source(c, "exports", folder, fleet.by))
    return folder


def laid(path: Path, rows: Sequence[Row], at_ms: int = T0) -> Path:
    """A file that was written then."""
    written(path, rows)
    os.utime(path, ns=(at_ms * 10**6, at_ms * 10**6))
    return path


def test_tick_accepts_new_files_of_folder_once_and_reports_faults_once(fleet: Fleet, watched: Path) -> None:
    laid(watched / "a.csv", ROWS)
    laid(watched / "b.csv", ROWS, T0 + 1)  # the same again
    laid(watched / "c.jsonl", [{"nothing": 1}], T0 + 2)
    laid(watched / "fresh.csv", [row(seconds=1)], fleet.clock.at_ms + WINDOW_MS)
    laid(watched / ".hidden.csv", [row(seconds=2)])
    laid(watched / "d.csv.part", [row(seconds=4)])
    outside = laid(watched.parent / "out.csv", [row(seconds=8)])
    (watched / "link.csv").symlink_to(outside)
    report = fleet.tick_windows(1)
    assert (report.batches_taken, report.batches_wait, report.exit_status) == (1, False, 1)
    assert sorted(text.split(":")[1] for text in report.problems) == [" c.jsonl", " link.csv"]
    assert [text.count("c.jsonl") for text in report.problems if "c.jsonl" in text] == [1]
    report = fleet.tick_windows(1)
    assert (report.batches_taken, report.problems, report.exit_status) == (1, [], 0)
    fleet.tick_windows(1)
    assert sealed(fleet) == {**SEALED, ("acme", 0): 121}
    found = read(fleet.engine, lambda c: sources.list_batches(c, source="exports"))
    assert {one.name: one.outcome for one in found} == {
        "a.csv": "taken", "b.csv": "repeated", "c.jsonl": "refused", "link.csv": "refused", "fresh.csv": "taken"
    }  # fmt: skip
    clean(fleet, 2)


def test_batch_file_rewritten_in_folder_conflict_is_reported_once(fleet: Fleet, watched: Path) -> None:
    laid(watched / "a.csv", ROWS)
    fleet.tick_windows(1)
    laid(watched / "a.csv", [row(seconds=1)], T0 + 1)
    reports = [fleet.tick_windows(1) for _ in range(2)]
    assert ["conflict" in " ".join(report.problems) for report in reports] == [True, False]
    assert sealed(fleet) == SEALED


def test_batch_in_conflict_is_taken_after_withdrawal(fleet: Fleet, watched: Path) -> None:
    laid(watched / "a.csv", ROWS)
    fleet.tick_windows(1)
    batch = str(fleet.one("SELECT batch FROM batches"))
    laid(watched / "a.csv", [row(seconds=1)], T0 + 1)
    assert "conflict" in fleet.tick_windows(1).problems[0]
    withdrawn(fleet, batch)
    assert fleet.tick_windows(1).batches_taken == 1
    fleet.tick_windows(1)
    assert sealed(fleet) == {**dict.fromkeys(SEALED, 0), ("acme", 0): 1}


def test_batch_path_of_active_batch_conflicts_by_tick_or_command(fleet: Fleet, watched: Path) -> None:
    laid(watched / "a.csv", ROWS)
    fleet.tick_windows(1)
    assert taken(fleet, laid(watched / "a.csv", [row(seconds=1)])).outcome == "conflict"
    by_hand = laid(watched / "b.csv", [row(seconds=2)])
    assert taken(fleet, by_hand).outcome == "taken"
    laid(by_hand, [row(seconds=4)])
    assert fleet.tick_windows(1).batches_taken == 0
    other = watched.parent / "other"
    other.mkdir()
    assert taken(fleet, laid(other / "a.csv", [row(seconds=8)])).outcome == "taken"
    fleet.tick_windows(1)
    assert sealed(fleet) == {**SEALED, ("acme", 0): 120 + 2 + 8}
    again = laid(other / "c.csv", [row(seconds=2)])  # what b.csv was
    assert taken(fleet, again).outcome == "repeated"
    write(fleet.engine, lambda c: sources.add_source(c, "others", other, fleet.by))
    laid(again, [row(seconds=16)])
    assert "conflict" in " ".join(fleet.tick_windows(1).problems)


def test_batch_read_failing_for_resources_is_retried(
    fleet: Fleet, watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = laid(watched / "a.csv", ROWS)
    found = found_file(path)

    def failing(said: str) -> Callable[..., Any]:
        import duckdb

        def shut_in(*_given: Any, **_more: Any) -> Any:
            if said == "not installed":
                raise files.Unreadable(said)
            if said == "no folder for what spills":
                raise OSError(said)
            with duck.explained(found, duckdb.connect(), Event()):
                raise (duckdb.IOException if "device" in said else duckdb.OutOfMemoryException)(said)

        return shut_in

    for said in ("not installed", "no folder for what spills", "No space left on device", "out of memory"):
        with monkeypatch.context() as patch:
            patch.setattr(file_sums, "shut_in", failing(said))
            report = fleet.tick_windows(1)
        assert (report.exit_status, report.problems, report.batches_taken) == (75, [], 0)
        assert said in report.failures[0]
    assert fleet.tick_windows(1).batches_taken == 1


def outcomes(fleet: Fleet) -> dict[str, str]:
    found = read(fleet.engine, lambda c: sources.list_batches(c, source="exports"))
    return {one.name: one.outcome for one in found}


def test_batch_file_that_kills_three_ticks_is_refused(
    fleet: Fleet, watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = laid(watched / "a.csv", ROWS)
    laid(watched / "b.csv", [row(seconds=1)], T0 + 1)

    def killing(file: files.FoundFile, *given: Any) -> file_sums.Sums:
        if file.name == "a.csv":
            raise Killed
        return file_sums.add_up(file, *given)

    monkeypatch.setattr(folders, "add_up", killing)
    for _ in range(sources.MAX_READINGS):
        with pytest.raises(AssertionError, match="Killed"):
            fleet.tick_windows(1)
        # A tick that begins while another reads leaves the file to it; what died had it tried last.
        fleet.tick(fleet.clock.at_ms + MINUTE_MS)
        assert outcomes(fleet) == {"a.csv": "reading", "b.csv": "taken"}
    reports = [fleet.tick_windows(1) for _ in range(2)]
    assert [["3 ticks ended or gave up" in one for one in report.problems] for report in reports] == [[True], []]
    assert outcomes(fleet)["a.csv"] == "refused"
    assert taken(fleet, path).outcome == "taken"


def test_batch_failed_file_is_retried_after_new_files(
    fleet: Fleet, watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid(watched / "a.csv", ROWS)

    def failing(file: files.FoundFile, *given: Any) -> file_sums.Sums:
        if file.name == "a.csv":
            raise files.NotNow("a.csv: no room")
        return file_sums.add_up(file, *given)

    monkeypatch.setattr(folders, "add_up", failing)
    monkeypatch.setattr(folders, "MAX_FILES_A_TICK", 1)
    for _ in range(sources.MAX_READINGS + 1):
        assert fleet.tick_windows(1).failures == ["exports: a.csv: no room"]
    assert outcomes(fleet) == {"a.csv": "failed"}
    laid(watched / "b.csv", [row(seconds=1)], T0 + 1)
    assert fleet.tick_windows(1).batches_taken == 1
    monkeypatch.undo()
    assert fleet.tick_windows(1).batches_taken == 1
    assert outcomes(fleet) == {"a.csv": "taken", "b.csv": "taken"}


def test_batch_problem_file_moved_away_is_not_counted(fleet: Fleet, watched: Path) -> None:
    laid(watched / "a.csv", ROWS)
    laid(watched / "c.jsonl", [{"nothing": 1}])
    fleet.tick_windows(1)
    laid(watched / "a.csv", [row(seconds=1)], T0 + 1)
    fleet.tick_windows(1)
    left = read(fleet.engine, files_left)
    assert (left.refused, left.conflicts, left.failing) == (1, 1, 0)
    found = read(fleet.engine, lambda c: status(c, fleet.clock.at_ms)).standing
    assert ("files", "1 refused, 1 in conflict: `drawdown batch list`") in other_lines(found, fleet.clock.at_ms)
    said = read(fleet.engine, lambda c: list(filing(c)))[0]
    assert {sample.labels["state"]: sample.value for sample in said.samples} == {
        "refused": 1, "conflict": 1, "failed": 0
    }  # fmt: skip
    away = [path.rename(watched.parent / path.name) for path in watched.iterdir()]
    fleet.tick_windows(1)
    left = read(fleet.engine, files_left)
    assert (left.refused, left.conflicts, left.failing) == (0, 0, 0)
    for path in away:
        path.rename(watched / path.name)
    assert len(fleet.tick_windows(1).problems) == 2


def test_tick_near_deadline_limits_batch_read_time(
    fleet: Fleet, watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid(watched / "a.csv", ROWS)
    fleet.clock.at_ms += WINDOW_MS
    report = fleet.tick(deadline_ms=fleet.clock.at_ms + folders.LEAST_READING_MS - 1)
    assert (report.batches_taken, report.batches_wait) == (0, True)
    given: list[float] = []

    def noting(file: files.FoundFile, now_ms: int, most: int, time_s: float, fields: FieldMap) -> file_sums.Sums:
        given.append(time_s)
        return file_sums.add_up(file, now_ms, most, time_s, fields)

    monkeypatch.setattr(folders, "add_up", noting)
    assert fleet.tick(deadline_ms=fleet.clock.at_ms + 30_000).batches_taken == 1
    assert given == [30]


def test_tick_takes_limited_files_and_bytes(fleet: Fleet, watched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(3):
        laid(watched / f"{at}.csv", [row(seconds=10**at)], T0 + at)
    monkeypatch.setattr(folders, "MAX_FILES_A_TICK", 2)
    first, second = fleet.tick_windows(1), fleet.tick_windows(1)
    assert (first.batches_taken, first.batches_wait, first.exit_status) == (2, True, 75)
    assert (second.batches_taken, second.batches_wait) == (1, False)
    monkeypatch.setattr(folders, "MAX_BYTES_A_TICK", 50)
    for at in range(3, 5):
        laid(watched / f"{at}.csv", [row(seconds=10**at)], T0 + at)
    assert [fleet.tick_windows(1).batches_taken for _ in range(2)] == [1, 1]
    fleet.tick_windows(1)
    assert sealed(fleet) == {("acme", 0): 11_111}


def test_batch_file_behind_many_listed_files_is_taken(
    fleet: Fleet, watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken and what is no batch's file has no share in what is looked at."""
    monkeypatch.setattr(folders, "MAX_LISTED_FILES", 2)
    for at in range(3):
        (watched / f"{at}.txt").touch()
        laid(watched / f"{at}.csv", [row(seconds=10**at)])
    assert [fleet.tick_windows(1).batches_taken for _ in range(3)] == [2, 1, 0]
    assert fleet.tick_windows(1).exit_status == 0


def test_source_missing_folder_is_reported_until_restored(fleet: Fleet, watched: Path) -> None:
    laid(watched / "a.csv", ROWS)
    hidden = watched.rename(watched.parent / "away")
    report = fleet.tick_windows(1)
    assert report.exit_status == 75 and "cannot read the folder of exports" in report.failures[0]
    hidden.rename(watched)
    write(fleet.engine, lambda c: sources.pause_source(c, "exports", fleet.by))
    assert fleet.tick_windows(1).batches_taken == 0
    write(fleet.engine, lambda c: sources.pause_source(c, "exports", fleet.by, resume=True))
    assert fleet.tick_windows(1).batches_taken == 1


def test_batch_file_given_up_by_tick_is_taken_by_command(fleet: Fleet, watched: Path) -> None:
    path = laid(watched / "june.csv", ROWS)
    file = found_file(path)
    gave_up = TakenFile("exports", file.name, taking.UNREAD, "refused", said="3 ticks ended while they read it")
    write(fleet.engine, lambda c: taking.note(c, file, gave_up, fleet.clock.at_ms))
    assert read(fleet.engine, files_left).refused == 1
    assert taken(fleet, path).outcome == "taken"
    assert read(fleet.engine, files_left).refused == 0
    assert read(fleet.engine, lambda c: sources.new_files(c, "exports", [file])) == [], "no tick reads it again"
    clean(fleet, 1)


def test_batch_file_with_restored_content_clears_conflict(fleet: Fleet, watched: Path) -> None:
    laid(watched / "june.csv", ROWS)
    fleet.tick_windows(1)
    laid(watched / "june.csv", [row(seconds=30)], T0 + 1)
    fleet.tick_windows(1)
    assert read(fleet.engine, files_left).conflicts == 1
    laid(watched / "june.csv", ROWS, T0 + 2)
    fleet.tick_windows(1)
    assert read(fleet.engine, files_left).conflicts == 0


@pytest.mark.parametrize("other", [[row(seconds=30)], [{"nothing": 1}]], ids=["conflict", "refused"])
def test_batch_file_moved_back_with_old_time_ends_open_outcome(
    fleet: Fleet, watched: Path, tmp_path: Path, other: Sequence[Row]
) -> None:
    file = laid(watched / "june.csv", ROWS)
    fleet.tick_windows(1)
    kept = file.rename(tmp_path / "june.csv")
    laid(file, other, T0 + 1)
    fleet.tick_windows(1)
    assert read(fleet.engine, lambda c: sources.left_open(c, "exports")) == ["june.csv"]
    kept.rename(file)
    fleet.tick_windows(1)
    assert read(fleet.engine, lambda c: sources.left_open(c, "exports")) == []
    assert read(fleet.engine, files_left).conflicts == 0
    rows = "SELECT outcome, seen_ms FROM batch_files WHERE outcome <> 'gone'"
    ((outcome, seen_ms),) = fleet.rows(rows)
    fleet.tick_windows(1)
    assert fleet.rows(rows) == [("taken", seen_ms)], "it is not read at each tick"
    assert (outcome, sealed(fleet)) == ("taken", SEALED)


@pytest.mark.both_databases
def test_batch_file_moved_back_after_replacement_is_read_again(fleet: Fleet, watched: Path, tmp_path: Path) -> None:
    file = laid(watched / "june.csv", ROWS)
    fleet.tick_windows(2)
    withdrawn(fleet, str(fleet.one("SELECT batch FROM batches")))
    kept = file.rename(tmp_path / "june.csv")
    laid(file, [row(seconds=30)], T0 + 1)
    fleet.tick_windows(1)
    assert fleet.one("SELECT COUNT(*) FROM batches WHERE withdrawn_ms IS NULL") == 1
    kept.rename(file)
    found = read(fleet.engine, lambda c: sources.new_files(c, "exports", [found_file(file)]))
    assert [(failed, one.name) for failed, one in found] == [(False, "june.csv")]


@pytest.mark.both_databases
def test_status_unreadable_source_is_shown_as_behind(fleet: Fleet, watched: Path) -> None:
    """A strange name stops no other file, and is not passed over; of a folder that cannot be listed no file has a
    row."""
    laid(watched / "june.csv", ROWS)
    (watched / os.fsdecode(b"M\xe4rz.csv")).touch()

    def reason() -> str:
        fleet.tick_windows(1)
        found = read(fleet.engine, lambda c: status(c, fleet.clock.at_ms)).headline
        return f"{found.verdict}: {found.reason}"

    assert "behind: the last tick left work undone: exports: 1 file has an invalid name" in reason()
    assert [one.name for one in read(fleet.engine, sources.list_batches)] == ["june.csv"]
    shutil.rmtree(watched)
    assert "behind: the last tick left work undone: cannot read the folder of exports" in reason()
    columns = "worker, bucket_lo, bucket_hi, started_ms, finished_ms, exit_status, clock_trusted, report"
    other = f"INSERT INTO ticks ({columns}) SELECT worker, 128, 255, started_ms, finished_ms, 0, clock_trusted, '{{}}'"
    fleet.write(f"{other} FROM ticks ORDER BY tick_id DESC LIMIT 1")
    found = read(fleet.engine, lambda c: status(c, fleet.clock.at_ms)).headline
    assert "cannot read the folder" in found.reason, "whichever shard's tick ended last"


def test_batch_take_command_leaves_stderr_empty(tmp_path: Path) -> None:
    """DuckDB says at the end of a process what it finds to be left."""
    written(tmp_path / "june.csv", [row()])
    environment = {**os.environ, "DRAWDOWN_DATABASE_URL": f"sqlite:///{tmp_path / 'own.db'}"}
    command = [str(Path(sys.executable).with_name("drawdown"))]
    subprocess.run([*command, "init"], env=environment, capture_output=True, timeout=120, check=True)
    done = subprocess.run(
        [*command, "batch", "take", str(tmp_path / "june.csv")], env=environment, capture_output=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_source_remove_with_taken_batch_is_refused(fleet: Fleet, watched: Path) -> None:
    folder = watched.parent / "exprots"
    folder.mkdir()
    write(fleet.engine, lambda c: sources.add_source(c, "exprots", folder, fleet.by))
    for place in (folder / "bad.jsonl", watched / "a.csv"):
        laid(place, ROWS if place.suffix == ".csv" else [{"nothing": 1}])
    fleet.tick_windows(1)
    write(fleet.engine, lambda c: sources.remove_source(c, "exprots", fleet.by))
    assert fleet.rows("SELECT source FROM batch_files") == [("exports",)]
    with pytest.raises(Refused, match="took the batch"):
        write(fleet.engine, lambda c: sources.remove_source(c, "exports", fleet.by))
    assert [one.source for one in read(fleet.engine, sources.list_sources)] == ["exports"]
    clean(fleet, 1)


def test_source_add_with_conflicting_folder_is_refused(fleet: Fleet, watched: Path, tmp_path: Path) -> None:
    def add(name: str, folder: Path) -> object:
        return write(fleet.engine, lambda c: sources.add_source(c, name, folder, fleet.by))

    add("exports", watched)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Refused, match="the limit of 1 is reached"):
        patch.setattr(sources, "MAX_SOURCES", 1)
        add("new", tmp_path)
    for name, folder in (("exports", tmp_path), ("other", watched), ("a\nb", tmp_path), ("new", tmp_path / "none")):
        with pytest.raises(DrawdownError):
            add(name, folder)
    with pytest.raises(UnknownId):
        write(fleet.engine, lambda c: sources.pause_source(c, "exprots", fleet.by))


def test_batch_commands_as_json_report_outcomes(
    fleet: Fleet, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", str(tmp_path / "state"))

    def said(*words: str) -> tuple[int, Any]:
        status = drawdown(["--at", str(fleet.clock.at_ms), "--json", *words])
        return status, json.loads(capfd.readouterr().out)

    path = written(tmp_path / "u.csv", [*ROWS, row(seconds=-1)])
    wrong = written(tmp_path / "w.csv", [{"id": "s-1", **row()}])
    status, answer = said("batch", "take", str(wrong), str(path), str(tmp_path / "none.csv"))
    batch = answer["files"][1]["batch"]
    assert (status, [one["outcome"] for one in answer["files"]]) == (1, ["refused", "taken", "refused"])
    assert answer["files"][0]["said"].startswith("its rows have ids (id)")  # its name stands beside it
    status, answer = said("batch", "take", str(path))
    assert (status, answer["files"][0]["outcome"], answer["files"][0]["refused"]) == (0, "repeated", 1)
    assert said("batch", "list")[1]["batches"][0]["batch"] == batch
    assert said("batch", "show", batch)[1]["refused_rows"][0]["wrong_column"] == "interval_s"
    assert said("source", "add", "exports", str(tmp_path))[0] == 0
    assert said("source", "pause", "exports")[0] == 0
    assert drawdown(["source", "add", "exports", str(tmp_path)]) == 0
    assert "is paused" in capfd.readouterr().out
    assert said("source", "list")[1]["sources"][0]["paused_ms"] is not None
    assert said("verify", "--deep")[1]["checked"]["files of batches"] == 1
    tried = said("batch", "withdraw", batch, "--dry-run")[1]
    facts = {one["name"]: (one["before"], one["after"]) for one in tried["facts"]}
    assert facts["Organisations"] == ("2: acme, globex", "none") and facts["Samples"] == ("3", "0")
    assert facts["Worth"] == ("0.1327 credits", "no usage")
    assert said("batch", "withdraw", batch)[1]["samples"] == 3
    status, answer = said("batch", "take", str(path))  # withdrawn by mistake: nothing of it is billed
    assert (status, answer["files"][0]["outcome"], answer["files"][0]["withdrawn"]) == (1, "repeated", True)
    packed = tmp_path / "u.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))  # as it is said
    status, answer = said("batch", "take", str(packed))
    assert (status, answer["files"][0]["outcome"]) == (1, "conflict")
    assert said("batch", "accept", answer["files"][0]["batch"])[0] == 0
    assert said("batch", "take", str(packed))[1]["files"][0]["outcome"] == "taken"


def unguarded(fleet: Fleet, guard: str, table: str, text: str) -> None:
    """Behind a guard's back."""
    fleet.write(f"DROP TRIGGER {guard}" + (f" ON {table}" if fleet.engine.name == "postgresql" else ""))
    fleet.write(text)


@pytest.mark.parametrize("name", ["gone", "more", "withdrawn", "unsaid", "pruned"])
def test_verify_batch_differing_from_samples_is_reported(fleet: Fleet, tmp_path: Path, name: str) -> None:
    batch = taken(fleet, written(tmp_path / "u.csv", ROWS)).batch
    fleet.tick_windows(1)
    assert proven(fleet).clean
    one = f"batch:{batch}:1"
    put_in = f"the samples of u.csv ({batch}) do not match: added 3 with the sum 427, found"
    if name == "gone":
        unguarded(fleet, "samples_floor_first", "usage_samples", f"DELETE FROM usage_samples WHERE id = '{one}'")
        expected = f"{put_in} 2 with the sum 307"
    elif name == "more":
        fleet.sample("acme", T0, 3, sample_id=f"batch:{batch}:9", cell="runs")
        fleet.tick_windows(1)
        expected = f"{put_in} 4 with the sum 430"
    elif name == "withdrawn":
        fleet.write(f"UPDATE batches SET withdrawn_ms = 1 WHERE batch = '{batch}'")
        expected = f"u.csv was withdrawn, but {one} still counts"
    elif name == "unsaid":
        fleet.write("DELETE FROM batch_files")
        expected = f"u.csv ({batch}) must be both a batch and an accepted file, but one of them is missing"
    else:
        fleet.tick(T0 + 40 * DAY_MS)
        write(fleet.engine, lambda c: raise_floors(c, before=T0 + WINDOW_MS, by=fleet.by))
        fleet.write(f"DELETE FROM usage_samples WHERE id = '{one}'")
        assert proven(fleet).clean
        return
    assert expected in [breach.text for breach in proven(fleet, deep=False).breaches]


def test_verify_sample_differing_from_batch_file_is_reported(fleet: Fleet, tmp_path: Path) -> None:
    path = written(tmp_path / "u.csv", ROWS)
    batch = taken(fleet, path).batch
    text = f"UPDATE usage_samples SET interval_s = 121 WHERE id = 'batch:{batch}:1'"
    unguarded(fleet, "samples_immutable", "usage_samples", text)
    fleet.tick_windows(1)
    expected = f"u.csv ({batch}) has 120 of 1024, but its samples have 121"
    for orgs, seen in ((None, True), (["acme"], True), (["globex"], False)):
        assert (expected in [breach.text for breach in proven(fleet, orgs=orgs).breaches]) == seen
    path.write_text("another")
    assert proven(fleet).open["batches with a missing or changed file"] == 1


def _refuse_hash(patch: pytest.MonkeyPatch) -> None:
    real = batch_files._hash

    def failing(path: Path) -> str:
        if path.name.startswith("a."):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    patch.setattr(batch_files, "_hash", failing)


def _refuse_spill(patch: pytest.MonkeyPatch) -> None:
    def failing(_source: object, _target: object) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(shutil, "copyfileobj", failing)


def _refuse_sums(patch: pytest.MonkeyPatch) -> None:
    real = batch_files._open_rows

    def failing(duck: Any, path: Path, mapped: batch_files.Map) -> bool:
        if path.name.startswith("a."):
            duck.execute("SELECT error('out of memory')")
        return real(duck, path, mapped)

    patch.setattr(batch_files, "_open_rows", failing)


def _refuse_folder(patch: pytest.MonkeyPatch) -> None:
    """Only the first folder, for a.csv.zst."""
    real = tempfile.mkdtemp

    def failing(*args: Any, **kwargs: Any) -> str:
        patch.setattr(tempfile, "mkdtemp", real)
        raise OSError(28, "No space left on device")

    patch.setattr(tempfile, "mkdtemp", failing)


@pytest.mark.parametrize("refuse", [_refuse_hash, _refuse_spill, _refuse_sums, _refuse_folder])
def test_verify_unreadable_batch_file_keeps_other_findings(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Verify reads a.csv.zst before b.csv, which has a breach."""
    first = written(tmp_path / "a.csv", ROWS)
    first.with_name("a.csv.zst").write_bytes(zstd.compress(first.read_bytes()))
    assert taken(fleet, first.with_name("a.csv.zst")).outcome == "taken"
    fleet.clock.at_ms += 1
    batch = taken(fleet, written(tmp_path / "b.csv", [row("globex", seconds=77)])).batch
    text = f"UPDATE usage_samples SET interval_s = 78 WHERE id = 'batch:{batch}:1'"
    unguarded(fleet, "samples_immutable", "usage_samples", text)
    refuse(monkeypatch)
    logs = CapturingLogger()
    monkeypatch.setattr(batch_files, "log", logs)
    found = proven(fleet)
    (reason,) = [line.kwargs["reason"] for line in logs.calls]
    assert ("Set TMPDIR" in reason) == (refuse in (_refuse_spill, _refuse_folder)), reason
    assert f"b.csv ({batch}) has 77 of 1024, but its samples have 78" in [breach.text for breach in found.breaches]
    assert found.checked["files of batches"] == 1
    assert found.open["batches with an unreadable file"] == 1
    assert found.open["batches with a missing or changed file"] == 0


def _sql(name: str, old: str, new: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A mistake in a statement of the reading or the taking."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        for sql in (file_sums.SQL, taking.SQL, taking.SQL):
            if (name, "") in sql.pieces:
                text = sql.pieces[name, ""]
                assert old in text
                patch.setitem(sql.pieces, (name, ""), text.replace(old, new))
                patch.setattr(sql, "_ready", {})
                return
        raise AssertionError(name)

    return plant


def _half(patch: pytest.MonkeyPatch) -> None:
    """Only the first part of what a file comes to is put in."""
    parts = file_sums.Sums.parts
    patch.setattr(file_sums, "AT_ONCE", 1)
    patch.setattr(file_sums.Sums, "parts", lambda self: iter([next(parts(self))]))


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "nothing": lambda _patch: None,
    "a sum is cut at what a sample holds": _sql("cut", "unnest(range(", "unnest(range(least(1, "),
    "half of a file goes in": _half,
    "windows are cut at the hour": _sql("add_up", "window_ms()", "3600000"),
    "rows that do not fit are billed as one": _sql("fits", "BETWEEN 0 AND most_quantity()", "< 10000000"),
    "a time ahead is billed": _sql("fits", "AND latest_ms()", "AND latest_ms() * 2"),
    "sizes are mixed": _sql("add_up", "CASE WHEN fits THEN kind END", "CASE WHEN fits THEN 1024 END"),
    "a hash is no key": _sql("claim", "VALUES (:batch,", "VALUES (:batch || CAST(:taken_ms AS TEXT),"),
    "one organisation is left in": _sql(
        "withdraw", "FROM {its_samples}", "FROM {its_samples} AND s.org_id <> 'globex'"
    ),
}


@pytest.mark.parametrize("name", share(list(PLANTED)[:1], whole=list(PLANTED)))
def test_batch_planted_bug_is_found(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """By the proof and the file, or by what was billed."""
    wrong = [row(seconds=90_000), row(at=3 * DAY_MS)]
    path = written(tmp_path / "u.csv", [*ROWS, row(seconds=86_400, at=3), row(seconds=86_400, at=4), *wrong])

    def is_wrong() -> bool:
        fleet.tick_windows(1)
        return bool(proven(fleet).breaches)

    PLANTED[name](monkeypatch)
    batch = ""
    try:
        batch = taken(fleet, path).batch
        seen = is_wrong()
        path = path.rename(tmp_path / "v.csv")
        seen = taken(fleet, path).outcome == "taken" or seen
        withdrawn(fleet, batch)
        seen = is_wrong() or any(sealed(fleet).values()) or seen
    except (Refused, UnknownId, sa.exc.DBAPIError):
        seen = True
    assert seen == (name != "nothing")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_verify_reads_batch_times_as_take_does(fleet: Fleet, tmp_path: Path, ending: str) -> None:
    """A leap second is the moment before the next one, and no day has a 24th hour."""
    times = ("2026-01-01T00:00:60Z", "2026-01-01T00:00:60.5Z", "2026-01-01 01:00:59z", "2025-12-31T24:00:00Z")
    rows = [{**row(seconds=2**place), "ts": one} for place, one in enumerate(times)]
    done = taken(fleet, written(tmp_path / f"u.{ending}", rows))
    assert (done.rows, done.refused) == (3, 1)
    fleet.tick_windows(20)
    assert sum(sealed(fleet).values()) == 1 + 2 + 4
    clean(fleet, 1)
