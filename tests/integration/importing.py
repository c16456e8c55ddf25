"""What the tests of the import share: rows, files of them, and what is in the database afterwards."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from drawdown.schema.database import read
from drawdown.schema.tables.usage import sample_conflicts, usage_samples
from drawdown.worker.sources.samples.importer import ImportReport
from drawdown.worker.sources.samples.rows import FIELDS, ImportOptions

NOW = 1_733_700_000_000
HEADER = ",".join(FIELDS)


def line(number: int, **changes: object) -> str:
    values = {"id": f"s{number}", "org_id": "acme", "sandbox_id": "sb1", "cell_id": "c1", "memory_mb": 1024}
    return ",".join(
        str((values | {"cpu_count": 2, "interval_s": 60, "ts": 1731689870000} | changes)[f]) for f in FIELDS
    )


def options(**changes: Any) -> ImportOptions:
    return ImportOptions(**{"time_format": "ms", "chunk_rows": 10, **changes})


_names = count()


def usage(folder: Path, *lines: str) -> str:
    """A CSV file of these lines under a header."""
    path = folder / f"usage{next(_names)}.csv"
    path.write_text("\n".join((HEADER, *lines)) + "\n")
    return str(path)


def samples(engine: sa.Engine) -> list[tuple[Any, ...]]:
    columns = [usage_samples.c[name] for name in FIELDS]
    query = sa.select(*columns).order_by(usage_samples.c.id)
    return read(engine, lambda connection: [tuple(row) for row in connection.execute(query)])


def quarantine(engine: sa.Engine) -> list[tuple[Any, ...]]:
    c = sample_conflicts.c
    query = sa.select(c.sample_id, c.source, c.content, c.seen_ms).order_by(c.conflict_id)
    return read(engine, lambda connection: [tuple(row) for row in connection.execute(query)])


def counts(report: ImportReport) -> tuple[int, int, int, int]:
    assert report.read == report.inserted + report.already_there + report.rejected + report.conflicts
    return report.inserted, report.already_there, report.rejected, report.conflicts
