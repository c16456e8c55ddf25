"""Importing into real databases: once by id, bad rows reported, other content quarantined, nothing lost silently."""

from __future__ import annotations

import csv
import gzip
import io
import json
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.cli.nouns.imports import _report
from drawdown.schema.audit import By
from drawdown.schema.database import read, write
from drawdown.schema.tables.usage import usage_samples
from drawdown.worker.sources.samples import importer
from drawdown.worker.sources.samples.importer import import_samples
from drawdown.worker.sources.samples.rows import FIELDS, ImportOptions
from drawdown.worker.usage.withdrawals import withdraw
from tests.integration.importing import NOW, counts, line, options, quarantine, samples, usage

GENTD26 = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "gentd26_requests.csv"


def test_import_stores_all_fields_of_sample(engine: sa.Engine, tmp_path: Path) -> None:
    assert counts(import_samples(engine, [usage(tmp_path, line(1, cpu_count=0.5))], options(), NOW)) == (1, 0, 0, 0)
    assert samples(engine) == [("s1", "acme", "sb1", "c1", 1024, Decimal("0.5"), 60, 1731689870000)]
    query = sa.select(usage_samples.c.ingested_at, usage_samples.c.problem)
    assert read(engine, lambda connection: tuple(connection.execute(query).one())) == (NOW, None)


@pytest.mark.both_databases
def test_import_with_bad_rows_reports_each_and_stores_rest(engine: sa.Engine, tmp_path: Path) -> None:
    bad = {
        3: (line(3, interval_s=-5), "interval_s", "interval_negative"),
        4: (line(4, interval_s=12.5), "interval_s", "interval_fractional"),
        5: (line(5, org_id=""), "org_id", "bad_org_id"),
        6: (line(6) + ",more", "", "too_many_columns"),
        7: ("s7,acme", "", "too_few_columns"),
        8: (line(8, ts="soon"), "ts", "ts_unreadable"),
        9: (line(9, cell_id='"c"1'), "", "csv_syntax"),
        10: (line(10, sandbox_id="x" * 201), "sandbox_id", "bad_sandbox_id"),
        11: (line(11, id="event:guessed"), "id", "reserved_id"),
        12: (line(12, id="run:a:1", cell_id="runs"), "id", "reserved_id"),
    }
    file = usage(tmp_path, line(2), *(text for text, _, _ in bad.values()), line(13, interval_s="32.0"))
    rejects = tmp_path / "rejects.csv"
    report = import_samples(engine, [file], options(rejects=rejects, chunk_rows=3), NOW)
    assert counts(report) == (2, 0, len(bad), 0)
    assert {row.line: (row.column, row.reason) for row in report.first_rejects} == {n: b[1:] for n, b in bad.items()}
    assert str(report.first_rejects[0]) == f"{file}:3: interval_s is negative: '-5'"
    assert str(report.first_rejects[4]) == f"{file}:7: the row has fewer fields than the header: 's7,acme'"
    assert all(len(row.text) <= importer.MAX_SHOWN_CHARS for row in report.first_rejects)
    assert sum(report.reasons.values()) == len(bad)
    with rejects.open(newline="") as written:
        rows = list(csv.reader(written))
    assert rows[0] == ["file", "line", "column", "reason", "text"]
    assert rows[1:] == [[file, str(n), column, reason, text] for n, (text, column, reason) in bad.items()]
    assert [row[0] for row in samples(engine)] == ["s13", "s2"]


def test_import_counts_withdrawn_samples_already_stored(engine: sa.Engine, tmp_path: Path) -> None:
    """Whoever withdrew too much imports it again, and is to see that it is billed no more."""
    import_samples(engine, [usage(tmp_path, *map(line, range(5)))], options(), NOW)
    write(engine, lambda c: withdraw(c, ["s1", "s2", "s4"], By(NOW, "test", "a mistake", "cli")))
    rows = [line(1), line(1), line(2, memory_mb=2048), line(3), line(4)]
    for strict in (False, True):
        report = import_samples(engine, [usage(tmp_path, *rows)], options(strict=strict), NOW)
        assert (report.already_there, report.withdrawn, report.conflicts) == (4, 3, 1)
    told = "\n".join(_report(report, None))
    assert "4 already stored (3 of them withdrawn), 0 refused" in told and "never bills a withdrawn id again" in told
    assert "withdrawn" not in "\n".join(
        _report(import_samples(engine, [usage(tmp_path, line(3))], options(), NOW), None)
    )


def test_import_with_many_rejects_counts_all_and_shows_first(engine: sa.Engine, tmp_path: Path) -> None:
    report = import_samples(engine, [usage(tmp_path, *["x"] * 57)], options(), NOW)
    assert counts(report) == (0, 0, 57, 0)
    assert len(report.first_rejects) == importer.FIRST_FEW


def test_repeated_import_leaves_samples_unchanged(engine: sa.Engine, tmp_path: Path) -> None:
    file = usage(tmp_path, *(line(n) for n in range(25)), line(3), line(24))
    assert counts(import_samples(engine, [file, file], options(), NOW)) == (25, 2 + 27, 0, 0)
    before = samples(engine)
    assert counts(import_samples(engine, [file], options(), NOW + 1)) == (0, 27, 0, 0)
    assert samples(engine) == before


