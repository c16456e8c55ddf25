"""Properties of the import: any valid samples come out as they went in, and any bytes are accounted for."""

from __future__ import annotations

import csv
import io
import json
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drawdown.schema.database import read
from drawdown.schema.tables.usage import usage_samples
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS, MAX_INTERVAL_S, MAX_MEMORY_MB
from drawdown.worker.sources.samples.importer import import_samples
from drawdown.worker.sources.samples.rows import FIELDS
from tests.integration.importing import HEADER, NOW, counts, line, options, samples

NO_IDS = "\ufffd\ufffe\uffff"
IDS = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=NO_IDS), min_size=1, max_size=40)
CPUS = st.none() | st.decimals(0, 100_000, places=3)
ROWS = st.tuples(
    IDS, IDS, IDS, IDS, st.integers(0, MAX_MEMORY_MB), CPUS, st.integers(0, MAX_INTERVAL_S),
    st.integers(EARLIEST_TS, NOW + FUTURE_SLACK_MS),
)  # fmt: skip
_round = count()


def _csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, default=str) + "\n" for row in rows)


@pytest.mark.both_databases
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(ROWS, min_size=1, max_size=12, unique_by=lambda row: row[0]), st.booleans())
def test_import_of_random_valid_samples_stores_equal_rows(
    engine: sa.Engine, rows: list[tuple[Any, ...]], as_csv: bool
) -> None:
    mark = f"{next(_round)}/"  # samples are never deleted, so each example has ids of its own
    mine = [(mark + row[0], *row[1:]) for row in rows]
    named = [dict(zip(FIELDS, row, strict=True)) for row in mine]
    data = (_csv if as_csv else _jsonl)(named).encode()
    how = options(format="csv" if as_csv else "jsonl", chunk_rows=5)
    assert counts(import_samples(engine, ["-"], how, NOW, stdin=io.BytesIO(data))) == (len(rows), 0, 0, 0)
    assert [row for row in samples(engine) if row[0].startswith(mark)] == sorted(mine)
    assert counts(import_samples(engine, ["-"], how, NOW, stdin=io.BytesIO(data))) == (0, len(rows), 0, 0)
    bad = sa.select(sa.func.count()).where(usage_samples.c.problem.is_not(None))
    assert read(engine, lambda connection: connection.execute(bad).scalar_one()) == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=200), st.sampled_from(["csv", "jsonl"]))
def test_import_of_random_bytes_keeps_valid_sample(engine: sa.Engine, garbage: bytes, kind: str) -> None:
    good = line(1) if kind == "csv" else json.dumps(dict(zip(FIELDS, line(1).split(","), strict=True)))
    data = (f"{HEADER}\n" if kind == "csv" else "").encode() + good.encode() + b"\n" + garbage
    report = import_samples(engine, ["-"], options(format=kind), NOW, stdin=io.BytesIO(data))
    inserted, already_there, rejected, _ = counts(report)
    assert inserted + already_there >= 1
    assert rejected == sum(report.reasons.values())
