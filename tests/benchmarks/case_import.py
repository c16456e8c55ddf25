"""The importer beside the plainest script that loads the same file: csv.reader, and executemany into the same table."""

from __future__ import annotations

import csv
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from drawdown.worker.sources.samples.importer import import_samples
from drawdown.worker.sources.samples.rows import ImportOptions
from tests.benchmarks.databases import Databases, indexes_of, url_of
from tests.benchmarks.fleet import START_MS
from tests.benchmarks.measure import Result, compared, stopwatch

GOAL = 3.0
NOW_MS = START_MS + 3_600_000
COLUMNS = ("id", "org_id", "sandbox_id", "cell_id", "memory_mb", "cpu_count", "interval_s", "ts")
BASELINE = "INSERT INTO usage_samples ({columns}, ingested_at) VALUES ({marks})"


def run(databases: Databases, kind: str, rows: int, runs: int) -> Result:
    """Each run into a new, empty database."""
    file = _file(databases.folder, rows)
    figures = compared(
        lambda: _timed(databases, kind, rows, lambda engine: _import(engine, file)),
        lambda: _timed(databases, kind, rows, lambda engine: _plain(engine, file)),
        runs,
        goal=GOAL,
        what=("importer", "plain script"),
    )
    engine = databases.new(kind)
    baseline = f"csv.reader, executemany, one commit: {_statement(kind)}\n  {indexes_of(engine, 'usage_samples')}"
    databases.drop(engine)
    file.unlink()
    return Result(
        case="import",
        database=kind,
        compares=f"importing {rows:,} rows of CSV, checked and idempotent by id, beside a plain script",
        figures=figures,
        baseline=baseline,
        totals={"samples": rows},
    )


def _file(folder: Path, rows: int) -> Path:
    path = folder / "samples.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(COLUMNS)
        for i in range(rows):
            org, size = i * 7919 % 20_000, (1024, 4096)[i % 2]
            out.writerow((f"s{i}", f"org-{org}", f"box-{org}", f"cell-{org % 7}", size, "2", 60, START_MS + i * 3))
    return path


def _timed(databases: Databases, kind: str, rows: int, load: Any) -> float:
    engine = databases.new(kind)
    seconds = stopwatch(lambda: load(engine))
    with engine.connect() as connection:
        found = connection.execute(
            sa.text("SELECT COUNT(*), SUM(interval_s) FROM usage_samples WHERE problem IS NULL")
        ).one()
    assert (found[0], int(found[1])) == (rows, 60 * rows), found
    databases.drop(engine)
    return seconds


def _import(engine: sa.Engine, file: Path) -> None:
    report = import_samples(engine, [str(file)], ImportOptions(time_format="ms"), NOW_MS)
    assert report.inserted == report.read, report


def _statement(kind: str) -> str:
    mark = "?" if kind == "sqlite" else "%s"
    return BASELINE.format(columns=", ".join(COLUMNS), marks=", ".join([mark] * (len(COLUMNS) + 1)))


def _plain(engine: sa.Engine, file: Path) -> None:
    """On the driver alone, with the driver's own settings."""
    connect: Any = sqlite3.connect if engine.dialect.name == "sqlite" else psycopg.connect
    where = engine.url.database if engine.dialect.name == "sqlite" else url_of(engine.url)
    with file.open(encoding="utf-8", newline="") as text, closing(connect(where)) as connection:
        reader = csv.reader(text)
        next(reader)
        rows = ((*row, NOW_MS) for row in reader)
        connection.cursor().executemany(_statement(engine.dialect.name), rows)
        connection.commit()