@pytest.mark.parametrize("name", FIELDS[1:])
def test_sample_with_same_id_and_other_content_is_quarantined(engine: sa.Engine, tmp_path: Path, name: str) -> None:
    import_samples(engine, [usage(tmp_path, line(1), line(2))], options(), NOW)
    before = samples(engine)
    other = usage(tmp_path, line(1), line(2, **{name: 7 if name != "ts" else 1731689870001}), line(3))
    assert counts(import_samples(engine, [other], options(), NOW)) == (1, 1, 0, 1)
    assert samples(engine)[:2] == before
    report = import_samples(engine, [other], options(), NOW + 1)
    assert counts(report) == (0, 2, 0, 1)
    assert str(report.first_conflicts[0]).startswith(f"{other}:3: id the same id exists with different content")
    ((sample_id, source, content, seen_ms),) = quarantine(engine)
    assert (sample_id, source, seen_ms) == ("s2", f"{other}:3", NOW), "once, however often it is seen"
    assert str(json.loads(content)[name]) == ("1731689870001" if name == "ts" else "7")


def test_duplicate_ids_in_chunk_keep_first_sample(engine: sa.Engine, tmp_path: Path) -> None:
    file = usage(
        tmp_path,
        line(9),
        line(1, interval_s=3),
        line(1, interval_s=2),
        line(1, interval_s=3),
        line(1, interval_s=2),
        line(0),
    )
    report = import_samples(engine, [file], options(), NOW)
    assert counts(report) == (3, 1, 0, 2)
    assert [row.line for row in report.first_conflicts] == [4, 6]
    assert [row[6] for row in samples(engine)] == [60, 3, 60]
    assert [(row[0], row[1]) for row in quarantine(engine)] == [("s1", f"{file}:4")]


def test_import_compares_cpu_count_by_value(engine: sa.Engine, tmp_path: Path) -> None:
    import_samples(
        engine,
        [usage(tmp_path, line(1, cpu_count="0.1"), line(2, cpu_count="2.0"), line(3, cpu_count=""))],
        options(),
        NOW,
    )
    again = usage(tmp_path, line(1, cpu_count="0.10"), line(2, cpu_count="2"), line(3, cpu_count=""))
    assert counts(import_samples(engine, [again], options(), NOW)) == (0, 3, 0, 0)
    other = usage(tmp_path, line(1, cpu_count=""), line(2, cpu_count="2.000000001"), line(3, cpu_count="0"))
    assert counts(import_samples(engine, [other], options(), NOW)) == (0, 0, 0, 3)


def test_import_compares_samples_inserted_by_other_program(engine: sa.Engine, tmp_path: Path) -> None:
    insert = sa.text(
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, cpu_count, interval_s, ts) VALUES "
        "('s1', 'acme', 'sb1', 'c1', 1024, 2.0, 60.0, 1731689870000), "
        "('s2', NULL, NULL, NULL, NULL, NULL, NULL, NULL), "
        "('s3', 'acme', 'sb1', 'c1', 1024, 2, 12.5, 1731689870000)"
    )
    write(engine, lambda connection: connection.execute(insert))
    assert counts(import_samples(engine, [usage(tmp_path, line(1), line(2), line(3))], options(), NOW)) == (0, 1, 0, 2)


def test_import_conflict_with_longest_ids_is_counted(engine: sa.Engine, tmp_path: Path) -> None:
    scripts = ["".join(chr(0x20000 + 199 * n + i) for i in range(200)) for n in range(4)]  # nothing to compress
    changes = dict(zip(FIELDS[:4], scripts, strict=True))
    file = usage(tmp_path, line(1, **changes), line(2, **changes, memory_mb=8))
    assert counts(import_samples(engine, [file], options(), NOW)) == (1, 0, 0, 1)


def test_import_of_gzip_standard_input_takes_ids_from_lines(engine: sa.Engine, tmp_path: Path) -> None:
    rows = [
        {"org_id": "o", "sandbox_id": "b", "cell_id": "c", "memory_mb": 1, "interval_s": n, "ts": NOW} for n in (1, 2)
    ]
    data = "\n".join(json.dumps(row) for row in rows).encode()
    how = options(format="jsonl", id_from_line=True, id_prefix="pipe")
    assert counts(import_samples(engine, ["-"], how, NOW, stdin=io.BytesIO(gzip.compress(data)))) == (2, 0, 0, 0)
    (tmp_path / "pipe.jsonl").write_bytes(data)
    how = options(id_from_line=True)
    assert counts(import_samples(engine, [str(tmp_path / "pipe.jsonl")], how, NOW)) == (0, 2, 0, 0)
    assert [row[0] for row in samples(engine)] == ["pipe:1", "pipe:2"]


def test_import_progress_reports_file_bytes_and_total_rows(engine: sa.Engine, tmp_path: Path) -> None:
    files = [usage(tmp_path, *(line(n) for n in range(25))), usage(tmp_path, line(30), "x")]
    seen: list[tuple[str, int, int]] = []
    import_samples(engine, files, options(), NOW, lambda *progress: seen.append(progress))
    assert [(file, rows) for file, _, rows in seen] == [(files[0], 10), (files[0], 20), (files[0], 25), (files[1], 27)]
    assert [seen[2][1], seen[3][1]] == [Path(file).stat().st_size for file in files]


@pytest.mark.data
@pytest.mark.skipif(not GENTD26.exists(), reason="needs the real usage data beside the project (../shared/data)")
def test_import_of_gentd26_matches_known_totals(engine: sa.Engine) -> None:
    how = ImportOptions(
        columns={"org_id": "groupId", "sandbox_id": "groupId", "interval_s": "exec_time_seconds", "ts": "gmt_create"},
        constants={"cell_id": "c1", "memory_mb": "1024"},
        id_from_line=True,
    )
    assert counts(import_samples(engine, [str(GENTD26)], how, NOW)) == (26_823, 0, 0, 0)
    total = sa.select(sa.func.sum(usage_samples.c.interval_s), sa.func.count(usage_samples.c.org_id.distinct()))
    assert read(engine, lambda connection: tuple(connection.execute(total).one())) == (768_899, 4_247)
    assert counts(import_samples(engine, [str(GENTD26)], how, NOW)) == (0, 26_823, 0, 0)
