"""Times and numbers are read alike at each door: events, import and files of usage. What one refuses, all refuse."""

from __future__ import annotations

import gzip
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from drawdown.events.envelope import Unfit
from drawdown.events.fields import moment_of, quantity_of
from drawdown.schema.errors import Refused
from drawdown.worker.batches.duck import shut_in
from drawdown.worker.batches.file_sums import Columns
from drawdown.worker.batches.files import found_file
from drawdown.worker.sources.samples.rows import BadRow, read_interval_s, time_reader
from tests.cases import cases

pytest.importorskip("duckdb")

NOON: Final = 1_767_268_800_000
"""2026-01-01T12:00:00Z."""
TIMES: Final = {
    "2026-01-01T12:00:00Z": NOON,
    "2026-01-01 12:00:00z": NOON,
    "2026-01-01T12:00:00.123456Z": NOON + 123,
    "2026-01-01T13:00:00+01:00": NOON,
    "2026-01-01T11:59:60Z": NOON - 1,
    "2026-01-01T11:59:60.5Z": NOON - 1,
    "2026-01-01T12:59:60+01:00": NOON - 1,
    "2025-12-31T24:00:00Z": None,
    "2026-01-01T12:60:00Z": None,
    "2026-01-01T12:00:61Z": None,
    "2026-02-30T12:00:00Z": None,
    "noon": None,
}
NUMBERS: Final = {"60": 60, "60.0": 60, "60.5": None, "1e99": None, "x": None, "": None}


def of_event(text: str) -> int | None:
    try:
        return moment_of(text, "time")
    except Unfit:
        return None


def of_import(text: str) -> int | None:
    try:
        return time_reader("iso", "UTC")(text)
    except BadRow:
        return None


def of_file(folder: Path, column: str, texts: list[str]) -> list[int | None]:
    rows = "".join(
        f"acme,{text if column == 'ts' else NOON},1024,{text if column == 'quantity' else 60}\n" for text in texts
    )
    (folder / "a.csv").write_text(f"org_id,ts,memory_mb,interval_s\n{rows}")
    file = found_file(folder / "a.csv")
    with closing(shut_in(file, str(folder), in_order=True)) as connection:
        Columns(file, NOON).prepare(connection)
        return [row[0] for row in connection.execute(f"SELECT {column} FROM understood").fetchall()]


def test_times_are_parsed_alike_by_events_import_and_files(tmp_path: Path) -> None:
    assert {text: of_event(text) for text in TIMES} == TIMES
    assert {text: of_import(text) for text in TIMES} == TIMES
    assert dict(zip(TIMES, of_file(tmp_path, "ts", [*TIMES]), strict=True)) == TIMES


def test_numbers_are_parsed_alike_by_events_import_and_files(tmp_path: Path) -> None:
    def event(text: str) -> int | None:
        try:
            return quantity_of(text, "quantity")
        except Unfit:
            return None

    def imported(text: str) -> int | None:
        try:
            return read_interval_s(text)
        except BadRow:
            return None

    assert {text: event(text) for text in NUMBERS} == NUMBERS
    assert {text: imported(text) for text in NUMBERS} == NUMBERS
    assert dict(zip(NUMBERS, of_file(tmp_path, "quantity", [*NUMBERS]), strict=True)) == NUMBERS


HEADER: Final = "org_id,ts,memory_mb,interval_s\nacme,1767268800000,1024,60\n"


@cases(
    ("name", "content", "said"),
    [
        ("a.csv", HEADER.replace(",", ";").encode(), "a.csv: its columns are separated by semicolons. Separate them by "
         "commas"),
        ("a.csv", HEADER.replace(",", "\t").encode(), "a.csv: its columns are separated by tabs. Separate them by "
         "commas"),
        ("a.csv", HEADER.encode("utf-16"), "a.csv: the file is UTF-16. Save it as UTF-8"),
        ("a.csv", HEADER.encode("utf-16-le"), "a.csv: the file is UTF-16. Save it as UTF-8"),
        (
            "a.csv.gz", gzip.compress(HEADER.encode("utf-16-be"), mtime=0),
            "a.csv.gz: the file is UTF-16. Save it as UTF-8",
        ),
        ("a.jsonl", '{"org_id": "acme"}\n'.encode("utf-16"), "a.jsonl: the file is UTF-16. Save it as UTF-8"),
    ],
)  # fmt: skip
def test_file_with_other_separator_or_encoding_is_refused_with_fix(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    file = found_file(tmp_path / name)
    with closing(shut_in(file, str(tmp_path), in_order=True)) as connection, pytest.raises(Refused) as refused:
        Columns(file, NOON).prepare(connection)
    assert str(refused.value) == said
